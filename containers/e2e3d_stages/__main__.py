"""`python -m e2e3d_stages run REQUEST_URI`: the entry point of every stage, in every container."""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable

from e2e3d_stages import sagemaker
from e2e3d_stages.contract.logs import write_log
from e2e3d_stages.contract.messages import Failure, FailureCode, InvalidRequest, StageError
from e2e3d_stages.registry import STAGES

log = logging.getLogger("e2e3d")


def main() -> int:
    """Run one request; the exit status says how it ended."""
    # A container's first process ignores SIGTERM until it says otherwise; the runtime does, once it works.
    signal.signal(signal.SIGTERM, lambda _signal, _frame: sys.exit(FailureCode.INTERRUPTED.exit_code))
    parser = argparse.ArgumentParser(prog="e2e3d_stages", description="Run one stage of a 3D reconstruction.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run the stage that a request asks for")
    run.add_argument("request_uri", help="file:// or s3:// address of a request.json in an artifact store")
    commands.add_parser("train", help="the same as SageMaker says it: the address is the hyperparameter request_uri")
    check = commands.add_parser("check", help="try whether this machine has what stages need")
    check.add_argument("stages", nargs="*", metavar="stage", help=", ".join(STAGES))
    images = sorted({spec.container for spec in STAGES.values()})
    check.add_argument("--image", choices=images, help="instead of stages: all that an image serves")
    check_store = commands.add_parser("check-store", help="try whether a store does what claims and commits rely on")
    check_store.add_argument("store_uri", help="file:// or s3:// address of an artifact store")
    options = parser.parse_args()
    _bring_kernels()

    if options.command == "check":
        from e2e3d_stages.check import check as check_stages

        if unknown := set(options.stages) - set(STAGES):
            parser.error(f"there is no stage {', '.join(sorted(unknown))}; stages are {', '.join(STAGES)}")
        return check_stages(
            options.stages or [spec.name for spec in STAGES.values() if spec.container == options.image]
        )
    if options.command == "check-store":
        return _check_store(options.store_uri)
    write_log()
    if options.command == "train":
        try:
            return _run(sagemaker.request_uri(), ends=sagemaker.ends)
        except InvalidRequest as error:
            log.error("%s %s", error.message, error.hint)
            sagemaker.ends(Failure.of(error, 0))
            return error.code.exit_code
    return _run(options.request_uri)


def _run(request_uri: str, **options: Callable[[Failure], bool]) -> int:
    write_log(request_uri)
    from e2e3d_stages.program import run
    from e2e3d_stages.runtime.context import thread_count

    # Numeric libraries read these once, when they are first imported.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ.setdefault(name, str(thread_count()))
    return run(request_uri, **options)


def _check_store(uri: str) -> int:
    """Print what the store does; the exit status says whether that is enough."""
    from e2e3d_stages.store.opening import open_storage
    from e2e3d_stages.store.probe import probe

    try:
        print("\n".join(probe(open_storage(uri))))
    except StageError as error:
        print(error.message, error.hint)
        return error.code.exit_code
    return 0


def _bring_kernels() -> None:
    """Give numba the kernels that were compiled into the image: it only reads a cache that it may also write.

    E2E3D_KERNELS names their folder in the image; NUMBA_CACHE_DIR is where numba looks.
    """
    compiled, cache = os.environ.get("E2E3D_KERNELS", ""), os.environ.get("NUMBA_CACHE_DIR", "")
    if os.path.isdir(compiled) and not os.path.exists(cache):
        shutil.copytree(compiled, cache)


if __name__ == "__main__":
    sys.exit(main())
