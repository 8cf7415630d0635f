"""The address of a server: checked before anything is loaded, and local unless the user says otherwise."""

from __future__ import annotations

import argparse
import errno
import functools
import ipaddress
import logging
import os
import socket
from dataclasses import dataclass

from skingpt4.support.errors import UserError, reason_of

logger = logging.getLogger(__name__)
LOCALHOST = "localhost"


class AddressError(UserError):
    """An address that cannot be served; the message says why."""


def stay_local() -> None:
    """Turn off what Gradio and the Hugging Face libraries would send; must run before either is imported."""
    for name in [name for name in os.environ if name.startswith("GRADIO_")]:
        del os.environ[name]  # one of them could open a public link or share a folder
    os.environ.update(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")
    for name in ("no_proxy", "NO_PROXY"):  # Gradio calls its own page once, and must not use a proxy
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1,localhost"]))


def add_name_argument(parser: argparse.ArgumentParser) -> None:
    """Add --name, for `Address.names`."""
    parser.add_argument(
        "--name", action="append", default=[], type=str.lower, metavar="HOST",
        help="another name that browsers reach the server by, e.g. that of a proxy; may be given several times",
    )  # fmt: skip


@dataclass(frozen=True)
class Address:
    """Where a server listens, the largest file it takes, and whether it also gets a public link.

    `names` are further names that browsers reach it by, e.g. that of a reverse proxy in front of it.
    """

    host: str = "127.0.0.1"
    port: int = 7860
    max_upload_mb: int = 20
    share: bool = False
    names: tuple[str, ...] = ()  # in lower case

    @property
    def ip(self) -> str:
        """The one address that a socket is bound to: what `host` stands for on this machine.

        Raises:
            AddressError: there is no such host.
        """
        return _resolved(self.host)

    @property
    def local(self) -> bool:
        """Whether only this machine can reach the server."""
        return not self.share and is_loopback(self.ip)

    @property
    def family(self) -> socket.AddressFamily:
        """IPv6 or IPv4, as `ip` is."""
        return socket.AF_INET6 if ":" in self.ip else socket.AF_INET

    def goes_by(self, host: str) -> bool:
        """Whether a browser that calls the server by this name or IP address can only mean this server.

        Any other name may be one that a foreign page has pointed at this machine (DNS rebinding), which makes the
        page's scripts this server's own in the browser's eyes. An IP address cannot be pointed elsewhere.

        Args:
            host: from a Host header, without the port, in lower case; IPv6 in brackets.
        """
        if host in (LOCALHOST, self.host.lower()):
            return True
        try:
            ip = ipaddress.ip_address(host[1:-1] if host.startswith("[") else host)
        except ValueError:
            return not self.local and host == socket.gethostname().lower()
        return not self.local or is_loopback(str(ip))

    def check(self, password: bool = False) -> None:
        """Warn about an open address and refuse one that cannot be used, before anything is loaded.

        Args:
            password: whether the server asks for a password or a key.

        Raises:
            AddressError: the port is taken, or host or port do not exist.
        """
        if not is_loopback(self.ip):
            logger.warning(
                "warning: --host %s opens the page to other machines: pictures of patients could leave this one, "
                "unencrypted%s", self.host, "" if password else " and without a password",
            )  # fmt: skip
        if self.share:
            logger.warning(
                "warning: --share opens a public link through Gradio's servers: everything sent to the page, "
                "pictures of patients too, LEAVES THIS MACHINE and passes through another company's servers"
            )
        if self.max_upload_mb < 1 or self.port < 1:
            raise AddressError("--max-upload-mb and --port must be at least 1")
        try:
            with socket.create_server((self.ip, self.port), family=self.family):
                pass
        except (OSError, OverflowError) as error:
            taken = getattr(error, "errno", None) == errno.EADDRINUSE
            why = "another program listens there; choose another --port" if taken else error
            raise AddressError(f"cannot listen on {self.host}, port {self.port}: {why}") from None


def is_loopback(ip: str) -> bool:
    """Whether an IP address is one of this machine's own, also if it is IPv4 written as IPv6."""
    address = ipaddress.ip_address(ip)
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


@functools.lru_cache(maxsize=8)
def _resolved(host: str) -> str:
    """The IP address that a name stands for, IPv4 before IPv6; looked up once, so that it stays the same."""
    try:
        if not host:
            raise OSError("it is empty")
        rows = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise AddressError(f"--host {host!r}: there is no such host ({reason_of(error)})") from None
    addresses = [(family != socket.AF_INET, str(address[0])) for family, *_, address in rows]
    return min(addresses, key=lambda row: row[0])[1]
