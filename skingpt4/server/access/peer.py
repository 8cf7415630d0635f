"""The other end of a connection: its address, and whether what lies between is encrypted.

A reverse proxy says in headers whom it speaks for. `Guard` puts what trusted ones say into the scope's `client` and
`scheme`, and the address of the connection itself under `PEER`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any

from skingpt4.server.address import PEER


def request_is_https(scope: Mapping[str, Any]) -> bool:
    """Whether the browser sent this request over TLS."""
    return scope.get("scheme") == "https"


def client_address(scope: Mapping[str, Any]) -> str:
    """The address of the browser, as far as it is known; empty where there is none."""
    return str((scope.get("client") or ("",))[0])


def peer_address(scope: Mapping[str, Any]) -> str:
    """The address that this connection comes from: a proxy's, if there is one."""
    return str(scope.get(PEER) or client_address(scope))


def neighbourhood(address: str) -> str:
    """What one guesser can call from: an IPv4 address, or the /64 network that an IPv6 host has to itself."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    mapped = getattr(ip, "ipv4_mapped", None)
    return str(mapped or (ip if ip.version == 4 else ipaddress.ip_network(f"{ip}/64", strict=False)))
