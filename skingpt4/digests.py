"""Checksums under one notation, "algorithm:hex": made while bytes stream, and read off a server's answer."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from typing import Any

import httpx

_MAKERS: dict[str, Callable[[int | None], Any]] = {
    "sha256": lambda size: hashlib.sha256(),
    "md5": lambda size: hashlib.md5(usedforsecurity=False),
    # The id that git gives a file; the hub names small files by it.
    "git-sha1": lambda size: hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False),
}


def algorithm(digest: str | None) -> str:
    """The part before the colon, or ""."""
    return (digest or "").partition(":")[0]


def new_hash(name: str, size: int | None) -> Any:
    """An object with `update` and `hexdigest`.

    Args:
        name: sha256, md5 or git-sha1.
        size: bytes of the whole file; git-sha1 begins with them.

    Raises:
        ValueError: another algorithm, or git-sha1 without a size.
    """
    if name not in _MAKERS or (name == "git-sha1" and size is None):
        raise ValueError(f"a checksum '{name}' cannot be computed here")
    return _MAKERS[name](size)


def announced(response: httpx.Response) -> str | None:
    """The checksum of the whole file that a server publishes in its headers, redirects included."""
    for answer in (*response.history, response):
        linked = answer.headers.get("x-linked-etag", "").strip('"')
        if re.fullmatch(r"[0-9a-f]{64}", linked):
            return f"sha256:{linked}"
        hashed = re.search(r"md5=([A-Za-z0-9+/]{22}==)", answer.headers.get("x-goog-hash", ""))
        if hashed:
            return f"md5:{base64.b64decode(hashed[1]).hex()}"
    return None
