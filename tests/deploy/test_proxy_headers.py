"""The shipped configurations of nginx and Caddy let no browser name the user to the servers behind them."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from tests.support.proxies import NAME, PATHS, make_certificate, missing, serving


class Echo(BaseHTTPRequestHandler):
    """Answers with the headers that arrived."""

    def do_GET(self) -> None:
        body = json.dumps([name.lower() for name in self.headers]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def echo() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.mark.parametrize("program", ["nginx", "caddy"])
def test_a_browser_cannot_name_the_user(program, tmp_path, echo):
    if reason := missing(program):
        pytest.skip(reason)
    certificate = make_certificate(tmp_path)
    trust: ssl.SSLContext = certificate.trust
    with (
        serving(program, tmp_path / "proxy", certificate, dict.fromkeys(PATHS, echo)) as url,
        httpx.Client(verify=trust, trust_env=False) as client,
    ):
        port = url.rsplit(":", 1)[1]
        for path in PATHS.values():
            for header in ("X-Remote-User", "x-remote-user"):
                arrived = client.get(
                    f"https://127.0.0.1:{port}{path}/",
                    headers={"Host": f"{NAME}:{port}", header: "anna", "X-Own": "1"},
                    extensions={"sni_hostname": NAME},
                ).json()
                assert "x-own" in arrived
                assert "x-remote-user" not in arrived, path
