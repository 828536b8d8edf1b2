"""What the doubles of an engine, a cluster and AWS have in common."""

from __future__ import annotations

import socketserver
import threading
import time


class Disturbance:
    """A while in which an API refuses every call; it begins with the first of them.

    :param seconds: how long it takes.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.refused = 0
        self._began: float | None = None

    def refuses(self) -> bool:
        """Whether a call that comes now is refused."""
        moment = time.monotonic()
        if self._began is None:
            self._began = moment
        if moment - self._began >= self.seconds:
            return False
        self.refused += 1
        return True


def serve(server: socketserver.BaseServer) -> None:
    """Answer in a thread until `server.shutdown`, which waits for the pause between two looks: a short one."""
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
