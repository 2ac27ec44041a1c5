"""A port of this machine whose connections go to another one."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def forwarded(port: int, to: int) -> Iterator[None]:
    """Pass what is sent to ``port`` on to the port ``to``, and what comes back."""

    class Connection(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection(("127.0.0.1", to)) as server:
                answers = threading.Thread(target=_copy, args=(server, self.request))
                answers.start()
                _copy(self.request, server)
                answers.join()

    with _Forwarder(("127.0.0.1", port), Connection) as forwarder:
        serving = threading.Thread(target=forwarder.serve_forever)
        serving.start()
        try:
            yield
        finally:
            forwarder.shutdown()
            serving.join()


class _Forwarder(socketserver.ThreadingTCPServer):
    allow_reuse_address = True


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):  # of a client that has left
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
