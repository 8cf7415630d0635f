"""Uses the demo and the HTTP API as real processes from start to end; run by test_privacy.py, alone there."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import httpx

from tests.support.gradio_page import Page
from tests.support.ports import free_port

MARKS = (b"taken at home by Anna Example", b"Where is my secret")
QUESTION = "What is it? Where is my secret?"


def loopback_up() -> None:
    """Switch on the loopback of a new namespace (SIOCSIFFLAGS with IFF_UP)."""
    with socket.socket() as sock, contextlib.suppress(OSError):
        fcntl.ioctl(sock, 0x8914, struct.pack("16sh14x", b"lo", 1))


def wait_for(url: str, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 240
    client = httpx.Client(trust_env=False, verify=False)  # certificates take time to read
    while True:
        with contextlib.suppress(httpx.HTTPError):
            if client.get(f"{url}/health").status_code == 200:
                return
        assert process.poll() is None, "the server ended"
        assert time.monotonic() < deadline, "the server did not answer"
        time.sleep(0.3)


def marked(*places: Path) -> list[str]:
    """Files that hold the picture's description or the question."""
    paths = []
    for place in places:
        for path in place.rglob("*"):
            with contextlib.suppress(OSError):
                if path.is_file() and any(mark in path.read_bytes() for mark in MARKS):
                    paths.append(str(path))
    return paths


def main(folder: Path) -> None:
    loopback_up()
    seen, picture = {}, (folder / "photo.jpg").read_bytes()
    places = [folder / "tmp", folder / "home"]
    ports = {"page": free_port(), "api": free_port()}
    config = str(folder / "config.yaml")
    commands = {
        "page": ["demo.py", "--config", config, "--port", str(ports["page"])],
        "api": ["-m", "skingpt4", "http-api", "--config", config, "--port", str(ports["api"])],
    }
    with (folder / "terminal").open("wb") as terminal:
        processes = {
            name: subprocess.Popen([sys.executable, *command], stdout=terminal, stderr=terminal)
            for name, command in commands.items()
        }
        try:
            urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
            for name, process in processes.items():
                wait_for(urls[name], process)
            page = Page(urls["page"])
            page.begin()
            seen["page_shown"] = page.add(picture, "Anna Example.jpg")
            # The page's private folder, in memory or not; other tests may have theirs beside it.
            private = next(p for p in Path(page.sent).parents if p.name.startswith("skingpt4-"))
            places.append(private)
            seen["private"] = private.stat().st_mode & 0o777
            seen["page_answer"] = page.ask(QUESTION)
            seen["exported"] = "base64" in json.dumps(page.call("save-json", "click"))
            shown = {"url": "data:image/jpeg;base64," + base64.b64encode(picture).decode()}
            parts = [{"type": "image_url", "image_url": shown}, {"type": "text", "text": QUESTION}]
            body = {"messages": [{"role": "user", "content": parts}], "max_tokens": 8}
            seen["api_answer"] = httpx.post(
                f"{urls['api']}/v1/chat/completions", json=body, trust_env=False, verify=False, timeout=60
            ).json()
            limits = [Path(f"/proc/{each.pid}/limits") for each in processes.values()]
            lines = [line for path in limits if path.exists() for line in path.read_text().splitlines()]
            seen["core"] = [line.split()[4:6] for line in lines if line.startswith("Max core file size")]
            seen["marked_while_running"] = marked(*places)
            page.call("delete-yes", "click")
        finally:
            for process in processes.values():
                process.send_signal(signal.SIGTERM)
            seen["status"] = {name: process.wait(60) for name, process in processes.items()}
    seen["terminal"] = (folder / "terminal").read_text(errors="replace")
    seen["marked_afterwards"] = marked(*places)
    seen["left_over"] = [*(str(p) for p in (private,) if p.exists()), *map(str, places[0].glob("skingpt4-*"))]
    seen["interfaces"] = [n for _, n in socket.if_nameindex()]
    (folder / "outcome.json").write_text(json.dumps(seen), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
