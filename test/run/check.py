"""Run the test suites against servers of their own, and end with one line 'N passed, N failed'.

usage: check.py [--soak] [--valgrind] [--sanitize] [TEST...]

Builds a copy of the tree with warnings as errors, installs it into a private
copy of PostgreSQL under ${TMPDIR:-/tmp}, starts a server and a broker on free
loopback ports, and runs:

  unit        test/unit/*/run        C against its oracle (TAP)
  regress     sql/, expected/        behaviour and messages (pg_regress)
  pgtap       test/pgtap/*.sql       schema, privileges, policies
  isolation   test/isolation/        races (pg_isolation_regress)
  oracle      test/tools/...         random messages, scenarios, drivers against models in Python
  tap         test/t/*.py            broker, crash, restore: programs with servers of their own (TAP)
  soak        test/soak/*.py         only with --soak: what shows itself in the course of time (TAP)

TEST is a suite or one test of it (its file's name without the ending);
without it everything runs.  --soak makes the long programs longer (they read
CDP_SOAK), --valgrind runs the server of regress, pgtap and isolation under
valgrind, --sanitize builds C so that undefined behaviour ends the process that
shows it.  With CDP_KEEP set the directory with all logs stays.
"""
import argparse
import glob
import os
import re
import shlex
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), '..', 'lib'))
import broker    # noqa: E402
import machine   # noqa: E402
import postgres  # noqa: E402

PROGRAM_SECONDS = 1500          # one program of a suite; the whole of make check has 30 minutes
SOAK_SECONDS = 6 * 3600
ORACLE_RUNS = 200
SOAK_ORACLE_RUNS = 2000
FAILURE_LINES = 8               # of each failure in the last summary
LINE_LENGTH = 300
SANITIZER = '-fsanitize=undefined -fno-sanitize-recover=all'
OUR_FRAME = re.compile(r'/cdp(_kafka)?\.so\)| cdp_')


class Suite:
    """The results of one kind of test."""

    def __init__(self, name, check):
        self.name = name
        self.check = check
        self.passed = 0
        self.failed = 0
        self.since = time.monotonic()

    def count(self, passed, failed, name, output=''):
        """Add the results of one program, and print what it said if something failed."""
        self.passed += passed
        self.failed += failed
        now = time.monotonic()
        seconds, self.since = now - self.since, now
        if failed:
            print(f'--- {self.name}/{name}: {passed} passed, {failed} failed\n{output}', flush=True)
            self.check.failures.append(f'{self.name}/{name}: {passed} passed, {failed} failed\n' + failed_lines(output))
        else:
            print(f'    {self.name}/{name}: {passed} passed, {seconds:.0f} s', flush=True)


class Check:
    """What the suites share: the installation, one server, one broker, the choice of tests."""

    def __init__(self, arguments):
        self.chosen = arguments.tests
        self.valgrind = arguments.valgrind
        self.soak = arguments.soak
        self.directory = machine.fresh_directory('check')
        self.sanitize = arguments.sanitize
        self.inst = postgres.install(self.directory, 'WERROR=1', *(['OPTFLAGS=-O1 ' + SANITIZER] if self.sanitize else []))
        self.source = os.path.join(self.directory, 'source')
        self.shared_server = None
        self.shared_broker = None
        self.failures = []

    def wanted(self, suite, name):
        """True when the test was chosen, or its suite, or everything."""
        return not self.chosen or suite in self.chosen or name in self.chosen

    def server(self):
        """The server that suites share which harm it not; its workers run only where a test turns them on."""
        if not self.shared_server:
            directory = os.path.join(self.directory, 'pg')
            os.mkdir(directory)
            machine.give_to_server(directory)
            self.shared_server = postgres.Server(self.inst, directory)
            if self.valgrind:
                self.shared_server.wrapper = valgrind_command(self.directory)
            self.shared_server.start()
        return self.shared_server

    def kafka(self):
        """The broker that suites share."""
        if not self.shared_broker:
            self.shared_broker = broker.Kafka(self.directory).start()
        return self.shared_broker

    def run(self, command, environment, **arguments):
        """Run a program of the copied tree; return its status and output."""
        try:
            done = subprocess.run(command, cwd=self.source, env=environment, stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors='replace',
                                  timeout=SOAK_SECONDS if self.soak else PROGRAM_SECONDS, **arguments)
            return done.returncode, done.stdout
        except subprocess.TimeoutExpired as e:
            return 124, (e.stdout or b'').decode(errors='replace') + f'\nstopped after {e.timeout} s'

    def environment(self):
        """What programs learn about the installation."""
        environment = {**os.environ, 'CDP_TEST_PG_CONFIG': self.inst.pg_config, 'PG_CONFIG': self.inst.pg_config}
        if self.soak:
            environment['CDP_SOAK'] = '1'
        if self.sanitize:
            environment['CDP_UNIT_FLAGS'] = SANITIZER
        return environment


def valgrind_command(directory):
    """Prefix that runs the postmaster and its children under valgrind."""
    return ['valgrind', '--quiet', '--trace-children=yes', '--leak-check=no', '--num-callers=30',
            '--log-file=' + os.path.join(directory, 'pg', 'valgrind-%p.log')]


def failed_lines(output):
    """What failed in a program's output, with what it says of each; else its end."""
    kept, left = [], 0
    for line in output.splitlines():
        if re.match(r'not ok\b|NOT OK\b|.*\.\.\. FAILED', line):
            left = FAILURE_LINES
        elif re.match(r'ok\b', line):
            left = 0
        if left > 0:
            kept.append(line)
            left -= 1
    return '\n'.join('    ' + line[:LINE_LENGTH] for line in kept or output.splitlines()[-FAILURE_LINES:])


def tap_counts(output, status):
    """Passed and failed checks of a TAP program; one that ends badly without saying so has failed once."""
    passed = len(re.findall(r'^ok\b', output, re.M))
    failed = len(re.findall(r'^not ok\b', output, re.M))
    plan = re.search(r'^1\.\.(\d+)', output, re.M)
    if not failed and (status or not plan or int(plan.group(1)) != passed):
        failed = 1
    return passed, failed


def line_counts(output, status):
    """The last 'N passed, N failed' of a program, else one for its exit status."""
    found = re.findall(r'(\d+) passed, (\d+) failed', output)
    if not found:
        return tap_counts(output, status) if re.search(r'^1\.\.\d+', output, re.M) else (int(status == 0), int(status != 0))
    passed, failed = map(int, found[-1])
    return passed, failed or int(status != 0)


def names_of(pattern):
    """Name and path of the files of a suite."""
    return [(os.path.splitext(os.path.basename(path))[0], path) for path in sorted(glob.glob(pattern))]


def unit(suite):
    """Programs that test C without a server of ours: each directory of test/unit has a script `run`."""
    for path in sorted(glob.glob(os.path.join(suite.check.source, 'test/unit/*/run'))):
        name = os.path.basename(os.path.dirname(path))
        if suite.check.wanted('unit', name):
            status, output = suite.check.run([path], suite.check.environment())
            suite.count(*line_counts(output, status), name, output)


def regression_driver(suite, driver, folder, names, dbname, setup):
    """pg_regress and pg_isolation_regress against the shared server; diffs are printed whole."""
    check = suite.check
    server = check.server()
    server.create_database(dbname, setup)
    # test scripts start workers where they need them
    server.rows(f'ALTER DATABASE {dbname} SET cdp.workers = off', dbname='postgres')
    output_directory = os.path.join(check.directory, suite.name)
    os.makedirs(output_directory)
    status, output = check.run([check.inst.pgxs(driver), '--use-existing', '--inputdir=' + folder, '--bindir=' + check.inst.bindir,
                                '--outputdir=' + output_directory, '--host=' + server.socket,
                                f'--port={server.port}', '--user=postgres', '--dbname=' + dbname, *names],
                               check.environment())
    diffs = os.path.join(output_directory, 'regression.diffs')
    if os.path.exists(diffs):
        with open(diffs, encoding='utf-8', errors='replace') as f:
            output += f.read()
    # TAP from 16 on
    passed = len(re.findall(r'^ok \d+\b|\.\.\. ok +\d+ ms', output, re.M))
    suite.count(passed, max(len(names) - passed, int(status != 0)), ', '.join(names), output)


def regress(suite):
    """sql/NAME.sql against expected/NAME.out, in one database; install always goes first."""
    names = [name for name, _ in names_of(suite.check.source + '/sql/*.sql') if suite.check.wanted('regress', name)]
    if names:
        names = ['install'] + [name for name in names if name != 'install']
        regression_driver(suite, 'src/test/regress/pg_regress', suite.check.source, names, 'cdp_regress',
                          setup=False)


def isolation(suite):
    """test/isolation/specs/NAME.spec against expected/NAME.out."""
    folder = suite.check.source + '/test/isolation'
    names = [name for name, _ in names_of(folder + '/specs/*.spec') if suite.check.wanted('isolation', name)]
    if names:
        regression_driver(suite, 'src/test/isolation/pg_isolation_regress', folder, names, 'cdp_isolation', setup=True)


def pgtap(suite):
    """test/pgtap/NAME.sql, each in a database of its own with pgtap and cdp."""
    for name, path in names_of(suite.check.source + '/test/pgtap/*.sql'):
        if not suite.check.wanted('pgtap', name):
            continue
        server = suite.check.server()
        dbname = f'cdp_pgtap_{name}'
        server.create_database(dbname)
        server.rows('CREATE EXTENSION IF NOT EXISTS pgtap WITH SCHEMA public', dbname=dbname)
        done = server.psql('-Atq', '-P', 'pager=off', '-f', path, dbname=dbname)
        suite.count(*tap_counts(done.stdout, done.returncode), name, done.stdout)


def oracle_commands(check):
    """The programs of test/tools that judge the extension, with their arguments."""
    data = os.path.join(check.source, 'test', 'data', 'identity')
    scenarios = [os.path.join(data, name) for name in ('scenarios_dev.json', 'scenarios_random.json')]
    runs = SOAK_ORACLE_RUNS if check.soak else ORACLE_RUNS
    return {'identity_scenarios': scenarios,
            'identity_permutations': ['--permutations', *scenarios],
            'oracle': ['--runs', str(runs), '--broker', '{broker}'],
            'drivers': []}


def oracle(suite):
    """Independent models in Python over the public surface; each makes a database of its own."""
    check = suite.check
    for name, arguments in oracle_commands(check).items():
        program = os.path.join(check.source, 'test', 'tools', name.replace('permutations', 'scenarios'))
        if not check.wanted('oracle', name) or not os.path.exists(program):
            continue
        if '{broker}' in arguments:
            arguments = [a.format(broker=check.kafka().address) for a in arguments]
        environment = {**check.environment(), **check.server().environment('postgres')}
        status, output = check.run([program, *arguments], environment)
        suite.count(*line_counts(output, status), name, output)


def programs(suite, folder):
    """Programs that start, kill and restore servers of their own."""
    for name, path in names_of(f'{suite.check.source}/test/{folder}/*.py'):
        if suite.check.wanted(suite.name, name):
            status, output = suite.check.run(['/usr/bin/python3', path], suite.check.environment())
            suite.count(*tap_counts(output, status), name, output)


def tap(suite):
    """Programs of test/t."""
    programs(suite, 't')


def soak(suite):
    """Programs of test/soak."""
    programs(suite, 'soak')


def valgrind_findings(check):
    """What valgrind found where our libraries are on the stack; the server writes padding, which is its own affair."""
    found = []
    for path in glob.glob(os.path.join(check.directory, 'pg', 'valgrind-*.log')):
        with open(path, encoding='utf-8', errors='replace') as f:
            blocks = re.split(r'^==\d+== \n', f.read(), flags=re.M)
        found += [block for block in blocks if OUR_FRAME.search(block) and not re.search('Syscall param p?write', block)]
    return found


def run_suites(check):
    """Run what was chosen; return passed and failed of all."""
    suites = (regress, pgtap, isolation) if check.valgrind else (unit, regress, pgtap, isolation, oracle, tap)
    suites += (soak,) if check.soak else ()
    passed = failed = 0
    times = []
    for function in suites:
        suite = Suite(function.__name__, check)
        began = time.monotonic()
        try:
            function(suite)
        except Exception as e:
            suite.count(0, 1, 'suite', repr(e))
        seconds = time.monotonic() - began
        passed += suite.passed
        failed += suite.failed
        if suite.passed or suite.failed:
            times.append(f'{suite.name:10} {suite.passed:6} passed {suite.failed:4} failed {seconds:7.1f} s')
    if check.valgrind and check.shared_server:
        check.shared_server.stop()
        for text in valgrind_findings(check):
            print(text)
            failed += 1
    print('\n'.join(times))
    return passed, failed


def show_server_log(check, failed):
    """After a failure the server's last words are part of the report."""
    if failed and check.shared_server and os.path.exists(check.shared_server.log):
        with open(check.shared_server.log, encoding='utf-8', errors='replace') as f:
            lines = f.readlines()
        crashes = [line for n, line in enumerate(lines) if 'terminated by signal' in ''.join(lines[max(0, n - 1):n + 1])]
        print('--- crashes and end of the shared server\'s log\n' + ''.join(crashes + lines[-60:]))


def show_failures(check):
    """What failed, once more: who sees only the end of the output sees it, too."""
    if check.failures:
        print('--- failed\n' + '\n'.join(check.failures))


def main():
    """Parse the arguments, run, print the one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--soak', action='store_true')
    parser.add_argument('--valgrind', action='store_true')
    parser.add_argument('--sanitize', action='store_true')
    parser.add_argument('tests', metavar='TEST', nargs='*')
    arguments = parser.parse_args()
    began = time.monotonic()
    try:
        check = Check(arguments)
        print(f'{"build":10} {time.monotonic() - began:.1f} s', flush=True)
        passed, failed = run_suites(check)
        show_server_log(check, failed)
        show_failures(check)
    except Exception as e:
        print(e)
        passed, failed = 0, 1
    if not passed and not failed:
        print('no such test: ' + shlex.join(arguments.tests))
        failed = 1
    print(f'{time.monotonic() - began:.0f} s in all')
    print(f'{passed} passed, {failed} failed', flush=True)
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
