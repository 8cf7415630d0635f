"""Serving a Gradio page to this machine alone: no telemetry, no public link, nothing loaded from elsewhere."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import sys
from typing import TYPE_CHECKING, NamedTuple

from skingpt4.support.errors import UserError

if TYPE_CHECKING:
    from starlette.responses import JSONResponse


class AddressError(UserError):
    """An address that the page cannot be served at; the message says why."""


def stay_local() -> None:
    """Forbid what Gradio and the Hugging Face libraries would send; must run before either is imported."""
    for name in [name for name in os.environ if name.startswith("GRADIO_")]:
        del os.environ[name]  # one of them could open a public link or share a folder
    os.environ.update(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")
    for name in ("no_proxy", "NO_PROXY"):  # Gradio calls its own page once; not through a proxy
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1,localhost"]))


class Address(NamedTuple):
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

    def check(self, password: bool = False) -> None:
        """Warn of an open address; refuse one that cannot be listened on, before anything is loaded.

        Args:
            password: whether the page asks for one.

        Raises:
            AddressError: the port is taken, or host or port do not exist.
        """
        if not self.local:
            print(
                f"warning: --host {self.host} opens the page to other machines: pictures of patients could "
                f"leave this one, unencrypted{'' if password else ' and without a password'}",
                file=sys.stderr,
            )
        if self.share:
            print(
                "warning: --share opens a public link through Gradio's servers: everything sent to the page, "
                "pictures of patients too, LEAVES THIS MACHINE and passes another company's",
                file=sys.stderr,
            )
        if self.max_upload_mb < 1 or self.port < 1:
            raise AddressError("--max-upload-mb and --port must be at least 1")
        try:
            with socket.create_server((self.host, self.port), family=_family(self.host)):
                pass
        except (OSError, OverflowError) as error:
            taken = getattr(error, "errno", None) == errno.EADDRINUSE
            why = "another program listens there; choose another --port" if taken else error
            raise AddressError(f"cannot listen on {self.host}, port {self.port}: {why}") from None


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _refuse(status: int, why: str) -> JSONResponse:
    from starlette.responses import JSONResponse

    return JSONResponse({"detail": why}, status)
