"""Ends a cancelled container: a process of its own, since a stopped task is killed within seconds.

`python -m airflow_provider_e2e3d.backends.docker.reaper '{"container": …, "client": {…}, "grace": …, "remove": …}'`
"""

from __future__ import annotations

import contextlib
import json
import sys

from docker import APIClient
from docker.errors import NotFound
from docker.tls import TLSConfig


def main(order: str) -> None:
    """Stop a container, which has been asked to by now, and remove it.

    :param order: JSON: id of the container, how to reach the engine, seconds until it is killed, whether it is removed.
    """
    asked = json.loads(order)
    tls = TLSConfig(**asked["client"].pop("tls")) if asked["client"].get("tls") else False
    client = APIClient(**{**asked["client"], "tls": tls, "timeout": asked["grace"] + 60})
    with contextlib.suppress(NotFound):
        client.stop(asked["container"], timeout=asked["grace"])
        if asked["remove"]:
            client.remove_container(asked["container"], v=True, force=True)


if __name__ == "__main__":
    main(sys.argv[1])
