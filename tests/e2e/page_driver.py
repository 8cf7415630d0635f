"""Drives the consultation page in headless Chromium; for the test and for the pictures in docs/."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
PATIENCE = 60_000  # milliseconds; a busy machine is slow
READY = "() => !document.querySelector('#stop') || document.querySelector('#stop').disabled"


@contextmanager
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield chromium
        finally:
            chromium.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


class Clinician:
    """One open page, and what a person does with it."""

    def __init__(self, chromium: Any, url: str, size: str = "desktop", scheme: str = "light") -> None:
        width, height = SIZES[size]
        self.context = chromium.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            locale="de-DE" if url.endswith("/de") else "en-GB",
            accept_downloads=True,
        )
        self.context.set_default_timeout(PATIENCE)
        self.page = self.context.new_page()
        self.foreign: list[str] = []  # requests to other machines
        self.errors: list[str] = []
        own = (f"http://{urlsplit(url).netloc}/", "data:", "blob:")
        self.page.on("request", lambda r: None if r.url.startswith(own) else self.foreign.append(r.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(url)
        self.page.wait_for_selector("#accept input")

    def accept(self) -> None:
        self.page.check("#accept input")
        self.page.click("#begin:not([disabled])")
        self.page.wait_for_selector("#picture")

    def add(self, path: Path, number: int) -> None:
        """Upload a picture and wait until it is the case's number `number`."""
        self.page.set_input_files("#picture input[type=file]", str(path))
        self.page.wait_for_selector(f"#gallery .views > li:nth-child({number}) img")

    def ask(self, selector: str, answers: int) -> list[str]:
        """Click a button and wait for the answer; returns the texts of the last answer while it grew."""
        self.page.evaluate(
            """() => { window.grown = []; clearInterval(window.watch); window.watch = setInterval(() => {
              const all = document.querySelectorAll('#chat .bot.message'); const last = all[all.length - 1];
              const text = `${all.length}:${last ? last.innerText : ''}`;
              if (window.grown[window.grown.length - 1] !== text) window.grown.push(text); }, 5); }"""
        )
        self.page.click(selector)
        self.page.wait_for_function(
            "n => document.querySelectorAll('#chat .bot.message').length >= n"
            " && document.querySelector('#stop').disabled && !document.querySelector('#ask').disabled",
            arg=answers,
        )
        return [t for t in self.page.evaluate("() => window.grown") if t.startswith(f"{answers}:")]

    def shot(self, path: Path, whole: bool = True) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.evaluate("() => window.scrollTo(0, 0)")
        self.page.wait_for_timeout(300)
        self.page.screenshot(path=str(path), full_page=whole)

    def close(self) -> None:
        self.context.close()
