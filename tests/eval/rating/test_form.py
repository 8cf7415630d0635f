"""The served form: two raters at once over HTTP, the server killed while they write, and the page in Chromium."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path

import pytest

from eval.rating import form
from eval.rating.questionnaire import FLAG, ITEMS
from eval.rating.store import Store
from eval.rating.study import change_study
from skingpt4.server.cover import covered
from tests.support.launcher import Job, Launcher
from tests.support.ports import free_port
from tests.support.review_run import FORM, MARK, Browser, make_run

PASSWORD = "correct horse"
NEEDED = (*ITEMS, FLAG)
PATIENCE = 300.0  # seconds


def start(launcher: Launcher, folder: Path) -> tuple[Job, str]:
    """Serve a run's form."""
    port = free_port()
    words = ["eval.review", "--run-dir", str(folder), "--port", str(port)]
    server = launcher.start(words, folder.with_name("server.log"))
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + PATIENCE
    while time.monotonic() < deadline and server.is_running():
        try:
            if json.load(urllib.request.urlopen(f"{url}/health", timeout=PATIENCE)) == {"status": "ok"}:
                return server, url
        except (OSError, ValueError):
            time.sleep(0.1)
    server.kill()
    server.wait()
    raise TimeoutError("the form was not served")


@pytest.fixture
def folder(tmp_path) -> Path:
    run = make_run(tmp_path / "run", num_cases=30)
    for name in ("anna", "bert"):
        Store(run).add_rater(name, PASSWORD)
    return run


@pytest.fixture
def served(launcher, folder) -> Iterator[tuple[Path, str]]:
    server, url = start(launcher, folder)
    try:
        yield folder, url
        server.kill(signal.SIGTERM)
        assert server.wait(PATIENCE) == [0], "SIGTERM ends it cleanly"
    finally:
        server.kill()
        server.wait()


def test_login_and_nothing_before_the_own_diagnosis(served):
    folder, url = served
    for name, password in (("anna", "wrong horse"), ("nobody", PASSWORD)):
        with pytest.raises(urllib.error.HTTPError, match="400"):
            Browser(url, name, password, "w")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{url}/config")
    foreign = urllib.request.Request(url, headers={"Host": "elsewhere.example"})
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(foreign)
    browser = Browser(url, "anna", PASSWORD, "s")
    assert MARK not in browser.page + json.dumps(browser.config)
    browser.open()
    assert MARK not in browser.raw
    assert "melanoma" not in browser.raw
    browser.diagnose("acne")
    assert MARK in browser.raw
    browser.rate(FORM)
    assert MARK not in browser.raw, "the next case begins with the own diagnosis again"
    assert len(Store(folder).rated("anna", NEEDED)) == 1


def test_killed_server_loses_no_acknowledged_form(launcher, folder):
    acknowledged = {"anna": 0, "bert": 0}
    rng = random.Random(1)

    def work(url: str, name: str) -> None:
        try:
            browser = Browser(url, name, PASSWORD, f"session-{name}")
            shown = browser.open()
            while True:
                if "-before-" in browser.serial:
                    shown = browser.diagnose("acne")
                shown = browser.rate(FORM)
                assert "Saved." in shown[-1]
                acknowledged[name] += 1
        except (OSError, HTTPException, ValueError, IndexError, AssertionError):
            return  # the server is gone

    for _ in range(2):
        before = {name: len(Store(folder).rated(name, NEEDED)) for name in acknowledged}
        server, url = start(launcher, folder)
        threads = [threading.Thread(target=work, args=(url, name)) for name in acknowledged]
        for thread in threads:
            thread.start()
        while any(acknowledged[name] < before[name] + 2 for name in acknowledged):
            assert any(thread.is_alive() for thread in threads)
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.2))
        server.kill()
        server.wait()
        for thread in threads:
            thread.join()
        store = Store(folder)
        for name, count in acknowledged.items():
            rated = len(store.rated(name, NEEDED))
            assert count <= rated <= count + 1, "at most the form that was under way is there besides"
            acknowledged[name] = rated
        by_form: dict[tuple[str, ...], set[str]] = {}
        for row in store.current():
            by_form.setdefault((row.rater, row.arm, row.case_id), set()).add(row.item)
        whole = set(FORM) - {"comment"}
        assert all(items - {"own_diagnosis"} in (set(), whole) for items in by_form.values())


@pytest.fixture
def chromium():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if not path:
        pytest.skip("there is no Chromium (CHROMIUM=/path/to/it)")
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


def logged_in(chromium, url: str, name: str):
    """A page of a phone's width whose rater has agreed to take part, and the errors of its script."""
    page, errors = chromium.new_context(viewport={"width": 390, "height": 800}).new_page(), []
    page.set_default_timeout(1000 * PATIENCE)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(url)
    page.fill("input:not([type=password])", name)
    page.fill("input[type=password]", PASSWORD)
    page.keyboard.press("Enter")
    page.click("text=I agree, start")
    return page, errors


def uncover(page, then: str) -> None:
    """Open the covered pictures of a case by keyboard; then a control has the focus."""
    page.wait_for_selector("#pictures summary:focus")
    assert not page.is_visible("#pictures img")
    while not page.is_visible(f"{then}:focus"):  # a case may have two pictures
        page.keyboard.press("Enter")
        page.wait_for_timeout(100)
    assert page.is_visible("#pictures img")


def test_two_cases_in_chromium(served, chromium):
    folder, url = served
    page, errors = logged_in(chromium, url, "anna")
    for number in (1, 2):
        uncover(page, "#sheet textarea")
        assert MARK not in page.content()
        page.keyboard.type("acne")
        page.keyboard.press("Enter")
        page.wait_for_selector("#sheet input:focus")
        assert page.is_visible("#pictures img")
        assert MARK in page.content()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.keyboard.press("Enter")
        page.wait_for_selector("#sheet .gaps:visible")  # nothing is sent, and no "Saved." is left in sight
        assert not page.is_visible("#note")
        for key in "1234512y":
            page.keyboard.press(key)
        assert not page.is_visible("#sheet .gaps")
        page.keyboard.type(f"comment {number}")
        page.keyboard.press("Enter")
    page.wait_for_selector("text=Form 3 of 60")
    assert errors == []
    rows = Store(folder).current()
    assert [row.value for row in rows if row.item == "comment"] == ["comment 1", "comment 2"]
    assert [row.value for row in rows if row.item in FORM][:8] == [*"1234512", "1"]


def test_a_view_begins_when_its_last_part_is_drawn(chromium):
    """Title and questions of a new view may be there before its pictures; the covered picture is what comes first."""
    page = chromium.new_page()
    page.set_content('<div id="title"></div><div id="seen"></div><div id="asked"></div>')
    page.evaluate(form.SCRIPT.removeprefix("<script>").removesuffix("</script>"))
    draw = "([name, html]) => { document.querySelector(name).innerHTML = html; }"
    field = '<div class="item yes_no"><input type="radio" name="seen" value="1"></div>'
    for serial in ("0-before-1", "1-before-2"):
        page.evaluate("window.reviewReady()")
        page.evaluate(draw, ["#title", f'<header data-view="{serial}" data-pictures="{serial[0]}"></header>'])
        page.evaluate(draw, ["#asked", f'<form id="sheet" data-view="{serial}">{field}</form>'])
        page.wait_for_timeout(300)
        assert page.evaluate("JSON.parse(window.reviewCollect()).serial") == "", (
            "the form does not answer yet"
        )
        page.click("#sheet input")
        assert not page.is_checked("#sheet input"), "an answer that the beginning would empty is not taken"
        shown = covered("<img alt='Picture 1'>", key=serial)
        page.evaluate(draw, ["#seen", f'<div id="pictures" data-key="{serial[0]}">{shown}</div>'])
        page.wait_for_selector("#pictures summary:focus")
        assert page.evaluate("JSON.parse(window.reviewCollect()).serial") == serial
        page.click("#sheet input")
        assert page.is_checked("#sheet input")


# Types a letter into a form that is just drawn, whose field still holds the text of the one before, and notes whether
# the form took it.
TYPED_AT_ONCE = """() => {
  let serial = document.querySelector('#sheet').dataset.view;
  window.taken = [];
  new MutationObserver(() => {
    const sheet = document.querySelector('#sheet'), field = document.activeElement;
    if (!sheet || sheet.dataset.view === serial) return;
    serial = sheet.dataset.view;
    const letter = new KeyboardEvent('keydown', {key: 'x', bubbles: true, cancelable: true});
    if (sheet.contains(field) && field.value) window.taken.push(field.dispatchEvent(letter));
  }).observe(document.body, {subtree: true, childList: true, attributes: true});
}"""


def test_a_lay_rater_and_a_dermatologist_who_answers_herself_in_chromium(launcher, folder, chromium):
    store = Store(folder)
    store.set_roles({"anna": "dermatologist", "bert": "lay"})
    change_study(store, {"urgency": True, "own_answers": True})
    server, url = start(launcher, folder)
    try:
        page, errors = logged_in(chromium, url, "bert")
        uncover(page, "#sheet input")
        page.keyboard.press("3")
        page.keyboard.press("Enter")
        page.wait_for_selector("#sheet [name=suggestions]:focus")
        for key in "424":
            page.keyboard.press(key)
        page.keyboard.press("Enter")
        page.wait_for_selector("text=Form 2 of 60")
        assert errors == []

        page, errors = logged_in(chromium, url, "anna")
        uncover(page, "#sheet textarea")
        page.keyboard.type("acne")
        page.keyboard.press("Enter")
        page.wait_for_selector("#sheet .missing [name=own_urgency]:focus")
        page.keyboard.press("1")
        page.keyboard.press("Enter")
        page.evaluate(TYPED_AT_ONCE)
        for number in range(1, 5):
            page.wait_for_selector(f"#field-own_answer_{number}:focus")
            assert MARK not in page.content()
            page.wait_for_function("document.activeElement.value === ''")
            page.keyboard.type(f"Red.\n{number} to 5 spots.")
            page.keyboard.press("Control+Enter")
        page.wait_for_selector("#sheet [name=diagnosis]:focus")
        assert MARK in page.content()
        assert set(page.evaluate("window.taken")) == {False}
        assert errors == []
    finally:
        server.kill()
        server.wait()
    saved = [(row.rater, row.item, row.value) for row in store.current()]
    answers = [("anna", f"own_answer_{number}", f"Red.\n{number} to 5 spots.") for number in range(1, 5)]
    assert saved == [
        ("anna", "own_diagnosis", "acne"), ("anna", "own_urgency", "self-care"), *answers,
        ("bert", "own_urgency", "soon"), ("bert", "suggestions", "4"), ("bert", "helps_patients", "2"),
        ("bert", "urgency", "today"),
    ]  # fmt: skip
