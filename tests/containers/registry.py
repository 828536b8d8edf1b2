"""A registry for tests: Docker's Registry HTTP API v2, as far as a push and a look at a manifest need it.

It answers on 127.0.0.1, which engines speak to without TLS. Like Amazon ECR's, its tags may be immutable, its
repositories have to be there before a push, and it asks for Basic credentials: each where a test says so.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import time
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.backends.doubles import serve

# What it answers instead of doing as asked: status, code and words.
Refusal = tuple[int, str, str]
_PIECE = 64 * 1024


class Registry:
    """One registry.

    :param immutable: a tag that is there is never moved; ECR's own words say so.
    :param repositories: those that there are; any that is pushed to when not given.
    :param credentials: user and password that it asks for.
    :param pause: seconds that it takes for each 64 KiB of a layer.
    """

    def __init__(
        self,
        *,
        immutable: bool = False,
        repositories: set[str] | None = None,
        credentials: tuple[str, str] | None = None,
        pause: float = 0,
    ) -> None:
        self.immutable = immutable
        self.repositories = repositories
        self.credentials = credentials
        self.pause = pause
        # By digest, whoever's they are.
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[str, bytes]] = {}
        # Digests by repository and tag.
        self.tags: dict[tuple[str, str], str] = {}
        self.uploads: dict[str, bytearray] = {}
        # Every call as method and path.
        self.calls: list[tuple[str, str]] = []
        self.refuse: Callable[[str, str], Refusal | None] = lambda method, path: None
        self._server = _Server(self)
        serve(self._server)

    @property
    def host(self) -> str:
        """Its address, as an image's name begins with it."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    def config(self, repository: str, tag: str) -> dict[str, Any]:
        """What an image says of itself."""
        manifest = json.loads(self.manifests[self.tags[repository, tag]][1])
        content: dict[str, Any] = json.loads(self.blobs[manifest["config"]["digest"]])
        return content

    def put_manifest(self, repository: str, tag: str, kind: str, content: bytes) -> str:
        """Make a tag stand for a manifest; returns its digest."""
        digest = self.tags[repository, tag] = _digest(content)
        self.manifests[digest] = kind, content
        return digest

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _answer(self) -> None:
        registry = self.server.registry
        path = urlsplit(self.path).path
        body = b"".join(self._body())
        registry.calls.append((self.command, path))
        if registry.credentials and not self._is_known(registry.credentials):
            self._refuse((401, "UNAUTHORIZED", "authentication required"), {"WWW-Authenticate": 'Basic realm="test"'})
        elif refused := registry.refuse(self.command, path):
            self._refuse(refused)
        elif path == "/v2/":
            self._send(200)
        elif found := re.fullmatch(r"/v2/(.+)/(blobs|manifests)/(.+)", path):
            name, kind, reference = found.groups()
            if registry.repositories is not None and name not in registry.repositories:
                self._refuse((404, "NAME_UNKNOWN", f"The repository with name '{name}' does not exist"))
            elif kind == "manifests":
                self._manifest(name, reference, body)
            else:
                self._blob(name, reference, body)
        else:
            self._refuse((404, "UNSUPPORTED", "not here"))

    do_GET = do_HEAD = do_POST = do_PATCH = do_PUT = _answer

    def _blob(self, name: str, reference: str, body: bytes) -> None:
        registry = self.server.registry
        if self.command in ("GET", "HEAD"):
            if reference in registry.blobs:
                self._send(200, registry.blobs[reference], {"Docker-Content-Digest": reference})
            else:
                self._refuse((404, "BLOB_UNKNOWN", "blob unknown to registry"))
            return
        # POST /blobs/uploads/ begins, PATCH /blobs/uploads/<id> adds, PUT with ?digest= ends.
        upload = uuid.uuid4().hex if self.command == "POST" else reference.partition("/")[2]
        content = registry.uploads.setdefault(upload, bytearray())
        content += body
        where = {"Location": f"/v2/{name}/blobs/uploads/{upload}", "Docker-Upload-UUID": upload}
        digest = parse_qs(urlsplit(self.path).query).get("digest", [""])[0]
        if self.command != "PUT":
            self._send(202, headers={**where, "Range": f"0-{max(len(content) - 1, 0)}"})
        elif digest != _digest(content):
            self._refuse((400, "DIGEST_INVALID", "provided digest did not match uploaded content"))
        else:
            registry.blobs[digest] = bytes(registry.uploads.pop(upload))
            self._send(201, headers={"Location": f"/v2/{name}/blobs/{digest}", "Docker-Content-Digest": digest})

    def _manifest(self, name: str, reference: str, body: bytes) -> None:
        registry = self.server.registry
        digest = registry.tags.get((name, reference), reference)
        if self.command in ("GET", "HEAD"):
            if digest in registry.manifests:
                kind, content = registry.manifests[digest]
                self._send(200, content, {"Content-Type": kind, "Docker-Content-Digest": digest})
            else:
                self._refuse((404, "MANIFEST_UNKNOWN", "Requested image not found"))
            return
        if registry.immutable and (name, reference) in registry.tags:
            told = f"The image tag '{reference}' already exists in the '{name}' repository"
            self._refuse((400, "TAG_INVALID", f"{told} and cannot be overwritten because the repository is immutable."))
            return
        manifest = json.loads(body)
        if missing := {part["digest"] for part in [manifest["config"], *manifest["layers"]]} - set(registry.blobs):
            self._refuse((400, "MANIFEST_BLOB_UNKNOWN", f"blobs unknown: {missing}"))
            return
        digest = registry.put_manifest(name, reference, self.headers["Content-Type"], body)
        self._send(201, headers={"Location": f"/v2/{name}/manifests/{digest}", "Docker-Content-Digest": digest})

    def _is_known(self, credentials: tuple[str, str]) -> bool:
        expected = base64.b64encode(":".join(credentials).encode()).decode()
        return self.headers.get("Authorization") == f"Basic {expected}"

    def _body(self) -> Iterator[bytes]:
        """What was sent; engines send layers in chunks, as they compress them."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            yield self.rfile.read(int(self.headers.get("Content-Length", 0)))
            return
        received = 0
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
            received += size
            if received >= _PIECE:
                received -= _PIECE
                time.sleep(self.server.registry.pause)
        self.rfile.readline()

    def _refuse(self, refusal: Refusal, headers: dict[str, str] | None = None) -> None:
        status, code, message = refusal
        body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
        self._send(status, body, {"Content-Type": "application/json", **(headers or {})})

    def _send(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.send_response(status)
            for name, value in {
                "Docker-Distribution-API-Version": "registry/2.0",
                "Content-Length": str(len(body)),
                **(headers or {}),
            }.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _digest(content: bytes | bytearray) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
