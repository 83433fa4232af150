"""Build cdp and run its suites on other versions of PostgreSQL, and end with one line 'N passed, N failed, N skipped'.

usage: versions.py [VERSION...]

  17, 18   Debian's, in a chroot of its release that debootstrap makes from the
           machine's own mirror; also pg_upgrade to it from Debian 12's 15
  16       no Debian release has it: the programs of a package of PyPI

Roots and packages stay in ${XDG_CACHE_HOME:-~/.cache}/cdp; remove debian-* there
for newer ones.  A version that cannot be had is skipped, and the reason printed.
The machine's own packages and sources stay as they are.
"""
import os
import platform
import re
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
import broker    # noqa: E402
import machine   # noqa: E402

RELEASES = {'17': 'trixie', '18': 'sid'}
OLD_VERSION, OLD_RELEASE = '15', 'bookworm'
WHEEL = 'pgserver==0.1.4'       # PostgreSQL 16.2, whole: pg_config, headers, test drivers
WHEEL_PLATFORM = ['--python-version', '3.12', '--platform', 'manylinux2014_x86_64']

SUITES = ['regress', 'pgtap', 'isolation', 'tap']
PACKAGES = ['gcc', 'make', 'pkg-config', 'librdkafka-dev', 'libsodium-dev', 'libssl-dev', 'python3', 'python3-psycopg',
            'python3-psycopg2', 'python3-confluent-kafka']
TREE = '/mnt'                   # where the tree is seen in a chroot
JAVA = ('/usr/lib/jvm', '/etc/java-17-openjdk')     # the machine's: the broker needs no other


class CannotBeHad(Exception):
    """The version, or what it needs, is not to be had here."""


def had(command, **arguments):
    """Run a command that fetches something; what it says is the reason when it cannot be had."""
    try:
        return machine.run(command, **arguments)
    except (RuntimeError, FileNotFoundError) as e:
        raise CannotBeHad('\n'.join(str(e).splitlines()[-8:])) from e


def mirrors():
    """Where the machine's apt gets its packages from; the main one is among them."""
    listed = had(['apt-get', 'indextargets', '--format', '$(REPO_URI)', 'Created-By: Packages'])
    return list(dict.fromkeys(listed.split()))


def debootstrap(release, path):
    """Make a root of a release; one that was interrupted is not taken for a whole one."""
    reasons = []
    for mirror in mirrors():
        shutil.rmtree(path + '.new', ignore_errors=True)
        try:
            had(['debootstrap', '--variant=minbase', release, path + '.new', mirror])
            os.rename(path + '.new', path)
            return
        except CannotBeHad as e:
            reasons.append(str(e))
    shutil.rmtree(path + '.new', ignore_errors=True)
    raise CannotBeHad('\n'.join(reasons) or 'apt has no mirror')


class Root:
    """A chroot of a Debian release, with what a version of PostgreSQL needs to be built for and tested."""

    def __init__(self, version):
        self.version = version
        self.release = RELEASES[version]
        self.path = os.path.join(machine.CACHE, 'debian-' + self.release)

    def command(self, *arguments):
        """A command in the root; what is mounted for it is seen by it alone, and gone when it ends."""
        # its / has to be a mount point for programs that mount something themselves
        script = ['set -e', f'mount --bind {self.path} {self.path}', f'mount -t proc proc {self.path}/proc', f'mount -t tmpfs tmpfs {self.path}/dev/shm']
        for outer, inner in ((machine.ROOT, TREE), (broker.JARS, '/root/.cache/cdp/' + os.path.basename(broker.JARS)),
                             *((path, path) for path in JAVA if os.path.exists(path))):
            os.makedirs(self.path + inner, exist_ok=True)
            script.append(f'mount --bind {outer} {self.path}{inner}')
        script.append(f'exec chroot {self.path} /usr/bin/env -i HOME=/root LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin'
                      ' DEBIAN_FRONTEND=noninteractive PYTHONDONTWRITEBYTECODE=1 "$@"')
        return ['unshare', '--mount', '/bin/sh', '-c', '\n'.join(script), 'sh', *arguments]

    def write(self, path, text):
        """Write a file in the root."""
        os.makedirs(os.path.dirname(self.path + path), exist_ok=True)
        with open(self.path + path, 'w', encoding='utf-8') as f:
            f.write(text)

    def install(self):
        """Make the root, unless it is there."""
        if os.path.exists(self.path + '/.complete'):
            return
        if not os.path.exists(self.path):
            debootstrap(self.release, self.path)
        self.write('/etc/postgresql-common/createcluster.conf', 'create_main_cluster = false\n')
        with open(self.path + '/etc/apt/sources.list', encoding='utf-8') as f:
            kind, mirror, _, component = f.readline().split()[:4]
        self.write('/etc/apt/sources.list.d/old.list', f'{kind} {mirror} {OLD_RELEASE} {component}\n')
        # packages are fetched in the way in which the machine fetches its own
        settings = re.findall(r'^Acquire::(?:https?::|Check-|Retries).*', had(['apt-config', 'dump']), re.M)
        self.write('/etc/apt/apt.conf.d/90machine', '\n'.join(settings) + '\n')
        had(self.command('apt-get', '-qq', 'update'))
        had(self.command('apt-get', '-qq', '-y', 'install', '--no-install-recommends', *PACKAGES,
                         f'postgresql-{self.version}', f'postgresql-{self.version}-pgtap', f'postgresql-{OLD_VERSION}'))
        # unpacked only: their dependencies are compilers that nothing here uses
        for version in (self.version, OLD_VERSION):
            had(self.command('sh', '-ec', f'cd /tmp; apt-get -qq download postgresql-server-dev-{version};'
                             ' dpkg-deb -x postgresql-server-dev-*.deb /; rm postgresql-server-dev-*.deb'))
        had(self.command('apt-get', 'clean'))
        self.write('/.complete', '')

    def programs(self):
        """What is to be run: name and command."""
        config = f'/usr/lib/postgresql/{self.version}/bin/pg_config'
        old = f'/usr/lib/postgresql/{OLD_VERSION}/bin/pg_config'
        return [('check', self.command('PG_CONFIG=' + config, TREE + '/test/run/check', '--no-prepare', *SUITES), None),
                (f'pg_upgrade from {OLD_VERSION}',
                 self.command('PG_CONFIG=' + config, 'CDP_TEST_OLD_PG_CONFIG=' + old, '/usr/bin/python3',
                              TREE + '/test/versions/pg_upgrade.py'), None)]


class Wheel:
    """PostgreSQL 16 of a Python package, on the machine itself."""

    def __init__(self):
        self.version = '16'
        self.path = os.path.join(machine.CACHE, 'postgresql-16')

    def install(self):
        """Fetch the package, unless it is there."""
        if os.path.exists(self.path):
            return
        if platform.machine() != 'x86_64':
            raise CannotBeHad('no package for ' + platform.machine())
        new = self.path + '.new'
        shutil.rmtree(new, ignore_errors=True)
        had([sys.executable, '-m', 'venv', new + '/venv'])
        had([new + '/venv/bin/pip', 'install', '-q', '--no-deps', '--only-binary=:all:', *WHEEL_PLATFORM, '--target', new + '/lib', WHEEL])
        shutil.rmtree(new + '/venv')
        had(['chmod', '-R', 'a+rX', new])
        os.rename(new, self.path)

    def programs(self):
        """The suites that need no package of the version's own."""
        # the cache may be in a home directory that the server's user must not enter
        here = os.path.join(machine.fresh_directory('postgresql-16'), 'lib')
        shutil.copytree(self.path + '/lib', here)
        environment = {**os.environ, 'PG_CONFIG': here + '/pgserver/pginstall/bin/pg_config',
                       'LD_LIBRARY_PATH': here + '/pgserver.libs'}
        suites = [suite for suite in SUITES if suite != 'pgtap']
        return [('check', [machine.ROOT + '/test/run/check', '--no-prepare', *suites], environment)]


class Total:
    """Sums of all that ran."""

    def __init__(self):
        self.passed = self.failed = self.skipped = 0

    def run(self, title, command, environment):
        """Run one program, showing what it says, and add its counts."""
        lines = []
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, errors='replace', env=environment) as process:
            for line in process.stdout:
                print(f'{title}: {line}', end='', flush=True)
                lines.append(line)
        passed, failed = counts(''.join(lines))
        self.passed += passed
        self.failed += failed or int(process.returncode != 0)

    def version(self, version):
        """All programs of one version."""
        root = Root(version) if version in RELEASES else Wheel()
        try:
            root.install()
        except CannotBeHad as e:
            print(f'PostgreSQL {version} skipped, it cannot be had here:\n{e}')
            self.skipped += 1
            return
        for name, command, environment in root.programs():
            self.run(f'{version} {name}', command, environment)


def counts(output):
    """Passed and failed of a program: its closing line, else its TAP."""
    found = re.findall(r'^(\d+) passed, (\d+) failed', output, re.M)
    if found:
        return map(int, found[-1])
    return len(re.findall(r'^ok\b', output, re.M)), len(re.findall(r'^not ok\b', output, re.M))


def main():
    """Every version that is asked for, one after the other."""
    total = Total()
    os.makedirs(machine.CACHE, exist_ok=True)
    for version in sys.argv[1:] or ['16', *RELEASES]:
        total.version(version)
    print(f'{total.passed} passed, {total.failed} failed, {total.skipped} skipped', flush=True)
    return 1 if total.failed or not total.passed else 0


if __name__ == '__main__':
    sys.exit(main())
