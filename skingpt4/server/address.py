"""The address of a server: checked before anything is loaded, and local unless the user says otherwise."""

from __future__ import annotations

import argparse
import errno
import functools
import ipaddress
import logging
import os
import re
import socket
from collections.abc import Collection
from dataclasses import dataclass

from skingpt4.support.errors import UserError, reason_of

logger = logging.getLogger(__name__)
LOCALHOST = "localhost"
NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
ROOT_PATH = re.compile(r"(/[A-Za-z0-9_.~-]*[A-Za-z0-9_~-])*")  # no "..", and no slash at the end
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
LOOPBACK = ("127.0.0.0/8", "::1")
# Written by proxies, and by Gradio's own; also by anybody else who likes to.
FORWARDING = re.compile(rb"forwarded|x-forwarded-.*|x-real-ip|x-gradio-server")
# The key in a request's scope of the address that its connection comes from, where `client` is the browser's.
PEER = "skingpt4.server.peer"


class AddressError(UserError):
    """An address that cannot be served; the message says why."""


def stay_local() -> None:
    """Turn off what Gradio and the Hugging Face libraries would send; must run before either is imported."""
    for name in [name for name in os.environ if name.startswith("GRADIO_")]:
        del os.environ[name]  # one of them could open a public link or share a folder
    os.environ.update(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")
    os.environ["FORWARDED_ALLOW_IPS"] = ""  # uvicorn's own list of proxies; see `Address.trusts`
    for name in ("no_proxy", "NO_PROXY"):  # Gradio calls its own page once, and must not use a proxy
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1,localhost"]))


def add_proxy_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what a server behind a reverse proxy needs: `Address.names`, `Address.root_path`, `Address.proxies`."""
    add = parser.add_argument_group("behind a reverse proxy (docs/deploy.md)").add_argument
    add(
        "--allowed-host", "--name", action="append", default=[], type=str.lower, metavar="NAME", dest="names",
        help="another name that browsers reach the server by, e.g. that of a proxy; may be given several times",
    )  # fmt: skip
    add(
        "--root-path", default="", metavar="PATH",
        help="the path under which the proxy serves it, e.g. /skin (default: the proxy serves it at /)",
    )  # fmt: skip
    add(
        "--trusted-proxy", action="append", default=[], metavar="ADDRESS",
        help="IP address or network of a proxy whose X-Forwarded headers are believed; may be given several times "
        "(default: this machine's own addresses)",
    )  # fmt: skip


@dataclass(frozen=True)
class Address:
    """Where a server listens, the largest file it takes, whether it also gets a public link, and its proxies.

    Attributes:
        names: further names that browsers reach it by, e.g. that of a reverse proxy in front of it; in lower case.
        root_path: the path under which a proxy serves it: empty, or with a slash in front and none at the end.
        proxies: IP addresses and networks whose X-Forwarded headers are believed; this machine's own if empty.

    Raises:
        AddressError: a name, path or address that cannot be one.
    """

    host: str = "127.0.0.1"
    port: int = 7860
    max_upload_mb: int = 20
    share: bool = False
    names: tuple[str, ...] = ()
    root_path: str = ""
    proxies: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what can be no name, path or address."""
        for name in self.names:
            if not NAME.fullmatch(name) and not is_ip(name.removeprefix("[").removesuffix("]")):
                raise AddressError(
                    f"--allowed-host {name!r}: give a host name alone, e.g. skin.example.org, without "
                    "https://, port and path"
                )
        if not ROOT_PATH.fullmatch(self.root_path):
            raise AddressError(
                f"--root-path {self.root_path!r}: give a path like /skin, with a slash in front and none at the end"
            )
        networks(self.proxies)
        if self.share and (self.root_path or self.proxies):
            raise AddressError("--share has a proxy of its own: leave out --root-path and --trusted-proxy")

    def trusts(self, ip: str) -> bool:
        """Whether this is the address of a proxy whose X-Forwarded headers are believed."""
        return is_in(ip, networks(self.proxies or LOOPBACK))

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
        if not password and (self.names or self.root_path or self.proxies):
            logger.warning(
                "warning: whoever reaches the proxy reaches this server, which asks for no password or key: set one, "
                "unless the proxy asks"
            )
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
    return _unmapped(ip).is_loopback


def is_ip(text: str) -> bool:
    """Whether a text is an IP address, and nothing else."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _unmapped(ip: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = ipaddress.ip_address(ip)
    return getattr(address, "ipv4_mapped", None) or address


def is_in(address: str, networks: Collection[Network]) -> bool:
    """Whether an address belongs to one of the networks; IPv4 may be written as IPv6."""
    return is_ip(address) and any(_unmapped(address) in network for network in networks)


@functools.lru_cache(maxsize=8)
def networks(proxies: tuple[str, ...]) -> tuple[Network, ...]:
    """IP addresses, and networks such as 172.30.7.0/24, as networks.

    Raises:
        AddressError: one of them is neither.
    """
    result: list[Network] = []
    for proxy in proxies:
        try:
            result.append(ipaddress.ip_network(proxy))
        except ValueError as error:
            raise AddressError(
                f"--trusted-proxy {proxy!r}: give an IP address, or a network like 172.30.7.0/24 ({error})"
            ) from None
    return tuple(result)


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
