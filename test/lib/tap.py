"""Test Anything Protocol for the programs of test/t, and waiting with a deadline."""
import os
import sys
import time
import traceback

DEFAULT_SECONDS = 60
POLL_SECONDS = 0.05

_count = 0
_failed = 0
_on_failure = []


def ok(condition, name, detail=''):
    """One check; detail is printed when it fails."""
    global _count, _failed
    _count += 1
    if not condition:
        _failed += 1
    print(f'{"ok" if condition else "not ok"} {_count} - {name}', flush=True)
    if not condition:
        note(f'failed: {detail}')
    return bool(condition)


def same(got, expected, name):
    """Check that two values are equal, and print both when they are not."""
    return ok(got == expected, name, f'got      {got!r}\nexpected {expected!r}')


def note(text):
    """A line that is no check."""
    for line in str(text).splitlines():
        print(f'# {line}', flush=True)


def skip(name, why):
    """A check that cannot be made on this machine."""
    global _count
    _count += 1
    print(f'ok {_count} - {name} # SKIP {why}', flush=True)


def on_failure(function):
    """Have a function called that prints what helps to find the cause, when the program has failed."""
    _on_failure.append(function)


def _is_good(value, good):
    """A value that is not there yet need not be one that good can judge."""
    try:
        return good(value)
    except TypeError:
        if value is not None:
            raise
        return False


def wait_for(probe, what, seconds=DEFAULT_SECONDS, good=bool):
    """Call probe until good(its value); return that value; raise with the last value at the deadline."""
    deadline = time.monotonic() + seconds
    while True:
        value = probe()
        if _is_good(value, good):
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f'{what}: not within {seconds} s, last value {value!r}')
        time.sleep(POLL_SECONDS)


def main(function):
    """Run a test program: its checks, then the plan; a program that stops half-way has failed."""
    try:
        function()
    except Exception:
        ok(False, 'the program ran to its end', traceback.format_exc())
    if _failed:
        for report in _on_failure:
            report()
    print(f'1..{_count}', flush=True)
    sys.exit(1 if _failed else 0)


def show_end_of(path, lines=60):
    """Print the last lines of a log."""
    if os.path.exists(path):
        with open(path, encoding='utf-8', errors='replace') as f:
            note(f'--- end of {os.path.basename(path)}')
            note(''.join(f.readlines()[-lines:]))
