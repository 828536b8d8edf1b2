"""A way to an S3 server on which requests get lost: it is told to be busy, breaks off, comes late, or is gone a while.

Or it accepts and never answers, answers a byte at a time, falls silent in the middle, tells of its failure with a 200.
What goes wrong is drawn by a seed. An upload that is broken off never reaches the server; an answer that is broken off
belongs to a request that did.
"""

from __future__ import annotations

import contextlib
import http.client
import random
import socket
import struct
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from tests.clock import FastClock

_BUSY = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
_FAILED = b"<?xml version='1.0'?><Error><Code>InternalError</Code><Message>We failed. Try again.</Message></Error>"
# Of one connection only; the proxy makes connections of its own.
_HOP = {"connection", "transfer-encoding", "keep-alive"}


class FaultyStore(ThreadingHTTPServer):
    """Passes requests on to an S3 server, most of them.

    :param endpoint: of the server.
    :param clock: by which it is late or away.
    :param seed: of what is drawn.
    """

    daemon_threads = True
    request_queue_size = 128
    LATENCY_SECONDS = 0.5

    def __init__(self, endpoint: str, clock: FastClock, seed: int = 0) -> None:
        super().__init__(("127.0.0.1", 0), _Passage)
        self.clock = clock
        self.upstream = urlsplit(endpoint).netloc
        self.seen: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._away_until = 0.0
        self.closed = threading.Event()
        self.fail()
        # How soon `close` is heard.
        threading.Thread(target=self.serve_forever, args=[0.02], daemon=True).start()

    @property
    def url(self) -> str:
        """What AWS_ENDPOINT_URL_S3 must say to come this way."""
        return f"http://127.0.0.1:{self.server_port}"

    def fail(self, *, busy: float = 0, reset: float = 0, late: float = 0, **others: float) -> None:
        """Let some requests fail from now on.

        :param busy: share of requests that are answered 503.
        :param reset: share of requests whose body is broken off in the middle: half of them going, half of them coming.
        :param late: share of requests that take `LATENCY_SECONDS` longer.
        :param others: shares of requests that never get an answer (`hang`), get one whose bytes trickle (`trickle`),
            half of one (`silence`), or a 200 with an error in it (`error`).
        """
        assert set(others) <= {"hang", "trickle", "silence", "error"}
        self.shares = {"busy": busy, "upload broken off": reset / 2, "answer broken off": reset / 2, "late": late}
        self.shares |= others
        self.shares["passed on"] = 1 - sum(self.shares.values())

    def away(self, seconds: float) -> None:
        """Drop every connection from now on, for a while."""
        self._away_until = self.clock.monotonic() + seconds

    def fate(self) -> str:
        """What becomes of a request."""
        with self._lock:
            fate = "away" if self.is_away else self._random.choices([*self.shares], [*self.shares.values()])[0]
            self.seen[fate] += 1
            return fate

    @property
    def is_away(self) -> bool:
        """Whether nobody is let through."""
        return self.clock.monotonic() < self._away_until

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is no news."""

    def close(self) -> None:
        """Let nobody through any more."""
        self.closed.set()
        self.shutdown()
        self.server_close()


class _Passage(BaseHTTPRequestHandler):
    server: FaultyStore
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def _pass(self) -> None:
        fate = self.server.fate()
        length = int(self.headers.get("Content-Length", 0))
        if fate == "away":
            return self._break_off()
        if fate == "upload broken off" and length:
            self.rfile.read(length // 2)
            return self._break_off()
        body = self.rfile.read(length)
        if fate == "busy":
            return self._answer(503, "Slow Down", [], b"" if self.command == "HEAD" else _BUSY)
        if fate == "hang":
            return self._wait()
        if fate == "error":
            return self._answer(200, "OK", [("Content-Type", "application/xml")], _FAILED)
        if fate == "late":
            self.server.clock.sleep(self.server.LATENCY_SECONDS)
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=60)
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() not in {*_HOP, "expect"}}
            upstream.request(self.command, self.path, body, headers)
            answer = upstream.getresponse()
            data = answer.read()
        finally:
            upstream.close()
        if self.server.is_away:
            return self._break_off()
        self._answer(answer.status, answer.reason, answer.getheaders(), data, fate)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass

    def _answer(
        self, status: int, reason: str, headers: list[tuple[str, str]], data: bytes, fate: str = "passed on"
    ) -> None:
        self.send_response_only(status, reason)
        for name, value in headers:
            if name.lower() not in {*_HOP, "content-length"}:
                self.send_header(name, value)
        # What HEAD tells is the length of a body that does not come.
        told = dict((name.lower(), value) for name, value in headers).get("content-length", str(len(data)))
        self.send_header("Content-Length", told if self.command == "HEAD" else str(len(data)))
        self.end_headers()
        if fate == "trickle":
            for place in range(len(data)):
                self.wfile.write(data[place : place + 1])
                if self.server.closed.wait(0.02):
                    return self._break_off()
        elif fate == "silence":
            self.wfile.write(data[: len(data) // 2])
            self._wait()
        elif fate == "answer broken off":
            self.wfile.write(data[: len(data) // 2])
            self._break_off()
        else:
            self.wfile.write(data)

    def _wait(self) -> None:
        """Keep the connection and say no more."""
        self.server.closed.wait()
        self._break_off()

    def _break_off(self) -> None:
        """Reset the connection: what was sent may not even arrive."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # The handler's files hold the socket open.
        self.rfile.close()
        with contextlib.suppress(OSError):
            self.wfile.flush()
        self.connection.close()
