"""Web servers for tests: one that what Airflow tells goes to, and one of plain files."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class _Files(SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass

    def handle(self) -> None:
        # A browser leaves a page before it is whole.
        with suppress(ConnectionError):
            super().handle()


def answering(handler: Callable[..., BaseHTTPRequestHandler]) -> ThreadingHTTPServer:
    """A server on a port of its own, which answers until it is shut down."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    # How soon its end is heard.
    threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
    return server


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a folder over HTTP."""
    server = answering(partial(_Files, directory=str(folder)))
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


class Web:
    """A web server that remembers what it was sent.

    :param status: that it answers.
    :param delay: seconds before it does.
    """

    def __init__(self) -> None:
        self.status, self.delay = 200, 0.0
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                web.requests.append((self.path, dict(self.headers), content))
                time.sleep(web.delay)
                self.send_response(web.status)
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        self.server = answering(Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def sent_to(self, path: str) -> list[Any]:
        """What came there."""
        return [content for to, _, content in self.requests if to == path]
