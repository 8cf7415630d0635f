"""ASGI middleware before every server: a request must name this server, and must not come from another site's page.

A browser lets any page send requests to any address, this machine's own included. What it cannot forge are three
headers that the browser writes itself, and this is the one place where they are judged:

- Host: which name the browser thinks it talks to; see `Address.goes_by`.
- Origin: which site's page sends the request. Another port of this machine is another site.
- Sec-Fetch-Site: the same, said by newer browsers also where Origin is left out.

A program that is no browser (curl, the openai client) sends neither of the last two and is not held up by them:
whoever can start a program on this machine needs a password or key to be kept out.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse

from skingpt4.server.address import Address

HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?")
DEFAULT_PORTS = {"http": "80", "https": "443"}
OWN_SITE = ("same-origin", "none")  # none: the user typed the address or chose a bookmark


class Guard:
    """Refuses what names another server or comes from another site; no other site may read an answer."""

    def __init__(
        self, app: Any, address: Address, pages: Collection[str] = (), names: Collection[str] | None = None
    ) -> None:
        """Guard a server.

        Args:
            app: what answers.
            address: where it is served.
            pages: paths that another site may link to, since opening them changes nothing.
            names: what else it goes by, such as a public link that is known only later; `address.names` if None.
        """
        self.app, self.address, self.pages = app, address, pages
        self.names = address.names if names is None else names

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle one ASGI event."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":  # nobody here speaks it
            await send({"type": "websocket.close", "code": 1008})
        elif refused := self._refused(scope):
            await refusal(*refused)(scope, receive, send)
        else:
            await self.app(scope, receive, without_cross_origin(send))

    def _refused(self, scope: Any) -> tuple[int, str, str] | None:
        headers = Headers(scope=scope)
        hosts = [HOST.fullmatch(host.lower()) for host in headers.getlist("host")]
        host = hosts[0] if len(hosts) == 1 else None
        if host is None or not (host["name"] in self.names or self.address.goes_by(host["name"])):
            return 400, "this server does not go by that name (Host header); see --name", "foreign_host"
        if self._is_from_elsewhere(scope, headers, host):
            return 403, "pages of other sites may not ask this server", "foreign_origin"
        return None

    def _is_from_elsewhere(self, scope: Any, headers: Headers, host: re.Match[str]) -> bool:
        origins = headers.getlist("origin")
        if any(not self._is_own(origin, host) for origin in origins) or len(origins) > 1:
            return True
        if all(site in OWN_SITE for site in headers.getlist("sec-fetch-site")):
            return False
        # A link on another site, or an address that it sent the browser on to.
        opened = all(mode == "navigate" for mode in headers.getlist("sec-fetch-mode"))
        return not (scope["method"] in ("GET", "HEAD") and scope["path"] in self.pages and opened)

    def _is_own(self, origin: str, host: re.Match[str]) -> bool:
        try:
            scheme, place, *rest = urlsplit(origin)
        except ValueError:
            return False
        sender, default = HOST.fullmatch(place.lower()), DEFAULT_PORTS.get(scheme)
        if sender is None or default is None or any(rest):
            return False
        if sender["name"] in self.names:  # a proxy may have put its own address into Host
            return True
        return sender["name"] == host["name"] and (sender["port"] or default) == (host["port"] or default)


def refusal(
    status: int, why: str, code: str = "refused", headers: Iterable[tuple[str, str]] = ()
) -> JSONResponse:
    """A refusal that Gradio's script (`detail`) and OpenAI's clients (`error`) both understand."""
    error = {"message": why, "type": "invalid_request_error", "param": None, "code": code}
    return JSONResponse({"detail": why, "error": error}, status, dict(headers))


def without_cross_origin(send: Any) -> Any:
    """An ASGI `send` that takes away every header by which another site could read the answer."""

    async def sent(message: Any) -> None:
        if message["type"] == "http.response.start":
            pairs = [
                pair for pair in message["headers"] if not pair[0].lower().startswith(b"access-control-")
            ]
            message = {**message, "headers": [*pairs, (b"cross-origin-resource-policy", b"same-origin")]}
        await send(message)

    return sent
