"""TLS and SASL with the real broker: who gets in, what is said when not, and that a secret is nowhere but in its file."""
import base64
import contextlib
import json
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
import broker        # noqa: E402
import certificates  # noqa: E402
import machine       # noqa: E402
import postgres      # noqa: E402
import segment       # noqa: E402
import tap           # noqa: E402

MODULE = 'org.apache.kafka.common.security'
SCRAM = 'SCRAM-SHA-256', 'SCRAM-SHA-512'
# what must not be found anywhere; each is long enough not to be there by chance
PLAIN_PASSWORD, SCRAM_PASSWORD, NEXT_PASSWORD, WRONG_PASSWORD, KEY_PASSWORD = PLANTED = [
    f'planted-{what}-Zq7#=x {what}' for what in ('plain', 'scram', 'next', 'wrong', 'key')]
BUSY = 0.25     # of a processor: a worker that gets no answer may not need so much


class World:
    """One server and one broker with a listener for each way in; each check has its own topic and source."""

    def __init__(self):
        self.directory = machine.fresh_directory('security')
        # all that is logged, so that it can be searched
        self.server = postgres.Server(postgres.installation(), self.directory, log_min_messages='debug5', log_statement='all')
        self.authority = certificates.Authority(self.server.data + '.cdp_certificates')
        self.listeners = {
            'mutual': self.listener('mutual', 'SSL', ssl__client__auth='required'),
            'expired': self.listener('expired', 'SSL', {'expired': True}),
            'elsewhere': self.listener('elsewhere', 'SSL', {'host': 'kafka.example.com'}),
            'far': self.listener('far', 'SSL', wired=True),
            'plain': broker.Listener('plain', 'SASL_PLAINTEXT', sasl__enabled__mechanisms='PLAIN', plain__sasl__jaas__config=(
                f'{MODULE}.plain.PlainLoginModule required user_cdp="{PLAIN_PASSWORD}";')),
            'scram': self.listener('scram', 'SASL_SSL', sasl__enabled__mechanisms=','.join(SCRAM), **{
                name.lower().replace('-', '___') + '__sasl__jaas__config': f'{MODULE}.scram.ScramLoginModule required;'
                for name in SCRAM})}
        self.kafka = broker.Kafka(self.directory, self.listeners.values(),
                                  [broker.scram_user(name, 'cdp', SCRAM_PASSWORD) for name in SCRAM])
        self.secrets_path = self.server.data + '.cdp_secrets'
        self.secrets = {}
        self.sent = {}
        self.server.start()
        self.server.create_database()
        self.kafka.start()

    def listener(self, name, protocol, certificate=None, **settings):
        """A listener that shows a certificate of our authority."""
        return broker.Listener(name, protocol, ssl__keystore__type='PEM', ssl__truststore__type='PEM',
                               ssl__keystore__location=self.authority.keystore(name, **(certificate or {})),
                               ssl__truststore__location=self.authority.certificate, **settings)

    def client(self, listener, mechanism=None, **options):
        """Options of librdkafka that fit a listener."""
        protocol = self.listeners[listener].protocol.lower()
        client = {'security.protocol': protocol, **{key.replace('__', '.'): value for key, value in options.items()}}
        if protocol.endswith('ssl'):
            client.setdefault('ssl.ca.location', self.authority.certificate)
        if mechanism:
            client.update({'sasl.mechanism': mechanism, 'sasl.username': 'cdp'})
        return client

    def source(self, name, listener, client, **options):
        """A topic with one message, and the source of it."""
        self.kafka.create_topic(name, 1)
        self.send(name)
        self.server.rows('SELECT cdp.create_source(%s, %s, %s, options => %s)', name, self.listeners[listener].address, [name],
                         json.dumps({'client': client, **options}))

    def send(self, name):
        """One more message, past all security."""
        self.sent[name] = self.sent.get(name, 0) + 1
        producer = self.kafka.producer()
        producer.send(name, segment.encode(segment.track(f'{name}-{self.sent[name]}', userId='u-' + name)))
        producer.flush()

    def write_secrets(self, content=None, mode=0o600):
        """Put another secrets file in the place of the one that is there, at once."""
        if content is None:
            content = '# the passwords of this test\n\n' + ''.join(f'{key} = {value}\n' for key, value in self.secrets.items())
        path = self.secrets_path + '.new'
        with open(path, 'w', encoding='utf-8') as f:
            f.write(content)
        machine.give_to_server(path)
        os.chmod(path, mode)
        os.rename(path, self.secrets_path)

    def add_secret(self, name, listener, option, value):
        """A secret for the brokers of a listener."""
        self.secrets[name + '.brokers'] = 'elsewhere:9092, ' + self.listeners[listener].address
        self.secrets[f'{name}.{option}'] = value

    def status(self, name, column):
        """A column of the source's only row."""
        return self.server.value(f'SELECT {column} FROM cdp.source_status WHERE source = %s', name)

    def fails(self, name, what, *words):
        """The status says these words about a source."""
        text = tap.wait_for(lambda: self.status(name, 'last_error') or '', f'{what}: {words}',
                            good=lambda text: all(word in text for word in words))
        tap.ok(True, what)
        return text

    def look(self, name):
        """Have the worker look around now; else it does so every 5 s."""
        self.server.value("SELECT cdp.wait_for_source(%s, '10 s')", name)

    def stored(self, name, what):
        """All that was sent is there."""
        tap.wait_for(lambda: self.server.value('SELECT count(*) FROM cdp.event WHERE source = %s', name), what,
                     good=lambda n: n == self.sent[name])
        tap.ok(True, what)


def processor_seconds(pid):
    """What a process has used."""
    with open(f'/proc/{pid}/stat', encoding='utf-8', errors='replace') as f:
        fields = f.read().rsplit(')', 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


# ---------------------------------------------------------------- getting in

def missing_secret(world):
    """A password that is needed and not there: the error names the file and the line; then it is there."""
    world.source('scram', 'scram', world.client('scram', 'SCRAM-SHA-512'))
    world.fails('scram', 'a missing secrets file is named, with the key', f'no "scram.sasl.password" in secrets file "{world.secrets_path}", which does not exist')
    world.add_secret('other', 'scram', 'sasl.password', WRONG_PASSWORD)
    world.write_secrets()
    tap.wait_for(lambda: world.status('scram', 'last_error'), 'so is a file without the line', good=lambda text: text.endswith(
        f'no "scram.sasl.password" in secrets file "{world.secrets_path}"'))
    world.add_secret('scram', 'scram', 'sasl.password', SCRAM_PASSWORD)
    world.write_secrets()
    world.stored('scram', 'SCRAM-SHA-512 over TLS, once the line is there')


def ways_in(world):
    """Every protocol and mechanism, and what the status calls it."""
    key, certificate = world.authority.issue('worker', password=KEY_PASSWORD)
    machine.give_to_server(key)
    world.add_secret('mutual', 'mutual', 'ssl.key.password', KEY_PASSWORD)
    world.add_secret('plain', 'plain', 'sasl.password', PLAIN_PASSWORD)
    world.write_secrets()
    world.source('mutual', 'mutual', world.client('mutual', ssl__key__location=key, ssl__certificate__location=certificate))
    world.source('plain', 'plain', world.client('plain', 'PLAIN'))
    world.source('shared', 'scram', world.client('scram', 'SCRAM-SHA-512'), secret='scram')
    world.kafka.create_topic('open', 1)
    world.send('open')
    world.server.rows("SELECT cdp.create_source('open', %s, '{open}')", world.kafka.address)
    world.stored('open', 'plaintext needs no setting')
    world.stored('mutual', 'TLS with a client certificate, whose key has a password')
    world.stored('plain', 'PLAIN')
    world.stored('shared', 'the secret of another name')
    tap.same(dict(world.server.rows('SELECT source, security FROM cdp.source_status')),
             {'open': 'plaintext', 'mutual': 'ssl', 'plain': 'sasl_plaintext', 'scram': 'sasl_ssl', 'shared': 'sasl_ssl'},
             'the status says how brokers are reached')


def begin_trouble(world):
    """Sources that do not get in."""
    world.add_secret('wrong', 'scram', 'sasl.password', WRONG_PASSWORD)
    world.add_secret('mistaken', 'plain', 'sasl.password', WRONG_PASSWORD)
    world.write_secrets()
    world.source('wrong', 'scram', world.client('scram', 'SCRAM-SHA-256'))
    world.source('mistaken', 'plain', world.client('plain', 'PLAIN'))
    world.source('expired', 'expired', world.client('expired'))
    world.source('elsewhere', 'elsewhere', world.client('elsewhere'))
    world.other = certificates.Authority(world.authority.path('other'))
    world.source('unknown', 'scram', world.client('scram', 'SCRAM-SHA-512', ssl__ca__location=world.other.certificate), secret='scram')
    world.source('absent', 'expired', world.client('expired', ssl__ca__location=world.authority.path('absent.pem')))
    world.source('stranger', 'plain', world.client('plain', 'PLAIN'), secret='scram')
    world.source('locked', 'mutual', world.client('mutual', ssl__key__location=world.authority.path('worker.key'),
                                                  ssl__certificate__location=world.authority.path('worker.pem')))
    world.fails('wrong', 'a wrong SCRAM password is said', 'localhost:', 'SASL authentication error', 'invalid credentials')
    world.fails('mistaken', 'a wrong PLAIN password is said', 'localhost:', 'SASL authentication error', 'Invalid username or password')
    world.fails('expired', 'an expired certificate is said', 'localhost:', "the broker's certificate has expired")
    world.fails('elsewhere', 'a certificate of another host is said', 'localhost:', "the broker's certificate is for another host")
    world.fails('unknown', 'a certificate of an unknown authority is said', "the broker's certificate is of an unknown authority")
    world.fails('absent', 'a file that is not there is said', f'could not read the file "{world.authority.path("absent.pem")}" of option "ssl.ca.location": No such file or directory')
    world.fails('stranger', 'a secret is for its brokers only', f'"scram.brokers" in secrets file "{world.secrets_path}" does not name "{world.listeners["plain"].address}"')
    world.fails('locked', 'a key that needs a password is said, with the key of the file', 'ssl.key.location', f'if the key has a password: no "locked.ssl.key.password" in secrets file "{world.secrets_path}"')


# ---------------------------------------------------------------- the files change

def bad_files(world):
    """While the file is bad, who is connected stays so, with a warning, and nobody else gets in."""
    whole = open(world.secrets_path, encoding='utf-8').read()
    bad = (('readable by others', whole, 0o644, 'is not private'), ('truncated', whole[:-9], 0o600, 'has no end'),
           ('malformed', whole + 'scram.sasl.pass = no\n', 0o600, 'is not "name.option = value"'),
           ('given twice', whole + f'scram.sasl.password = {SCRAM_PASSWORD}\n', 0o600, 'a second time'))
    for what, content, mode, words in bad:
        world.write_secrets(content, mode)
        world.look('scram')
        world.fails('scram', f'{what}: said by who is connected', words, world.secrets_path)
        world.server.rows("SELECT cdp.pause_source('stranger')")
        world.server.rows("SELECT cdp.resume_source('stranger')")
        world.fails('stranger', f'{what}: refused for who starts', words)
        world.send('scram')
        world.stored('scram', f'{what}: who is connected goes on')
    os.unlink(world.secrets_path)
    world.look('scram')
    world.fails('scram', 'gone: said', 'no "scram.sasl.password"', 'does not exist')
    world.send('scram')
    world.stored('scram', 'gone: who is connected goes on')
    world.write_secrets()
    world.look('scram')


def bad_settings(world):
    """A reload with values that are not valid keeps the old ones and says so; a file elsewhere that is not there changes nothing either."""
    path = os.path.join(world.server.data, 'postgresql.conf')
    with open(path, encoding='utf-8') as f:
        before = f.read()
    world.server.configure(cdp__parked_limit='-1', cdp__clock='soon', cdp__batch_rows='many', cdp__secrets_file='/nowhere/secrets')
    world.server.rows('SELECT pg_reload_conf()')
    tap.wait_for(lambda: world.server.value("SELECT current_setting('cdp.secrets_file')"), 'the reload', good=bool)
    world.look('scram')
    world.fails('scram', 'a path without a file is said', 'secrets file "/nowhere/secrets", which does not exist')
    tap.same([world.server.value(f"SELECT current_setting('cdp.{name}')") for name in ('parked_limit', 'clock', 'batch_rows')],
             ['1GB', '', '20000'], 'values that are not valid leave the old ones')
    with open(world.server.log, encoding='utf-8', errors='replace') as f:
        log = f.read()
    tap.same([name for name in ('parked_limit', 'clock', 'batch_rows') if f'"cdp.{name}"' not in log], [], 'and are in the log')
    world.send('scram')
    world.stored('scram', 'the source goes on')
    with open(path, 'w', encoding='utf-8') as f:
        f.write(before)
    world.server.rows('SELECT pg_reload_conf()')
    tap.wait_for(lambda: world.server.value("SELECT current_setting('cdp.secrets_file')"), 'the setting is back', good=lambda s: s == '')


def bad_network(world):
    """A source behind a wire that loses a third of what is sent; then its connections die, and neither end is told."""
    line = world.listeners['far'].wire
    line.loss = 0.3
    world.source('far', 'far', world.client('far'))
    world.stored('far', 'packets are lost')
    line.loss = 0.0
    line.cut_silently()
    world.send('far')


def mend(world):
    """Passwords and certificates are put right; whoever waited gets in by himself, and a password changes without a restart."""
    in_place = 'scram', 'wrong', 'mistaken', 'unknown', 'expired', 'elsewhere', 'far'
    before = {name: world.status(name, 'worker_pid') for name in in_place}
    world.kafka.set_password('cdp', NEXT_PASSWORD, 'SCRAM-SHA-512')
    world.secrets['scram.sasl.password'] = NEXT_PASSWORD
    world.secrets['wrong.sasl.password'] = SCRAM_PASSWORD
    world.secrets['mistaken.sasl.password'] = PLAIN_PASSWORD
    world.add_secret('locked', 'mutual', 'ssl.key.password', KEY_PASSWORD)
    world.write_secrets()
    with open(world.authority.certificate, 'rb') as good, open(world.other.certificate, 'wb') as f:
        f.write(good.read())
    world.stored('wrong', 'SCRAM-SHA-256 with the right password')
    world.stored('mistaken', 'PLAIN with the right password')
    world.stored('unknown', 'the right authority in the same file')
    for name in ('expired', 'elsewhere'):
        world.authority.keystore(name)
    world.kafka.kill()
    world.kafka.start()
    world.stored('expired', 'a certificate that is valid again')
    world.stored('elsewhere', 'a certificate for the right host')
    world.send('scram')
    world.stored('scram', 'another password, without a restart')
    world.stored('far', 'connections that died without a word')
    tap.same({name: world.status(name, 'worker_pid') for name in in_place}, before, 'all that by the same processes')
    world.stored('locked', 'the key with its password')


# ---------------------------------------------------------------- where a secret could be

def every_text(world):
    """Name and text of all that can be read with SQL: settings, views, functions, tables, activity."""
    with world.server.connect() as connection:
        places = ['pg_catalog.' + name for name in ('pg_settings', 'pg_file_settings', 'pg_db_role_setting', 'pg_stat_activity',
                                                    'pg_stats', 'pg_prepared_statements', 'pg_cursors', 'pg_hba_file_rules')]
        places += [f'{schema}."{name}"' for schema, name in connection.execute(
            "SELECT relnamespace::regnamespace::text, relname FROM pg_class WHERE relnamespace IN ('cdp'::regnamespace, 'cdp_data'::regnamespace)"
            " AND relkind IN ('r', 'p', 'v')").fetchall() if name != 'inbox']
        places += ['cdp.source_workers()', 'cdp.source_partitions()', 'cdp.source_errors()', 'cdp.server_status()']
        for place in places:
            yield place, ''.join(row[0] for row in connection.execute(f'SELECT t::text FROM {place} t').fetchall())


def forms(secret):
    """Bytes by which a secret could be recognised."""
    raw = secret.encode()
    yield raw
    yield json.dumps(secret)[1:-1].encode()
    yield raw.hex().encode()
    for shift in range(3):      # in base64 of a longer text, whatever stands before it
        coded = base64.b64encode(b'\0' * shift + raw)
        yield coded[(shift * 8 + 5) // 6:len(coded) - 4]


def found_in(data):
    """Which planted secrets are in some bytes, by number."""
    return [n for n, secret in enumerate(PLANTED) if any(form in data for form in forms(secret))]


def memory_of(pid):
    """All that a process can write, nothing of one that has ended; None where we may not look."""
    try:
        with open(f'/proc/{pid}/maps', encoding='ascii', errors='replace') as maps, open(f'/proc/{pid}/mem', 'rb', 0) as memory:
            parts = []
            for line in maps:
                limits, rights = line.split()[:2]
                if 'rw-p' in rights:
                    begin, end = (int(limit, 16) for limit in limits.split('-'))
                    memory.seek(begin)
                    with contextlib.suppress(OSError):      # a page that libc guards, or the kernel's own
                        parts.append(memory.read(end - begin))
            return b'\0'.join(parts)
    except PermissionError:
        return None
    except OSError:
        return b''


def nowhere(world):
    """A planted secret is in nothing that can be read with SQL, in no file but its own, and in no other process."""
    with world.server.connect() as connection:
        connection.execute("SELECT 'a client that holds nothing'")
        processes = machine.process_children(world.server.process.pid)
        workers = set(world.server.pids('cdp source'))
        memory = {pid: memory_of(pid) for pid in processes}
    if all(data is not None for data in memory.values()):
        memory = {pid: [n for n, secret in enumerate(PLANTED) if secret.encode() in data] for pid, data in memory.items()}
        tap.ok(any(memory[pid] for pid in workers), 'workers have secrets in memory, so the search finds what is there')
        tap.same({pid: found for pid, found in memory.items() if pid not in workers and found}, {}, 'no other process has')
        tap.same(memory[world.status('open', 'worker_pid')], [], 'nor has a worker that needs none')
    else:
        tap.skip('memory of the processes', 'it cannot be read here')
    tap.same([(place, found_in(text.encode())) for place, text in every_text(world) if found_in(text.encode())], [],
             'no setting, view, table, statistic or activity shows a secret')
    world.server.stop()
    hits = []
    for directory, _, names in os.walk(world.server.data):
        for name in names:
            with open(os.path.join(directory, name), 'rb') as f:
                hits += [(os.path.join(directory, name), n) for n in found_in(f.read())]
    with open(world.server.log, 'rb') as f:
        log = f.read()
    tap.same(hits, [], 'no file of the data directory has a secret')
    tap.same(found_in(log), [], 'nor has the log, with all that the server can be made to say')
    tap.ok(b'cdp source' in log and b'DEBUG' in log, 'and the log says much')


def main():
    """All checks over one server and one broker."""
    world = World()
    missing_secret(world)
    ways_in(world)
    bad_network(world)
    begin_trouble(world)
    pids = {name: world.status(name, 'worker_pid') for name in ('wrong', 'mistaken', 'expired', 'elsewhere', 'unknown')}
    before = {name: processor_seconds(pid) for name, pid in pids.items()}
    began = os.times().elapsed
    bad_files(world)
    bad_settings(world)
    elapsed = os.times().elapsed - began
    tap.same({name: used for name, used in ((name, (processor_seconds(pid) - before[name]) / elapsed) for name, pid in pids.items())
              if used > BUSY}, {}, 'who does not get in does not keep a processor busy')
    mend(world)
    nowhere(world)


tap.main(main)
