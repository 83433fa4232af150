"""Certificates for tests, made by openssl when they are needed."""
import os

import machine

CONFIG = '''[ca]
default_ca = own
[own]
database = {directory}/index
new_certs_dir = {directory}
certificate = {directory}/ca.pem
private_key = {directory}/ca.key
rand_serial = yes
default_md = sha256
policy = any
copy_extensions = copy
unique_subject = no
[any]
commonName = supplied
[req]
distinguished_name = name
[name]
'''
DATES = {False: ('20200101000000Z', '21000101000000Z'), True: ('20200101000000Z', '20200102000000Z')}


class Authority:
    """A certificate authority in a directory; its own certificate is ca.pem there."""

    def __init__(self, directory):
        os.makedirs(directory, exist_ok=True)
        self.directory = directory
        self.certificate = self.path('ca.pem')
        self.config = self.path('openssl.cnf')
        with open(self.config, 'w', encoding='ascii') as f:
            f.write(CONFIG.format(directory=directory))
        with open(self.path('index'), 'w', encoding='ascii'):
            pass
        machine.run(['openssl', 'req', '-x509', '-config', self.config, '-newkey', 'rsa:2048', '-nodes', '-days', '3650', '-subj', '/CN=test CA',
                     '-addext', 'basicConstraints=critical,CA:true', '-keyout', self.path('ca.key'), '-out', self.certificate])

    def path(self, name):
        """A file of the authority's directory."""
        return os.path.join(self.directory, name)

    def issue(self, name, host='localhost', expired=False, password=None):
        """A key and a certificate for a host: paths of NAME.key and NAME.pem."""
        key, request, certificate = self.path(name + '.key'), self.path(name + '.csr'), self.path(name + '.pem')
        protection = ['-passout', 'pass:' + password] if password else ['-nodes']
        machine.run(['openssl', 'req', '-config', self.config, '-newkey', 'rsa:2048', *protection, '-subj', '/CN=' + host,
                     '-addext', 'subjectAltName=DNS:' + host, '-keyout', key, '-out', request])
        start, end = DATES[expired]
        machine.run(['openssl', 'ca', '-batch', '-notext', '-config', self.config, '-startdate', start, '-enddate', end,
                     '-in', request, '-out', certificate])
        return key, certificate

    def keystore(self, name, **arguments):
        """The same as one file of both, as a broker takes it."""
        path = self.path(name + '.keystore.pem')
        with open(path, 'wb') as out:
            for part in self.issue(name, **arguments):
                with open(part, 'rb') as f:
                    out.write(f.read())
        return path
