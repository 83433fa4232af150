"""librdkafka's mock cluster as a process of its own (test/tools/mock_broker.c), which makes errors on demand."""
import os
import subprocess

import machine

COMPILER = ['gcc', '-g', '-O2', '-D_GNU_SOURCE', '-Wall', '-Wextra', '-Werror', '-Wdeclaration-after-statement', '-Wno-unused-parameter',
            '-Wno-sign-compare', '-Wno-missing-field-initializers', *os.environ.get('CDP_UNIT_FLAGS', '').split()]

# numbers of the protocol: requests
FETCH, LIST_OFFSETS, METADATA, API_VERSIONS = 1, 2, 3, 18


def compiled(directory):
    """Compile the mock broker; returns its path."""
    program = os.path.join(directory, 'mock_broker')
    machine.run([*COMPILER, '-o', program, os.path.join(machine.ROOT, 'test/tools/mock_broker.c'), '-lrdkafka'])
    return program


class Mock:
    """One cluster."""

    def __init__(self, program, *arguments):
        self.process = subprocess.Popen([program, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.address = self.process.stdout.readline().strip()

    def command(self, *words):
        """Run a command of the mock; raises when it fails."""
        self.process.stdin.write(' '.join(str(w) for w in words) + '\n')
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        if answer != 'ok':
            raise RuntimeError(answer)

    def end(self):
        """SIGTERM; returns the status."""
        self.process.terminate()
        return self.process.wait(20)
