"""A TCP connection that is slow, loses what is sent, or dies without a word: what a network does between a client and a server."""
import random
import socket
import threading
import time

AGAIN_SECONDS = 0.5     # after this a lost packet is sent again


class Wire:
    """Carries connections to a port of this machine from another one; daemon threads, which end with the program."""

    def __init__(self, target):
        self.target = target
        self.loss = 0.0         # how many of the pieces come late
        self._age = 0           # of the connections that are made now
        self._ends = set()      # of all connections that pass something
        self._listener = socket.create_server(('127.0.0.1', 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_silently(self):
        """What is connected now stays so on both sides, and nothing passes any more; new connections are good."""
        self._age += 1

    def cut(self):
        """All connections end; new ones are good."""
        for end in list(self._ends):
            _shut(end)

    def _accept(self):
        while True:
            near, _ = self._listener.accept()
            try:
                far = socket.create_connection(('127.0.0.1', self.target))
            except OSError:
                near.close()
                continue
            self._ends |= {near, far}
            for ends in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=(*ends, self._age), daemon=True).start()

    def _carry(self, source, sink, age):
        try:
            while data := source.recv(65536):
                if random.random() < self.loss:
                    time.sleep(AGAIN_SECONDS)
                if age == self._age:
                    sink.sendall(data)
        except OSError:
            pass
        if age == self._age:
            for end in (source, sink):
                _shut(end)
        self._ends -= {source, sink}


def _shut(end):
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
