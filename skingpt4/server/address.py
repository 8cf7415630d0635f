"""The address of a server: checked before anything is loaded, and local unless the user says otherwise."""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import socket
from dataclasses import dataclass

from skingpt4.support.errors import UserError

logger = logging.getLogger(__name__)


class AddressError(UserError):
    """An address that cannot be served; the message says why."""


def stay_local() -> None:
    """Turn off what Gradio and the Hugging Face libraries would send; must run before either is imported."""
    for name in [name for name in os.environ if name.startswith("GRADIO_")]:
        del os.environ[name]  # one of them could open a public link or share a folder
    os.environ.update(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")
    for name in ("no_proxy", "NO_PROXY"):  # Gradio calls its own page once, and must not use a proxy
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1,localhost"]))


@dataclass(frozen=True)
class Address:
    """Where the page is served, the largest file it takes, and whether it also gets a public link."""

    host: str = "127.0.0.1"
    port: int = 7860
    max_upload_mb: int = 20
    share: bool = False

    @property
    def local(self) -> bool:
        """Whether only this machine can reach the page."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def family(self) -> socket.AddressFamily:
        """IPv6 for hosts with a colon, IPv4 otherwise."""
        return socket.AF_INET6 if ":" in self.host else socket.AF_INET

    def check(self, password: bool = False) -> None:
        """Warn about an open address and refuse one that cannot be used, before anything is loaded.

        Args:
            password: whether the server asks for a password or a key.

        Raises:
            AddressError: the port is taken, or host or port do not exist.
        """
        if not self.local:
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
            with socket.create_server((self.host, self.port), family=self.family):
                pass
        except (OSError, OverflowError) as error:
            taken = getattr(error, "errno", None) == errno.EADDRINUSE
            why = "another program listens there; choose another --port" if taken else error
            raise AddressError(f"cannot listen on {self.host}, port {self.port}: {why}") from None
