"""The grey box over a picture: opened by keyboard, without a script, and printed as it stands."""

import os
import shutil

import pytest

from skingpt4.server.cover import CSS, covered

PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="
# As strict as the report's page, and with its rule that prints what is folded.
PAGE = """<!DOCTYPE html><meta http-equiv="Content-Security-Policy"
content="default-src 'none'; img-src data:; style-src 'unsafe-inline'"><style>{css}
@media print {{ details::details-content {{ content-visibility: visible }} summary {{ display: none }} }}</style>
<main style="width: 300px">{body}</main>"""


def test_words_and_key_are_text():
    html = covered("<img>", "<b>see</b>", "hide & seek", key='"k"')
    assert html.startswith('<details class="cover" data-key="&quot;k&quot;"><summary>')
    assert "&lt;b&gt;see&lt;/b&gt;" in html
    assert "hide &amp; seek" in html
    assert html.endswith("</summary><img></details>")


def test_a_cover_in_chromium():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if not chromium:
        pytest.skip("there is no Chromium (CHROMIUM=/path/to/it)")
    image = f'<img src="{PIXEL}" alt="a picture" width="200" height="150">'
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_context(java_script_enabled=False).new_page()
        page.set_content(PAGE.format(css=CSS, body=covered(image)))
        img, show, hide = (page.locator(each) for each in ("img", ".cover-show", ".cover-hide"))

        def seen() -> tuple[bool, bool, bool]:
            return img.is_visible(), show.is_visible(), hide.is_visible()

        covered_state = (False, True, False)
        assert seen() == covered_state
        page.emulate_media(media="print")
        assert seen() == covered_state, "what was not opened is printed covered"
        page.emulate_media(media="screen")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        assert seen() == (True, False, True)
        assert page.locator("details").bounding_box()["height"] >= 150
        page.emulate_media(media="print")
        assert seen() == (True, False, False), "an opened one is printed without the button"
        page.emulate_media(media="screen")
        page.locator("summary").focus()  # the print view had hidden what had the focus
        page.keyboard.press("Space")
        assert seen() == covered_state
        browser.close()
