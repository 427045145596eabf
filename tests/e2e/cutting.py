"""A way to the gateway that breaks: connections through it are cut after so many bytes from the client."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator


class Cutter:
    """Forwards TCP connections to `target`. `cuts`: after how many bytes each of the next connections is cut; when they
    are used up, connections stay."""

    def __init__(self, target: str, cuts: list[int]) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._cuts = iter(cuts)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self.cut = 0
        """Connections cut so far."""
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for each in [self._listening, *self._open]:
            _shut(each)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                try:
                    gateway = socket.create_connection(self._target)
                except OSError:  # it is being restarted
                    _shut(client)
                    continue
                self._open += [client, gateway]
                most = next(self._cuts, None)
                threading.Thread(target=self._forward, args=(client, gateway, most), daemon=True).start()
                threading.Thread(target=self._forward, args=(gateway, client, None), daemon=True).start()

    def _forward(self, source: socket.socket, target: socket.socket, most: int | None) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                passed += len(data)
                if most is not None and passed > most:
                    self.cut += 1
                    break
                target.sendall(data)
        _shut(source)
        _shut(target)


def _shut(each: socket.socket) -> None:
    with contextlib.suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    each.close()


@contextlib.contextmanager
def cutting(target: str, cuts: list[int]) -> Iterator[Cutter]:
    cutter = Cutter(target, cuts)
    try:
        yield cutter
    finally:
        cutter.close()
