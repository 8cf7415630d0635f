"""ASGI middleware before every server: a request must name this server, and must not come from another site's page.

A browser lets any page send requests to any address, this machine's own included. What it cannot forge are three
headers that the browser writes itself, and this is the one place where they are judged:

- Host: which name the browser thinks it talks to; see `Address.goes_by`.
- Origin: which site's page sends the request. Another port of this machine is another site.
- Sec-Fetch-Site: the same, said by newer browsers also where Origin is left out.

There may be a reverse proxy between the browser and this server. Its X-Forwarded headers are believed if it is one of
`Address.proxies`, and removed from every other request. The name that it forwards and the name by which it calls this
server are both judged by these rules.

A program that is no browser (curl, the openai client) sends neither of the last two and is not held up by them:
whoever can start a program on this machine needs a password or key to be kept out.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, RedirectResponse

from skingpt4.server.address import FORWARDING, PEER, Address, is_ip

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
        else:
            request = arrived(scope, self.address)
            answer = self._refusal(request) or self._redirect(request) or self.app
            await answer(request.scope, receive, without_cross_origin(send) if answer is self.app else send)

    def _refusal(self, request: Arrived) -> JSONResponse | None:
        headers = Headers(scope=request.scope)
        hosts = [HOST.fullmatch(host.lower()) for host in request.hosts]
        host = hosts[-1] if len(headers.getlist("host")) == 1 else None
        if host is None or not all(each and self._goes_by(each["name"]) for each in hosts):
            return refusal(
                400, "this server does not go by that name (Host header); see --allowed-host", "foreign_host"
            )
        if self._is_from_elsewhere(request.scope, headers, host):
            return refusal(403, "pages of other sites may not ask this server", "foreign_origin")
        return None

    def _goes_by(self, name: str) -> bool:
        return name in self.names or self.address.goes_by(name)

    def _redirect(self, request: Arrived) -> RedirectResponse | None:
        """From /skin to /skin/: a page's links are relative to it."""
        at_root = request.scope["path"] == "" and request.scope["method"] in ("GET", "HEAD")
        return RedirectResponse(f"{self.address.root_path}/", 308) if at_root else None

    def _is_from_elsewhere(self, scope: Any, headers: Headers, host: re.Match[str]) -> bool:
        origins = headers.getlist("origin")
        if any(not self._is_own(origin, host, scope) for origin in origins) or len(origins) > 1:
            return True
        if all(site in OWN_SITE for site in headers.getlist("sec-fetch-site")):
            return False
        # A link on another site, or an address that it sent the browser on to.
        opened = all(mode == "navigate" for mode in headers.getlist("sec-fetch-mode"))
        return not (scope["method"] in ("GET", "HEAD") and scope["path"] in self.pages and opened)

    def _is_own(self, origin: str, host: re.Match[str], scope: Any) -> bool:
        try:
            scheme, place, *rest = urlsplit(origin)
        except ValueError:
            return False
        sender, default = HOST.fullmatch(place.lower()), DEFAULT_PORTS.get(scheme)
        if sender is None or default is None or any(rest):
            return False
        if (
            scheme == "http" and scope.get("scheme") == "https"
        ):  # anybody on the way may have written that page
            return False
        is_same_name = sender["name"] == host["name"]
        if sender["name"] in self.names and not (is_same_name and host["port"]):
            return True  # a proxy may have put its own address into Host, or have left the port out
        return is_same_name and (sender["port"] or default) == (host["port"] or default)


@dataclass(frozen=True)
class Arrived:
    """A request as the browser sent it.

    Attributes:
        scope: with the browser's scheme, host and address, without the proxy's headers; its path is that behind the
            root path.
        hosts: the names by which this server was called: by its proxy if there is one, and last by the browser.
    """

    scope: Any
    hosts: list[str]


def arrived(scope: Any, address: Address) -> Arrived:
    """Undo what a trusted proxy does to a request; of what several proxies wrote, the nearest one's counts."""
    headers = Headers(scope=scope)
    hosts = headers.getlist("host")
    peer = str((scope.get("client") or ("",))[0])
    pairs = [pair for pair in scope["headers"] if not FORWARDING.fullmatch(pair[0].lower())]
    path, raw_path = scope["path"], scope.get("raw_path") or b""
    if path == address.root_path or path.startswith(f"{address.root_path}/"):
        path = path[len(address.root_path) :]
        raw_path = raw_path.removeprefix(address.root_path.encode())
    changed = {"path": path, "raw_path": raw_path, "root_path": address.root_path, PEER: peer}
    if address.trusts(peer):
        host, scheme, sender = _forwarded(headers, address)
        if host:
            hosts.append(host)
            pairs = [pair for pair in pairs if pair[0].lower() != b"host"] + [
                (b"host", host.encode("latin-1"))
            ]
        changed |= {"scheme": scheme} if scheme else {}
        changed |= {"client": (sender, 0)} if sender else {}
    return Arrived({**scope, **changed, "headers": pairs}, hosts)


def _forwarded(headers: Headers, address: Address) -> tuple[str, str, str]:
    """Host, scheme and IP address of the browser by its proxy's headers; empty where they do not say it."""
    host, proto, sender = (
        [part.strip() for line in headers.getlist(f"x-forwarded-{name}") for part in line.split(",")] or [""]
        for name in ("host", "proto", "for")
    )
    # Each proxy appends the address that asked it: the last that is no proxy of ours is the browser's.
    senders = [ip for ip in sender if not address.trusts(ip)] or [""]
    # The zone of an IPv6 address, behind %, may be any text, and the audit log holds the address.
    is_plain = is_ip(senders[-1]) and "%" not in senders[-1]
    return host[-1], proto[-1] if proto[-1] in DEFAULT_PORTS else "", senders[-1] if is_plain else ""


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
