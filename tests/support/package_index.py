"""A package index on loopback with wheels made here, as pip and the sizes of a bundle ask for them."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def make_wheel(folder: Path, name: str, version: str = "1.0", tag: str = "py3-none-any") -> Path:
    """A wheel with one module of the package's name that says its version."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    record = "".join(
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip('=')},"
        f"{len(text.encode())}\n"
        for path, text in files.items()
    )
    wheel = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in (files | {f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}).items():
            archive.writestr(path, text)
    return wheel


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextmanager
def serving(folder: Path, asked: list[str]) -> Iterator[str]:
    """Serve the wheels of a folder; gives the index's address. `asked` collects the files that were downloaded."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_GET(self):
            parts = self.path.strip("/").split("/")
            kind, body = "application/octet-stream", b""
            if parts[0] == "files" and (folder / parts[1]).is_file():
                asked.append(parts[1])
                body = (folder / parts[1]).read_bytes()
            elif parts[0] == "simple":
                wheels = sorted(folder.glob(f"{parts[1].replace('-', '_')}-*.whl"))
                kind, body = self._listing(wheels)
            self.send_response(200 if body else 404)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _listing(self, wheels):
            if self.headers.get("Accept") == "application/vnd.pypi.simple.v1+json":
                files = [
                    {"filename": w.name, "size": w.stat().st_size, "hashes": {"sha256": sha256(w)}}
                    for w in wheels
                ]
                return "application/vnd.pypi.simple.v1+json", json.dumps({"files": files}).encode()
            links = [f'<a href="/files/{w.name}#sha256={sha256(w)}">{w.name}</a>' for w in wheels]
            return "text/html", f"<!DOCTYPE html><html><body>{''.join(links)}</body></html>".encode()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/simple"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
