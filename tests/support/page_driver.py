"""Drives the consultation page in headless Chromium, for the end-to-end test and the pictures in docs/."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
TIMEOUT_MS = 60_000  # a busy machine is slow
MIN_CONTRAST = 4.5  # WCAG 2.2, AA, for text of any size
# A camera that Chromium draws itself, and a yes to the question whether the page may use it.
FAKE_CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
# Colours on their way to other ones are at their end before they are measured.
AT_REST = (
    """() => document.getAnimations().forEach(one => { try { one.finish(); } catch { one.cancel(); } })"""
)
# Texts whose colour stands out too little from what lies behind (opaque colours; what is disabled is exempt).
CONTRASTS = """min => {
  const lum = c => { const [r, g, b] = c.map(v => { v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; });
    return .2126 * r + .7152 * g + .0722 * b; };
  const context = Object.assign(document.createElement('canvas'), {width: 1, height: 1}).getContext('2d', {willReadFrequently: true});
  const parse = css => { context.clearRect(0, 0, 1, 1); context.fillStyle = css; context.fillRect(0, 0, 1, 1);
    const d = context.getImageData(0, 0, 1, 1).data; return [d[0], d[1], d[2], d[3] / 255]; };
  const over = (top, under) => [0, 1, 2].map(i => top[i] * top[3] + under[i] * (1 - top[3]));
  const behind = e => { const stack = []; for (let n = e; n; n = n.parentElement) { const c = parse(getComputedStyle(n).backgroundColor);
      if (c[3] > 0) stack.push(c); if (c[3] === 1) break; }
    return stack.reduceRight((under, top) => over(top, under), [255, 255, 255]); };
  const low = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), e = walker.currentNode.parentElement;
    if (!text || !e.checkVisibility({opacityProperty: true, visibilityProperty: true}) || e.closest(':disabled, script, style, svg')) continue;
    const box = e.getBoundingClientRect(); if (box.width < 2 || box.height < 2) continue;
    const back = behind(e), front = over(parse(getComputedStyle(e).color), back);
    const [a, b] = [lum(front), lum(back)].sort((x, y) => y - x), ratio = (a + .05) / (b + .05);
    if (ratio < min) low.add(`${ratio.toFixed(2)}: ${text.slice(0, 40)}`);
  }
  return [...low]; }"""  # noqa: E501


def contrasts(page: Any) -> list[str]:
    """Visible texts with less contrast than MIN_CONTRAST, as computed by the browser."""
    page.evaluate(AT_REST)
    return page.evaluate(CONTRASTS, MIN_CONTRAST)


@contextmanager
def browser(*args: str) -> Iterator[Any]:
    """Chromium with further arguments."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        chromium = play.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", *FAKE_CAMERA, *args], timeout=2 * TIMEOUT_MS
        )
        try:
            yield chromium
        finally:
            chromium.close()


class Clinician:
    """One open page, and what a person does with it."""

    def __init__(
        self,
        chromium: Any,
        url: str,
        size: str = "desktop",
        scheme: str = "light",
        login: tuple[str, str] | None = None,
        cookies: Any = (),
    ) -> None:
        width, height = SIZES[size]
        self.context = chromium.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            locale="de-DE" if url.endswith("/de") else "en-GB",
            accept_downloads=True,
        )
        self.context.set_default_timeout(TIMEOUT_MS)
        self.context.add_cookies([*cookies])
        self.page = self.context.new_page()
        self.foreign: list[str] = []  # requests to other machines
        self.errors: list[str] = []
        own = (f"{urlsplit(url).scheme}://{urlsplit(url).netloc}/", "data:", "blob:")
        self.page.on("request", lambda r: None if r.url.startswith(own) else self.foreign.append(r.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        # Playwright catches file dialogs only while somebody listens, and does not wait until the browser knows that:
        # whoever begins to listen right before pressing a key may come too late, and the dialog is nobody's.
        self.page.on("filechooser", lambda chooser: None)
        self.page.goto(url)
        if login is not None:
            self.page.fill("input[name=username]", login[0])
            self.page.fill("input[name=password]", login[1])
            self.page.click("button")
        self.page.wait_for_selector("#accept input")
        self.page.wait_for_function("document.title.includes(': ')")  # the last thing that loading does

    def accept(self) -> None:
        self.page.check("#accept input")
        self.page.click("#begin:not([disabled])")
        self.page.wait_for_selector("#picture")

    def add(self, path: Path, number: int) -> None:
        """Upload a picture and wait until it is the case's number `number`."""
        self.page.set_input_files("#picture input[type=file]", str(path))
        self.page.wait_for_selector(f"#gallery .views > li:nth-child({number}) img")

    def use_anyway(self) -> bool:
        """Use the picture that is not good enough, if there is one; returns whether there was."""
        held = self.page.locator(
            "#gallery .views > li.held"
        )  # comes with the picture, the button a little later
        if not held.count():
            return False
        self.page.click("#anyway")
        held.wait_for(state="detached")
        return True

    def begun(self, answers: int) -> str:
        """Wait until the answer of that number has begun; returns what is there of it."""
        return self._bot(answers, "answer.innerText.trim() && !stop.disabled")

    def ended(self, answers: int) -> str:
        """Wait until the answer of that number is complete; returns it."""
        return self._bot(answers, "stop.disabled && !document.querySelector('#ask').disabled")

    def _bot(self, number: int, so: str) -> str:
        answer = self.page.wait_for_function(
            "n => { const answer = document.querySelectorAll('#chat .bot.message')[n - 1]; const stop = "
            f"document.querySelector('#stop'); return answer && {so} ? {{text: answer.innerText}} : null; }}",
            arg=number,
        )
        return answer.json_value()["text"].strip()

    def ask(self, selector: str, answers: int) -> str:
        """Click a button and wait for the answer of that number, which must not be there yet."""
        self.page.click(selector)
        return self.ended(answers)

    def paste(self, path: Path, text: str = "") -> bool:
        """Paste a picture as Ctrl+V does, and what text was copied with it; returns whether the page took it."""
        return self.page.evaluate(
            """([data, text]) => { const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0));
              const sent = new DataTransfer();
              sent.items.add(new File([bytes], "image.png", {type: "image/png"}));
              if (text) sent.items.add(text, "text/plain");
              const how = {clipboardData: sent, bubbles: true, cancelable: true};
              return !document.activeElement.dispatchEvent(new ClipboardEvent("paste", how)); }""",
            [base64.b64encode(path.read_bytes()).decode(), text],
        )

    def save(self, kind: str) -> bytes:
        """Click an export and return the file that the browser saves."""
        with self.page.expect_download() as download:
            self.page.click(f"#save-{kind}")
        assert download.value.suggested_filename.endswith(f".{kind}")
        return Path(download.value.path()).read_bytes()

    def tab_to(self, selector: str, max_presses: int = 80) -> None:
        """Press Tab until an element within the selector has the focus."""
        for _ in range(max_presses):
            if self.page.evaluate("s => !!document.activeElement.closest(s)", selector):
                return
            self.page.keyboard.press("Tab")
        raise AssertionError(f"{selector} is not reached with the keyboard")

    def focus_is_seen(self) -> bool:
        return self.page.evaluate(
            "() => { const s = getComputedStyle(document.activeElement);"
            " return parseFloat(s.outlineWidth) >= 2 && s.outlineStyle !== 'none'; }"
        )

    def shot(self, path: Path, full_page: bool = True) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.evaluate("() => window.scrollTo(0, 0)")
        self.page.wait_for_timeout(300)
        self.page.screenshot(path=str(path), full_page=full_page)

    def close(self) -> None:
        self.context.close()
