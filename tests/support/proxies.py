"""nginx and Caddy by the shipped configurations, on loopback, with a certificate by an authority of the test."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.ports import free_port

ROOT = Path(__file__).parents[2]
NAME = "skin.ward.example"
PATHS = {"page": "/consult", "review": "/review", "api": "/api"}
KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def missing(program: str) -> str:
    """Why a test with this proxy is skipped; empty if it can run."""
    absent = [name for name in (program, "openssl") if shutil.which(name, path=search_path()) is None]
    return (
        f"no {' and no '.join(absent)} on this machine (apt install nginx-light caddy openssl)"
        if absent
        else ""
    )


def search_path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin"


@dataclass(frozen=True)
class Certificate:
    """Of the server, with the authority that signed it; `pin` is the hash of its key as Chromium wants it."""

    authority: Path
    server: Path
    key: Path
    pin: str

    @property
    def trust(self) -> ssl.SSLContext:
        """For clients that trust this authority alone."""
        return ssl.create_default_context(cafile=str(self.authority))


def openssl(folder: Path, *words: str, given: bytes = b"") -> bytes:
    return subprocess.run(
        ["openssl", *words], cwd=folder, input=given, check=True, capture_output=True
    ).stdout


def make_certificate(folder: Path) -> Certificate:
    """An authority, and a certificate by it for NAME."""
    openssl(
        folder, "req", "-x509", *KEY, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=Test"
    )
    openssl(folder, "req", *KEY, "-keyout", "server.key", "-out", "server.csr", "-subj", f"/CN={NAME}")
    (folder / "names").write_text(f"subjectAltName=DNS:{NAME}\nextendedKeyUsage=serverAuth\n")
    signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names", "-days", "2")
    openssl(folder, "x509", "-req", "-in", "server.csr", *signed, "-out", "server.pem")
    public = openssl(folder, "x509", "-in", "server.pem", "-pubkey", "-noout")
    der = openssl(folder, "pkey", "-pubin", "-outform", "der", given=public)
    pin = base64.b64encode(hashlib.sha256(der).digest()).decode()
    return Certificate(folder / "ca.pem", folder / "server.pem", folder / "server.key", pin)


@contextmanager
def serving(program: str, folder: Path, certificate: Certificate, behind: dict[str, int]) -> Iterator[str]:
    """Start a proxy before servers on these ports, by their names in PATHS; gives its URL."""
    plain, secure = free_port(), free_port()
    folder.mkdir()
    command, env = (_nginx if program == "nginx" else _caddy)(folder, certificate, behind, plain, secure)
    with (folder / "log").open("w") as log:
        env |= {"PATH": search_path()}
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=env)
    try:
        _await(secure, process, folder / "log")
        yield f"https://{NAME}:{secure}"
    finally:
        process.terminate()
        process.wait(30)


def _await(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        if process.poll() is not None:
            break
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(log.read_text())


def _nginx(
    folder: Path, certificate: Certificate, behind: dict[str, int], plain: int, secure: int
) -> tuple[list[str], dict[str, str]]:
    text = (ROOT / "deploy/nginx.conf").read_text()
    for old, new in (
        ("listen 443 ssl", f"listen 127.0.0.1:{secure} ssl"),
        ("listen 80;", f"listen 127.0.0.1:{plain};"),
        ("server_name skin.example.org;", f"server_name {NAME};"),
        ("/etc/skingpt4/tls/server.pem", str(certificate.server)),
        ("/etc/skingpt4/tls/server.key", str(certificate.key)),
        ("http://127.0.0.1:7860;", f"http://127.0.0.1:{behind['page']};"),
        ("http://127.0.0.1:7861;", f"http://127.0.0.1:{behind['review']};"),
        ("http://127.0.0.1:8000;", f"http://127.0.0.1:{behind['api']};"),
    ):
        assert old in text, old
        text = text.replace(old, new)
    temporary = "".join(
        f"{name}_temp_path {folder};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log stderr;\n"
        f"events {{}}\nhttp {{ {temporary}\n{text} }}\n"
    )
    return ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")], {}


def _caddy(
    folder: Path, certificate: Certificate, behind: dict[str, int], plain: int, secure: int
) -> tuple[list[str], dict[str, str]]:
    env = {
        "HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder),
        "SKINGPT4_HTTP_PORT": str(plain), "SKINGPT4_HTTPS_PORT": str(secure), "SKINGPT4_NAME": NAME,
        "SKINGPT4_TLS": f"{certificate.server} {certificate.key}",
    }  # fmt: skip
    env |= {f"SKINGPT4_{name.upper()}": f"127.0.0.1:{port}" for name, port in behind.items()}
    return ["caddy", "run", "--config", str(ROOT / "deploy/Caddyfile"), "--adapter", "caddyfile"], env
