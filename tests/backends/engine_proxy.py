"""A way to the Docker engine that a test can close for a while."""

from __future__ import annotations

import contextlib
import os
import socket
import socketserver
import threading
from pathlib import Path
from urllib.parse import urlsplit

from tests.backends.doubles import Disturbance, serve

_BUSY = b'{"message": "the engine is busy"}'


class EngineProxy(socketserver.ThreadingUnixStreamServer):
    """Passes everything on between a socket of its own and the engine's.

    :param file: its socket.
    """

    daemon_threads = True

    def __init__(self, file: Path) -> None:
        super().__init__(str(file), _Passage)
        self.engine = urlsplit(os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")).path
        self._busy = False
        self._disturbance = Disturbance(0)
        serve(self)

    @property
    def url(self) -> str:
        """What a profile says to come this way."""
        return f"unix://{self.server_address}"

    def disturb(self, kind: str, seconds: float) -> Disturbance:
        """Be `busy` or `away` for a while."""
        self._busy, self._disturbance = kind == "busy", Disturbance(seconds)
        return self._disturbance

    def refuses(self, call: socket.socket) -> bool:
        """Whether a call is not passed on."""
        if not self._disturbance.refuses():
            return False
        if self._busy:
            call.recv(1 << 16)
            head = f"HTTP/1.1 503 Service Unavailable\r\nContent-Length: {len(_BUSY)}\r\nConnection: close\r\n\r\n"
            call.sendall(head.encode() + _BUSY)
        return True

    def close(self) -> None:
        """Let nobody through any more."""
        self.shutdown()
        self.server_close()


class _Passage(socketserver.BaseRequestHandler):
    server: EngineProxy
    request: socket.socket

    def handle(self) -> None:
        if self.server.refuses(self.request):
            return
        with socket.socket(socket.AF_UNIX) as engine:
            engine.connect(self.server.engine)
            back = threading.Thread(target=_pass, args=(engine, self.request), daemon=True)
            back.start()
            _pass(self.request, engine)
            back.join()


def _pass(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(1 << 16):
            target.sendall(piece)
        target.shutdown(socket.SHUT_WR)
