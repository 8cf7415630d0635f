"""The options by which a server gets to know its users."""

from __future__ import annotations

import argparse
import hashlib
import itertools
import logging
import re
import secrets
from collections.abc import Callable, Collection
from typing import Any

from skingpt4.server.access.logins import Access
from skingpt4.server.address import FORWARDING, LOOPBACK, networks
from skingpt4.support.errors import UserError

logger = logging.getLogger(__name__)
HEADER = re.compile(r"[A-Za-z0-9-]{1,64}")


def add_access_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --users and --auth-header."""
    add = parser.add_argument_group("users").add_argument
    add("--users", metavar="FILE", help="let in the users of this file, which skingpt4 users makes")
    add(
        "--auth-header", metavar="NAME",
        help="let in whom a trusted proxy names in this header, e.g. X-Remote-User, which it must overwrite in every "
        "request; with --users only its users",
    )  # fmt: skip


def shared_password(password: str, **options: Any) -> Access:
    """Everybody who knows the password may come in, under any name; `options` are further fields of `Access`."""

    def digest(text: str) -> bytes:
        # Of one length for all texts, so that comparing takes as long for each; also for text that is not UTF-8.
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()

    return Access(lambda name, given: secrets.compare_digest(digest(given), digest(password)), **options)


def access_of(
    args: argparse.Namespace,
    roles: Collection[str],
    message: str,
    log: Callable[..., object] | None = None,
) -> Access | None:
    """What the options of `add_access_arguments` ask for; None where there are none of them.

    Args:
        args: what was parsed.
        roles: of the users who may come in.
        message: plain text above the log-in's form.
        log: of the audit log; None without one.

    Raises:
        UserError: options that do not go together, or a users file that cannot be read.
    """
    options: dict[str, Any] = {"message": message} | ({} if log is None else {"log": log})
    if args.auth_header is not None:
        options |= _header_options(args)
    if args.users is not None:
        from skingpt4.server.access.users import Users

        users = Users(args.users)
        if not any(user.enabled and user.role in roles for user in users.all().values()):
            raise UserError(f"{args.users}: holds no enabled user with the role {' or '.join(roles)}")
        return Access(
            users.check, lambda name: users.stamp(name, roles), True, lambda name: name in users.all(), **options
        )  # fmt: skip
    return Access(lambda name, password: False, **options) if args.auth_header is not None else None


def _header_options(args: argparse.Namespace) -> dict[str, Any]:
    """The fields of `Access` by which a proxy names the users; see `access_of`."""
    if not HEADER.fullmatch(args.auth_header):
        raise UserError(f"--auth-header {args.auth_header!r}: is not the name of a header")
    if FORWARDING.fullmatch(args.auth_header.lower().encode()):
        raise UserError(
            f"--auth-header {args.auth_header}: headers of this name are taken off every request, since anybody "
            "may write them; let the proxy use another one, such as X-Remote-User"
        )
    if not args.trusted_proxy:
        raise UserError("--auth-header believes a proxy: name its address with --trusted-proxy")
    proxies = networks(tuple(args.trusted_proxy))
    pairs = itertools.product(proxies, networks(LOOPBACK))
    if any(own.network_address in proxy or proxy.network_address in own for proxy, own in pairs):
        logger.warning(
            "warning: --auth-header %s with a --trusted-proxy on this machine (%s): every program of this machine "
            "can name any user in that header; docs/deploy.md, section 3, says what to do",
            args.auth_header, ", ".join(args.trusted_proxy),
        )  # fmt: skip
    return {"header": args.auth_header.lower(), "proxies": proxies}
