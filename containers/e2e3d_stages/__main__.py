"""`python -m e2e3d_stages run REQUEST_URI`: the entry point of every stage, in every container."""

from __future__ import annotations

import argparse
import logging
import os
import sys


def main() -> int:
    """Run one request; the exit status says how it ended."""
    parser = argparse.ArgumentParser(prog="e2e3d_stages", description="Run one stage of a 3D reconstruction.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run the stage that a request asks for")
    run.add_argument("request_uri", help="file:// or s3:// address of a request.json in an artifact store")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stdout)

    from e2e3d_stages.runtime import run as run_request
    from e2e3d_stages.runtime import thread_count

    # Numeric libraries read these once, when they are first imported.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ.setdefault(name, str(thread_count()))
    return run_request(options.request_uri)


if __name__ == "__main__":
    sys.exit(main())
