"""Everybody can use log-in, consultation page and review form: axe-core finds nothing that is ours to fix.

With SHOTS=FOLDER in the environment, pictures of all states are written there for people to look at.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

import demo
from skingpt4.chat.checks import quality
from skingpt4.chat.checks.alarm import MALIGNANT, Alarm, AlarmReading
from skingpt4.chat.texts import load
from skingpt4.server.access.logins import Access
from skingpt4.server.access.options import shared_password
from skingpt4.server.address import Address, stay_local
from tests.support import axe
from tests.support.page_driver import CHROMIUM, Clinician, browser
from tests.support.page_stub import Concept, Likely, Scored, Stub, tools
from tests.support.ports import free_port

stay_local()

from eval.asking import answers  # noqa: E402  (Gradio reads the environment when it is imported)
from eval.rating import form as review_form  # noqa: E402
from eval.rating.desk import Desk, select  # noqa: E402
from eval.rating.store import Store  # noqa: E402
from skingpt4.server import gradio_app  # noqa: E402
from tests.support.review_run import make_run  # noqa: E402

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (apt install chromium)"),
    pytest.mark.skipif(
        axe.script() is None,
        reason="no axe-core: pip install axe-playwright-python, or AXE=/path/to/axe.min.js",
    ),
]
PASSWORD = "correct horse battery"
# Each size, scheme and language once in every run of the suite; the other pairs of them where there is more time.
LOOKS = [("desktop", "light", "")]
OTHER_LOOKS = [("phone", "dark", "de"), ("desktop", "dark", "de"), ("phone", "light", "")]
# What Gradio's own parts do, which no option of theirs changes: (rule, selector).
GRADIO: set[tuple[str, str]] = set()


def ranked(session, language) -> Scored:
    names = (
        "malignant_lesions",
        "melanoma_nevi_moles",
        "benign_tumors",
        "psoriasis_and_lichen_planus",
        "herpes",
        "dermatitis",
    )
    flag = load(language)["advice.classes.malignant_lesions.flag"]
    return Scored(
        tuple(Likely(name, p) for name, p in zip(names, (0.41, 0.3, 0.12, 0.08, 0.05, 0.04), strict=True)),
        red_flags=(flag,), next_steps=(load(language)["advice.not_confident"], load(language)["advice.always"]),
        calibration="validation.jsonl, n = 300",
        diseases=(Concept("basal cell carcinoma", 0.35), Concept("melanocytic nevus", 0.25)),
        alarms=(AlarmReading(MALIGNANT, 0.43, 0.18, Alarm(0.18, 0.95, 47, 50, 30, 250)),),
    )  # fmt: skip


def free_address() -> Address:
    return Address(port=free_port())


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("page")
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "gradio"))
        Image.effect_noise((900, 700), 60).convert("RGB").save(folder / "photo.png")
        yield folder


@pytest.fixture(scope="module")
def chromium() -> Iterator[object]:
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def page_url(place) -> Iterator[str]:
    kit = tools(
        lambda: Stub(words=("It shows a brown patch. ", "It is ", "harmless. Take 5 mg twice a day.")),
        assess=quality.assess, differential=ranked, heatmap=lambda image, pixels: image,
    )  # fmt: skip
    address = free_address()
    blocks = demo.launch(kit, address, access=shared_password(PASSWORD, message=load()["not_a_diagnosis"]))
    yield f"http://127.0.0.1:{address.port}"
    blocks.close(verbose=False)


@pytest.fixture(scope="module")
def form_url(place) -> Iterator[str]:
    run = answers.read_run(make_run(place / "run", num_cases=2))
    store = Store(run.folder)
    store.add_rater("anna", PASSWORD, role="dermatologist")
    desk, address = Desk(store, select(run, run.folder, None, None)), free_address()
    blocks = gradio_app.launch(
        review_form.build(desk), address, {"status": "ok"}, load(), css=review_form.CSS, head=review_form.SCRIPT,
        access=Access(store.login, per_name=True, message=review_form.DISCLAIMER),
    )  # fmt: skip
    yield f"http://127.0.0.1:{address.port}"
    blocks.close(verbose=False)


class Looker:
    """Checks one state after the other, and pictures it if somebody wants to see it."""

    def __init__(self, name: str) -> None:
        self.name, self.found = name, {}

    def look(self, page, state: str) -> None:
        page.wait_for_timeout(300)
        for rule, selector, why in axe.violations(page):
            # Ids and classes that Gradio counts up or hashes.
            known = re.sub(r"(svelte-|component-|range_id_|radio-|-)[a-z0-9]*\d[a-z0-9]*", r"\1*", selector)
            self.found.setdefault((rule, known), f"{state}: {selector}: {why}")
        if folder := os.environ.get("SHOTS"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            page.screenshot(path=f"{folder}/{self.name}-{state}.png", full_page=True)

    def nothing_new(self) -> None:
        new = {key: why for key, why in self.found.items() if key not in GRADIO}
        assert new == {}, "\n".join(f"{rule} {why}" for (rule, _), why in new.items())


@pytest.mark.parametrize(
    ("size", "scheme", "language"),
    [*LOOKS, *(pytest.param(*look, marks=pytest.mark.acceptance) for look in OTHER_LOOKS)],
)
def test_the_consultation_page(page_url, chromium, place, size, scheme, language):
    looker = Looker(f"page-{size}-{scheme}-{language or 'en'}")
    cookies = chromium.new_context()
    entered = cookies.request.post(f"{page_url}/login", form={"username": "anna", "password": PASSWORD})
    assert entered.ok, entered.text()
    kept = cookies.cookies()
    context = chromium.new_context(color_scheme=scheme)
    plain = context.new_page()
    plain.goto(f"{page_url}/{language}")
    looker.look(plain, "0-log-in")
    plain.fill("input[name=username]", looker.name)  # after several failures a name has to wait
    plain.fill("input[name=password]", "wrong")
    plain.click("button")
    plain.wait_for_selector("[role=alert]:not(:empty)")
    looker.look(plain, "1-wrong")
    clinician = Clinician(chromium, f"{page_url}/{language}", size, scheme, cookies=kept)
    page = clinician.page
    page.wait_for_selector(".user button")
    looker.look(page, "2-welcome")
    clinician.accept()
    looker.look(page, "3-begun")
    clinician.add(place / "photo.png", 1)
    page.wait_for_timeout(500)
    looker.look(page, "4-picture")
    clinician.use_anyway()
    page.click("#history > button")
    page.click("#settings > button")
    clinician.ask("#study0", 1)
    page.wait_for_selector("#scores .bars")
    page.click("#delete")
    page.wait_for_selector("#delete-yes")
    looker.look(page, "5-answered")
    assert clinician.errors == []
    for opened in (clinician, cookies, context):
        opened.close()
    looker.nothing_new()


@pytest.mark.parametrize(("size", "scheme"), [("desktop", "light"), ("phone", "dark")])
def test_the_review_form(form_url, chromium, size, scheme):
    looker = Looker(f"form-{size}-{scheme}")
    width = {"desktop": 1280, "phone": 390}[size]
    context = chromium.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page = context.new_page()
    page.goto(form_url)
    page.fill("input[name=username]", "anna")
    page.fill("input[name=password]", PASSWORD)
    page.click("button")
    page.wait_for_selector("#sheet")
    looker.look(page, "0-consent-or-case")
    if page.locator("#consent").count():
        page.click("#save")
    page.wait_for_selector("#pictures")
    looker.look(page, "1-before")
    if page.locator("textarea[required]").count():
        page.fill("textarea[required]", "melanoma")
        page.click("#save")
    page.wait_for_selector(".item.scale")
    page.click("#save")
    page.wait_for_timeout(500)
    looker.look(page, "2-rate")
    context.close()
    looker.nothing_new()
