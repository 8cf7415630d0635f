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
LEAST_CONTRAST = 4.5  # WCAG 2.2, AA, for text of any size
# Texts whose colour stands out too little from what lies behind (opaque colours; what is disabled is exempt).
CONTRASTS = """least => {
  const lum = c => { const [r, g, b] = c.map(v => { v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; });
    return .2126 * r + .7152 * g + .0722 * b; };
  const context = Object.assign(document.createElement('canvas'), {width: 1, height: 1}).getContext('2d', {willReadFrequently: true});
  const parse = css => { context.clearRect(0, 0, 1, 1); context.fillStyle = css; context.fillRect(0, 0, 1, 1);
    const d = context.getImageData(0, 0, 1, 1).data; return [d[0], d[1], d[2], d[3] / 255]; };
  const over = (top, under) => [0, 1, 2].map(i => top[i] * top[3] + under[i] * (1 - top[3]));
  const behind = e => { const stack = []; for (let n = e; n; n = n.parentElement) { const c = parse(getComputedStyle(n).backgroundColor);
      if (c[3] > 0) stack.push(c); if (c[3] === 1) break; }
    return stack.reduceRight((under, top) => over(top, under), [255, 255, 255]); };
  const found = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), e = walker.currentNode.parentElement;
    if (!text || !e.checkVisibility({opacityProperty: true, visibilityProperty: true}) || e.closest(':disabled, script, style, svg')) continue;
    const box = e.getBoundingClientRect(); if (box.width < 2 || box.height < 2) continue;
    const back = behind(e), front = over(parse(getComputedStyle(e).color), back);
    const [a, b] = [lum(front), lum(back)].sort((x, y) => y - x), ratio = (a + .05) / (b + .05);
    if (ratio < least) found.add(`${ratio.toFixed(2)}: ${text.slice(0, 40)}`);
  }
  return [...found]; }"""  # noqa: E501


def contrasts(page: Any) -> list[str]:
    """Visible texts with less contrast than LEAST_CONTRAST, as computed by the browser."""
    return page.evaluate(CONTRASTS, LEAST_CONTRAST)


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

    def save(self, kind: str) -> bytes:
        """Click an export and return the file that the browser saves."""
        with self.page.expect_download() as download:
            self.page.click(f"#save-{kind}")
        assert download.value.suggested_filename.endswith(f".{kind}")
        return Path(download.value.path()).read_bytes()

    def tab_to(self, selector: str, most: int = 80) -> None:
        """Press Tab until an element within the selector has the focus."""
        for _ in range(most):
            if self.page.evaluate("s => !!document.activeElement.closest(s)", selector):
                return
            self.page.keyboard.press("Tab")
        raise AssertionError(f"{selector} is not reached with the keyboard")

    def focus_is_seen(self) -> bool:
        return self.page.evaluate(
            "() => { const s = getComputedStyle(document.activeElement);"
            " return parseFloat(s.outlineWidth) >= 2 && s.outlineStyle !== 'none'; }"
        )

    def shot(self, path: Path, whole: bool = True) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.evaluate("() => window.scrollTo(0, 0)")
        self.page.wait_for_timeout(300)
        self.page.screenshot(path=str(path), full_page=whole)

    def close(self) -> None:
        self.context.close()
