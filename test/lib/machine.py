"""The machine under a test: directories, ports, users, processes.

A program that uses this module leaves nothing behind: every process that it
started with start() is killed, and its fresh directory removed, when it ends,
also by a signal.  A process that outlives even SIGKILL of the program is
prevented by PR_SET_PDEATHSIG.
"""
import atexit
import ctypes
import errno
import glob
import os
import pwd
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile

ROOT = os.path.realpath(os.path.join(os.path.dirname(__file__), '..', '..'))
CACHE = os.path.join(os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache'), 'cdp')
DATA = os.path.join(ROOT, 'test', 'data')

# PostgreSQL refuses to run as root
SERVER_USER = 'postgres' if os.geteuid() == 0 else None

PR_SET_PDEATHSIG = 1
CLONE_NEWNS = 0x20000
MS_REC, MS_PRIVATE = 0x4000, 0x40000
MNT_DETACH = 2
STOP_SECONDS = 20
PORTS = set()                   # that were given out

_libc = ctypes.CDLL(None, use_errno=True)
_processes = []
_directories = []
_outlives = False


def _end_by_signal(signum, _frame):
    sys.exit(128 + signum)


def _die_with_parent():
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def let_outlive():
    """What is started from now on goes on after this program has ended: the servers of the demo."""
    global _outlives
    _outlives = True


def stop_all():
    """End every process that start() began and remove the directories; called at exit."""
    for process in reversed(_processes):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    _processes.clear()
    if os.environ.get('CDP_KEEP'):
        print('# kept: ' + ' '.join(_directories), file=sys.stderr)
        return
    for directory in _directories:
        shutil.rmtree(directory, ignore_errors=True)


def fresh_directory(name):
    """A new directory that the server's user owns; removed at exit unless CDP_KEEP is set."""
    if not _directories:
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(signum, _end_by_signal)
        atexit.register(stop_all)
    directory = tempfile.mkdtemp(prefix=f'cdp-{name}-')
    os.chmod(directory, 0o755)
    give_to_server(directory)
    _directories.append(directory)
    return directory


def give_to_server(path):
    """Let the user that runs the servers own a file or directory."""
    if SERVER_USER:
        shutil.chown(path, SERVER_USER)


def as_server_user():
    """Arguments for subprocess that run a command as the user of the servers."""
    if not SERVER_USER:
        return {}
    account = pwd.getpwnam(SERVER_USER)
    environment = {**os.environ, 'HOME': account.pw_dir, 'USER': SERVER_USER}
    return {'user': account.pw_uid, 'group': account.pw_gid, 'extra_groups': [], 'env': environment}


def start(command, log, **arguments):
    """Start a process of its own group whose output goes to the end of a file."""
    with open(log, 'ab') as out:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                                   start_new_session=True, preexec_fn=None if _outlives else _die_with_parent,
                                   **arguments)
    if not _outlives:
        _processes.append(process)
    return process


def run(command, **arguments):
    """Run a command to its end and return its output; raise with that output when it fails."""
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, errors='replace', **arguments)
    if done.returncode:
        raise RuntimeError(f'{" ".join(command)} ended with {done.returncode}:\n{done.stdout}')
    return done.stdout


def may_mount():
    """Give this program and what it starts mounts of their own, which end with it; False: it may not."""
    return os.geteuid() == 0 and _libc.unshare(CLONE_NEWNS) == 0 and _libc.mount(b'none', b'/', None, MS_REC | MS_PRIVATE, None) == 0


class SmallDisk:
    """A directory that holds little; after may_mount()."""

    def __init__(self, path, megabytes):
        account = pwd.getpwnam(SERVER_USER)
        self.path = path
        os.mkdir(path)
        options = f'size={megabytes}m,mode=0700,uid={account.pw_uid},gid={account.pw_gid}'
        if _libc.mount(b'tmpfs', path.encode(), b'tmpfs', 0, options.encode()) != 0:
            raise OSError(ctypes.get_errno(), f'cannot mount {path}')
        atexit.register(lambda: _libc.umount2(path.encode(), MNT_DETACH))   # before the directories are removed

    def fill(self, leave):
        """Leave no more than so many bytes, also where somebody else writes meanwhile."""
        fd = os.open(os.path.join(self.path, 'filler'), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            while (more := self.free() - leave) > 0:
                try:
                    os.write(fd, bytes(min(1 << 20, more)))
                except OSError as e:
                    if e.errno != errno.ENOSPC:
                        raise
        finally:
            os.close(fd)

    def free(self):
        """Bytes that are left."""
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    def empty(self):
        """Take back what fill() did."""
        os.remove(os.path.join(self.path, 'filler'))


class Clock:
    """Clocks of their own for the processes that are started under its wrapper."""

    def __init__(self, directory):
        library = os.path.join(directory, 'shifted_clock.so')
        run(['cc', '-O2', '-shared', '-fPIC', '-o', library, os.path.join(ROOT, 'test', 'lib', 'shifted_clock.c')])
        self.path = os.path.join(directory, 'clock')
        self.set_by = self.passed = 0
        self._write()
        self.wrapper = ['env', 'LD_PRELOAD=' + library, 'CDP_TEST_CLOCK=' + self.path]

    def shift(self, seconds):
        """Set the wall clock to so many seconds from the real time; clocks that nobody can set go on."""
        self.set_by = seconds
        self._write()

    def let_pass(self, seconds):
        """So much time has passed, by every clock, although nobody waited."""
        self.passed += seconds
        self._write()

    def _write(self):
        with open(self.path, 'r+b' if os.path.exists(self.path) else 'wb') as f:
            f.write(struct.pack('=qq', round(self.set_by * 1000000), round(self.passed * 1000000)))


def free_port():
    """A port of the loopback interface that nobody listens on, another one each time."""
    while True:
        with socket.socket() as s:
            s.bind(('127.0.0.1', 0))
            port = s.getsockname()[1]
        if port not in PORTS:
            PORTS.add(port)
            return port


def process_children(pid):
    """Process ids of the direct children."""
    try:
        with open(f'/proc/{pid}/task/{pid}/children', encoding='ascii') as f:
            return [int(child) for child in f.read().split()]
    except FileNotFoundError:
        return []


def process_title(pid):
    """What ps shows of it; empty when it has ended."""
    try:
        with open(f'/proc/{pid}/cmdline', encoding='utf-8', errors='replace') as f:
            return f.read()
    except (FileNotFoundError, ProcessLookupError):
        return ''


def process_lives(pid):
    """False when the process has ended, a zombie included."""
    try:
        with open(f'/proc/{pid}/stat', encoding='utf-8', errors='replace') as f:
            return f.read().rsplit(')', 1)[1].split()[0] != 'Z'
    except (FileNotFoundError, ProcessLookupError):
        return False


def anonymous_memory(pid):
    """RssAnon of a process in bytes."""
    with open(f'/proc/{pid}/status', encoding='ascii', errors='replace') as f:
        for line in f:
            if line.startswith('RssAnon:'):
                return int(line.split()[1]) * 1024
    return 0


def cpu_seconds(pids):
    """User and system time of processes so far."""
    ticks = 0
    for pid in pids:
        with open(f'/proc/{pid}/stat', encoding='ascii', errors='replace') as f:
            fields = f.read().rsplit(')', 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf('SC_CLK_TCK')


def java():
    """The Java 17 that Kafka 3.9 was made for, where there is one."""
    found = sorted(glob.glob('/usr/lib/jvm/java-17*/bin/java'))
    return found[0] if found else 'java'
