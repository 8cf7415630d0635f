"""Addresses of servers that a program of ours asks, and the keys that they want."""

from __future__ import annotations

import ipaddress
import os
from urllib.parse import urlsplit

from skingpt4.support.errors import UserError


class RemoteAddressError(UserError):
    """An address or a key that cannot be used; the message says why."""


def is_loopback(host: str) -> bool:
    """Whether a host of a URL is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def checked_host(url: str, option: str, key_option: str) -> str:
    """The host of a server's URL.

    Args:
        url: up to and with /v1.
        option: the setting that it comes from, for the message.
        key_option: the setting that names a key.

    Raises:
        RemoteAddressError: it is no address, or holds a password.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https"):
        raise RemoteAddressError(f"{option} {url!r}: is not an address such as http://127.0.0.1:8000/v1")
    if parts.username or parts.password or parts.query:
        raise RemoteAddressError(
            f"{option}: holds a name, password or query; give a key with {key_option} instead"
        )
    return host


def read_key(variable: str | None, option: str) -> str | None:
    """A server's key from an environment variable; None where no variable is named.

    Raises:
        RemoteAddressError: the variable holds no key.
    """
    if not variable:
        return None
    key = os.environ.get(variable, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        raise RemoteAddressError(
            f"{option} {variable}: the environment variable {variable} holds no key; export it first"
        )
    return key
