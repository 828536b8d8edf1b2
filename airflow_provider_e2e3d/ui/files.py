"""Files of a store over HTTP: in ranges, cached by their tags, and unable to act as whoever opens them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from mimetypes import guess_type

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from airflow_provider_e2e3d.ui.stores import in_thread, refuse_link
from e2e3d_stages.store.artifacts import ArtifactStore
from e2e3d_stages.store.base import Entry, NotFound

CHUNK = 1 << 20
YEAR = 365 * 24 * 3600
# A page of a store is somebody's work and not ours: it runs in an origin of its own, without Airflow's cookie or API,
# and asks the network for nothing. `sandbox` holds wherever the page is opened.
_MADE = (
    "sandbox allow-scripts allow-downloads allow-pointer-lock; default-src 'none'; "
    "script-src 'unsafe-inline' 'unsafe-eval' 'wasm-unsafe-eval' blob: data:; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:; connect-src data: blob:; worker-src data: blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
# What a browser shows; everything else it saves.
_SHOWN = {"text/html", "image/jpeg", "image/png", "image/webp", "application/json"}
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


async def answer(request: Request, store: ArtifactStore, path: str, *, lasting: bool) -> Response:
    """A file, a part of it, or word that the browser has it.

    :param path: below the store's root, as `stores.below` made it.
    :param lasting: whether the request's own address changes when the file does.
    :raises NotFound: when there is none.
    """
    entry = await in_thread(_entry, store, path)
    headers = _headers(entry, lasting=lasting)
    if headers["ETag"] in [
        tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")
    ]:
        return Response(status_code=304, headers=headers)
    start, end = _wanted(request, headers["ETag"], entry.size)
    if start >= end and entry.size:
        return Response(status_code=416, headers={**headers, "Content-Range": f"bytes */{entry.size}"})
    whole = (start, end) == (0, entry.size)
    if not whole:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{entry.size}"
    headers["Content-Length"] = str(end - start)
    return StreamingResponse(_parts(store, path, start, end), 200 if whole else 206, headers)


def cached(*, lasting: bool) -> str:
    """How long a browser may keep an answer: for good, or until it has asked whether it changed."""
    return f"private, max-age={YEAR}, immutable" if lasting else "private, no-cache"


def _entry(store: ArtifactStore, path: str) -> Entry:
    refuse_link(store, path)
    found = next(iter(store.storage.list(path)), None)
    if found is None or found.path != path:
        raise NotFound(store.storage.uri_of(path))
    return found


def _headers(entry: Entry, *, lasting: bool) -> dict[str, str]:
    kind = guess_type(entry.path)[0] or "application/octet-stream"
    name = entry.path.rpartition("/")[2]
    headers = {
        "ETag": f'"{entry.tag}"',
        "Content-Type": f"{kind}; charset=utf-8" if kind == "text/html" else kind,
        "Content-Security-Policy": _MADE,
        "Cache-Control": cached(lasting=lasting),
        "Accept-Ranges": "bytes",
        # Airflow compresses what does not say how it is encoded, and a part of a file must come as it is.
        "Content-Encoding": "identity",
    }
    if kind not in _SHOWN:
        headers["Content-Disposition"] = f'attachment; filename="{name.encode("ascii", "replace").decode()}"'
    return headers


def _wanted(request: Request, tag: str, size: int) -> tuple[int, int]:
    """Which bytes, end excluded (RFC 9110, 14.2); one range, and all of it where it is not understood."""
    match = _RANGE.fullmatch(request.headers.get("range", "").strip())
    if not match or match.groups() == ("", "") or request.headers.get("if-range", tag) != tag:
        return 0, size
    first, last = match.groups()
    if not first:
        return max(size - int(last), 0) if int(last) else size, size
    return int(first), min(int(last) + 1, size) if last else size


async def _parts(store: ArtifactStore, path: str, start: int, end: int) -> AsyncIterator[bytes]:
    while start < end:
        data = await in_thread(store.storage.read_part, path, start, min(CHUNK, end - start))
        if not data:
            return
        yield data
        start += len(data)
