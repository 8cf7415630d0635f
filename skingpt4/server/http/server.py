"""The HTTP API's server: from its socket to a clean end."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from collections.abc import Iterator

import uvicorn
from starlette.applications import Starlette

from skingpt4.server.address import Address
from skingpt4.server.decoding.environment import leave_no_core
from skingpt4.server.http.connections import Connection, Listening
from skingpt4.server.http.ending import asked_to_end
from skingpt4.support.memory import spare_loaded_objects

MAX_ACCEPTED = 64  # at once, before what the others have sent is read
GRACE_SECONDS = 5  # for running answers when the server is asked to end
# After which a thread that computes lets another have Python's lock. The event loop needs it again after each call of
# the system, and there are hundreds of these before it comes round to a connection among many.
SWITCH_SECONDS = 0.0002


@contextlib.contextmanager
def served(app: Starlette, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Serve from a thread of its own; yields the URL. At the end, running answers get GRACE_SECONDS."""
    created = socket.create_server((host, port), family=Address(host, port).family)
    with Listening(fileno=created.detach()) as listening:
        port = listening.getsockname()[1]
        config = uvicorn.Config(
            app, log_level="critical", access_log=False, server_header=False, proxy_headers=False, lifespan="off",
            http=Connection, ws="none", backlog=MAX_ACCEPTED, timeout_graceful_shutdown=GRACE_SECONDS,
        )  # fmt: skip
        server = uvicorn.Server(config)
        sys.setswitchinterval(min(SWITCH_SECONDS, sys.getswitchinterval()))
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        try:
            yield f"http://{f'[{host}]' if ':' in host else host}:{port}"
        finally:
            server.should_exit = True
            thread.join(GRACE_SECONDS + 10)


def until_ended(app: Starlette, address: Address) -> None:
    """Serve until `asked_to_end`."""
    leave_no_core()
    spare_loaded_objects()
    with asked_to_end() as ended, served(app, address.ip, address.port) as url:
        print(f"listening on {url}/v1; Ctrl-C ends", flush=True)
        ended.wait()
    print("stopped", flush=True)
