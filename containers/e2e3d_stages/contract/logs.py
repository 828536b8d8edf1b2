"""How a stage program writes its log: as lines for people, or as lines of JSON for whoever collects them."""

from __future__ import annotations

import datetime as dt
import json
import logging
import os
import sys
from collections.abc import Mapping

# In a program's environment: `json`, and which run it is for.
LOG_FORMAT, LOG_RUN = "E2E3D_LOG_FORMAT", "E2E3D_LOG_RUN"


class JsonLines(logging.Formatter):
    """One JSON object a line: time (UTC), level, message, and whose words they are.

    :param request_uri: ends with `<stage>/<key>/attempts/<attempt>/request.json`.
    :param environment: the program's, which names the run and its trace.
    """

    def __init__(self, request_uri: str, environment: Mapping[str, str]) -> None:
        super().__init__()
        stage, key, _, attempt, _ = ["", "", "", "", "", *request_uri.split("/")][-5:]
        # https://www.w3.org/TR/trace-context/#traceparent-header: version, trace, parent and flags.
        _, trace_id, *_ = [*environment.get("TRACEPARENT", "").split("-"), ""]
        named = {"run": environment.get(LOG_RUN), "stage": stage, "key": key, "attempt": attempt, "trace_id": trace_id}
        self._named = {name: value for name, value in named.items() if value}

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        moment = dt.datetime.fromtimestamp(record.created, dt.timezone.utc).isoformat(timespec="milliseconds")
        told = {"time": moment, "level": record.levelname.lower(), "message": record.getMessage(), **self._named}
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=False)


def write_log(request_uri: str = "") -> None:
    """Write the program's log to its standard output, as its environment says."""
    handler = logging.StreamHandler(sys.stdout)
    if os.environ.get(LOG_FORMAT) == "json":
        handler.setFormatter(JsonLines(request_uri, os.environ))
    else:
        handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
