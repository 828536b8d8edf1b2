"""An HTTP API whose answers a test writes down: what an engine, a cluster or AWS says, without one."""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

# Status and body: text as it is, bytes as a stream, everything else as JSON.
Answer = tuple[int, Any]


class ScriptedApi(ThreadingHTTPServer):
    """Answers each call by the first pattern that its name begins with.

    A call's name is its verb and path, `GET /pods/x`, or in AWS's protocols its operation, `RunTask`.

    :param answers: by pattern, what is answered unless a test says otherwise.
    """

    daemon_threads = True

    def __init__(self, answers: dict[str, Answer]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.usual = answers
        self.instead: dict[str, Answer] = {}
        # Every call by its name.
        self.calls: list[str] = []
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.server_address[1]}"

    def answer(self, call: str) -> Answer:
        """What a call is answered."""
        self.calls.append(call)
        for pattern, answer in [*self.instead.items(), *self.usual.items()]:
            if re.match(pattern, call):
                return answer
        raise AssertionError(f"nobody wrote down what {call} is answered")

    def close(self) -> None:
        """Answer nobody any more."""
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # A header and a body in two packets would wait for each other.
    wbufsize = -1
    server: ScriptedApi

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        target = self.headers.get("X-Amz-Target", "").partition(".")[2]
        action = parse_qs(body.decode()).get("Action", [""])[0] if self.command == "POST" and not target else ""
        status, told = self.server.answer(target or action or f"{self.command} {urlsplit(self.path).path}")
        self.send_response(status)
        if isinstance(told, bytes):
            self.send_header("Transfer-Encoding", "chunked")
            content = (b"%x\r\n%b\r\n" % (len(told), told) if told else b"") + b"0\r\n\r\n"
        else:
            content = (told if isinstance(told, str) else json.dumps(told)).encode()
            self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Type", "text/plain" if isinstance(told, str) else "application/json")
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()

    do_POST = do_DELETE = do_GET

    def log_message(self, *_: object) -> None:
        """Say nothing."""
