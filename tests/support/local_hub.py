"""A web server on the loopback for tests of downloads: files, a model hub's subset, and much misbehaviour."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

COMMIT = "c0ffee" + "0" * 34


@dataclass
class Page:
    """One address. The lists are used up request by request; when they are empty the page behaves."""

    content: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 200
    statuses: list[int] = field(default_factory=list)  # to answer first, e.g. [503, 503]
    breaks: list[int] = field(default_factory=list)  # bytes after which the connection is dropped
    ranges: bool = True
    etag: str | None = '"1"'
    length: int | None = None  # a content-length that lies
    chunked: bool = False  # no content-length at all
    stays_at: int | None = None  # an offset behind which nothing comes until `go_on` is set
    go_on: threading.Event = field(default_factory=threading.Event)


@dataclass
class Repository:
    """A model repository; files larger than a kilobyte are LFS files on another host, as on the real hub."""

    files: dict[str, bytes]
    gated: str | bool = False
    token: str = "hf_right"
    lying_sha256: bool = False


class LocalServer:
    """`url` is where it listens; `log` has (method, path, headers) of every request."""

    def __init__(self) -> None:
        self.pages: dict[str, Page] = {}
        self.repositories: dict[str, Repository] = {}
        self.cdn: LocalServer | None = None
        self.log: list[tuple[str, str, dict[str, str]]] = []
        self.url = ""

    def page(self, path: str, content: bytes = b"", **options: Any) -> Page:
        """Put a page at a path; its `url` is `self.url + path`."""
        self.pages[path] = Page(content, **options)
        return self.pages[path]

    def asked(self, path: str, method: str = "GET") -> list[dict[str, str]]:
        """Headers of all requests for a path."""
        return [headers for verb, where, headers in self.log if (verb, where) == (method, path)]

    def hub(self, path: str, headers: dict[str, str]) -> Page | None:
        """The model hub's part: metadata and resolve addresses."""
        for name, repository in self.repositories.items():
            right = headers.get("authorization") == f"Bearer {repository.token}"
            denied = _denied(repository, headers) if repository.gated and not right else None
            if path == f"/api/models/{name}/auth-check":
                return denied or Page(b"OK")
            if path in (f"/api/models/{name}", f"/api/models/{name}/revision/main"):
                return _json(_metadata(name, repository))
            if path.startswith(f"/api/models/{name}/tree/"):
                return _json(_tree(repository))
            prefix = f"/{name}/resolve/"
            if path.startswith(prefix):
                if denied:
                    return denied
                return self._file(repository, path.removeprefix(prefix).partition("/")[2])
        if path.startswith("/api/models/") or "/resolve/" in path:
            return Page(b"{}", {"x-error-code": "RepoNotFound"}, 401)
        return None

    def _file(self, repository: Repository, file: str) -> Page:
        if file not in repository.files:
            return Page(b"Entry not found", {"x-error-code": "EntryNotFound"}, 404)
        content = repository.files[file]
        if not _is_large(content):
            return Page(content, {"x-repo-commit": COMMIT}, etag=f'"{_blob(content)}"')
        assert self.cdn is not None
        sha256 = hashlib.sha256(content).hexdigest()
        # huggingface_hub takes another port of this host for the hub itself and reads the commit there.
        commit = {"x-repo-commit": COMMIT}
        self.cdn.pages.setdefault(f"/cdn/{sha256}", Page(content, commit, etag=f'"{sha256[:8]}"'))
        announced = "0" * 64 if repository.lying_sha256 else sha256
        headers = {
            "location": f"{self.cdn.url}/cdn/{sha256}",
            "x-repo-commit": COMMIT,
            "x-linked-etag": f'"{announced}"',
            "x-linked-size": str(len(content)),
        }
        return Page(b"", headers, 302)


def _denied(repository: Repository, headers: dict[str, str]) -> Page:
    status = 403 if "authorization" in headers else 401
    return Page(b"{}", {"x-error-code": "GatedRepo", "x-error-message": "Access is restricted"}, status)


def _json(value: Any) -> Page:
    return Page(json.dumps(value).encode(), {"content-type": "application/json"})


def _is_large(content: bytes) -> bool:
    return len(content) > 1000


def _blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _metadata(name: str, repository: Repository) -> dict[str, Any]:
    siblings = []
    for file, content in repository.files.items():
        sibling: dict[str, Any] = {"rfilename": file, "size": len(content), "blobId": _blob(content)}
        if _is_large(content):
            sha256 = "0" * 64 if repository.lying_sha256 else hashlib.sha256(content).hexdigest()
            sibling["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 130}
        siblings.append(sibling)
    return {
        "id": name, "modelId": name, "sha": COMMIT, "gated": repository.gated, "private": False, "tags": [],
        "siblings": siblings,
    }  # fmt: skip


def _tree(repository: Repository) -> list[dict[str, Any]]:
    return [
        {"type": "file", "path": file, "size": len(content), "oid": _blob(content)}
        for file, content in repository.files.items()
    ]


def google_hash(content: bytes) -> dict[str, str]:
    """The header in which Google's storage announces an MD5."""
    return {"x-goog-hash": "crc32c=AAAAAA==, md5=" + base64.b64encode(hashlib.md5(content).digest()).decode()}


def _handler(server: LocalServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(with_body=False)

        def do_GET(self) -> None:
            self.answer(with_body=True)

        def answer(self, with_body: bool) -> None:
            path = unquote(self.path.partition("?")[0])
            headers = {key.lower(): value for key, value in self.headers.items()}
            server.log.append((self.command, path, headers))
            page = server.pages.get(path) or server.hub(path, headers) or Page(b"not here", status=404)
            status = page.statuses.pop(0) if page.statuses else page.status
            content, extra, begin = page.content, dict(page.headers), 0
            asked = headers.get("range")
            if status == 200 and asked and page.ranges:
                begin = int(asked.removeprefix("bytes=").rstrip("-"))
                status = 206 if begin < len(content) else 416
                extra["content-range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
                content = content[begin:] if status == 206 else b""
            if page.length is not None:  # what is left over belongs to no other answer
                extra["connection"] = "close"
            self.send_response(status)
            if page.etag:
                self.send_header("etag", page.etag)
            for key, value in extra.items():
                self.send_header(key, value)
            if page.chunked:
                self.send_header("transfer-encoding", "chunked")
            else:
                self.send_header(
                    "content-length", str(page.length if page.length is not None else len(content))
                )
            self.end_headers()
            if with_body and status in (200, 206):
                self.send_body(page, content, begin)
            elif with_body:
                self.wfile.write(content)

        def send_body(self, page: Page, content: bytes, begin: int) -> None:
            broken = page.breaks.pop(0) if page.breaks else None
            sent = content[:broken]
            if page.stays_at is not None:
                before = max(page.stays_at - begin, 0)
                self.send_piece(page, sent[:before])
                page.go_on.wait()
                sent = sent[before:]
            self.send_piece(page, sent)
            if page.chunked and broken is None:
                self.wfile.write(b"0\r\n\r\n")
            if broken is not None:
                self.close_connection = True

        def send_piece(self, page: Page, piece: bytes) -> None:
            if piece:  # an empty chunk would end the body
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if page.chunked else piece)

    return Handler


def kill_when_grown(process: subprocess.Popen[Any], part: Path, num_bytes: int) -> int:
    """Kill a process without warning once its file has more than so many bytes; returns how many it left."""
    while not (part.exists() and part.stat().st_size > num_bytes):
        assert process.poll() is None, f"ended with {process.returncode} before {part} had grown"
        time.sleep(0.01)
    process.kill()
    process.wait()
    return part.stat().st_size


class _Quiet(ThreadingHTTPServer):
    """Clients that leave in the middle are part of the tests: no traceback, which another test might read."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def serving() -> Iterator[LocalServer]:
    """A server with a second one beside it (`cdn`), on free ports of the loopback."""
    with _running(LocalServer()) as server, _running(LocalServer()) as cdn:
        server.cdn = cdn
        yield server


@contextmanager
def _running(server: LocalServer) -> Iterator[LocalServer]:
    http = _Quiet(("127.0.0.1", 0), _handler(server))
    server.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
