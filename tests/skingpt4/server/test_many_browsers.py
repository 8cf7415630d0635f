"""Sixteen browsers at once never mix: raw HTTP in the suite, real browsers for minutes in `make soak`."""

from __future__ import annotations

import base64
import io
import json
import random
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

import demo
from skingpt4.model.prompts import Turn
from skingpt4.server import address as server_address

server_address.stay_local()

from tests.support import soak  # noqa: E402
from tests.support.gradio_page import Page  # noqa: E402  (Gradio reads the environment when it is imported)
from tests.support.page_driver import CHROMIUM, Clinician, browser  # noqa: E402
from tests.support.page_stub import Stub, tools  # noqa: E402
from tests.support.ports import free_port  # noqa: E402

NUM_BROWSERS = 16


class Echo(Stub):
    """Answers with what it was asked and the colours of the pictures it was shown, slowly and in pieces."""

    def pixels(self, image):
        return image.copy()

    def stream(self, question, generation):
        self.stopping.clear()
        colours = [f"colour{image.getpixel((5, 5))[0]:03}" for image in self.images]
        for word in ("seen", *colours, "asked", question):
            if self.stopping.is_set():
                break
            time.sleep(random.uniform(0, 0.05))
            yield f"{word} "
        self.turns.append(Turn(question, "answered", self.waiting))
        self.waiting = 0

    def reset(self):
        super().reset()
        self.images = []


def picture(number: int) -> bytes:
    """Of one colour, by which its pixels tell whose it is; larger than what is looked at, without loss."""
    out = io.BytesIO()
    Image.new("RGB", (64, 48), (10 * number + 5, 120, 110)).save(out, "PNG")
    return out.getvalue()


def marks(text: str) -> tuple[set[str], set[str]]:
    """Whose questions, and whose colours, stand in a text."""
    return set(re.findall(r"question of \d\d", text)), set(re.findall(r"colour\d\d\d", text))


def colours_of(shown: str) -> set[int]:
    """Whose pictures are in a text, from the pixels of all its images."""
    found = set()
    for encoded in re.findall(r"data:image/\w+;base64,([A-Za-z0-9+/=]+)", shown):
        pixel = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB").getpixel((5, 5))
        found.add(round((pixel[0] - 5) / 10))
    return found


@pytest.fixture
def served(tmp_path, monkeypatch) -> Iterator[tuple[str, Path]]:
    folder = tmp_path / "gradio"
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))
    address = demo.Address(port=free_port())
    blocks = demo.launch(tools(Echo), address)
    yield f"http://127.0.0.1:{address.port}", folder
    blocks.close(verbose=False)


@pytest.mark.acceptance
def test_sixteen_sessions_at_once_never_mix(served):
    url, folder = served
    gate = threading.Barrier(NUM_BROWSERS)

    def consult(number: int) -> None:
        rng, page = random.Random(number), Page(url)
        gate.wait(60)
        for visit in range(2):
            page.begin()
            own, colour = f"question of {number:02}", f"colour{10 * number + 5:03}"
            shown = json.dumps(page.add(picture(number), "photo.png"))
            assert colours_of(shown) == {number}
            answer = page.ask(f"{own}, visit {visit}")
            assert marks(answer) == ({own}, {colour})
            assert f"visit {visit}" in answer
            time.sleep(rng.uniform(0, 0.05))
            exported = json.dumps(page.call("save-json", "click"))
            (saved,) = re.findall(r"data:application/json;base64,([A-Za-z0-9+/=]*)", exported)
            record = base64.b64decode(saved).decode()
            assert marks(record)[0] == {own}
            assert colours_of(record) == {number}
            assert record.count('"question"') == 1, "nothing of the visit before"
            page.call("delete-yes", "click")

    with ThreadPoolExecutor(NUM_BROWSERS) as pool:
        for done in [pool.submit(consult, number) for number in range(NUM_BROWSERS)]:
            done.result(300)
    assert [path for path in folder.rglob("*") if path.is_file()] == []


def test_sixteen_browsers_with_the_same_file_each_get_their_own(served):
    url, _ = served
    gate = threading.Barrier(NUM_BROWSERS)

    def consult(number: int) -> str:
        page = Page(url)
        page.begin()
        gate.wait(60)
        shown = json.dumps(page.add(picture(7), "photo.png"))
        assert colours_of(shown) == {7}, "nobody is asked to add it again"
        return page.sent

    with ThreadPoolExecutor(NUM_BROWSERS) as pool:
        paths = list(pool.map(consult, range(NUM_BROWSERS)))
    assert len(set(paths)) == NUM_BROWSERS


@pytest.mark.soak
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (apt install chromium)")
def test_sixteen_real_browsers_never_mix(served, tmp_path):
    """For minutes: 16 contexts of Chromium, each with its own cookies, all open, in random turns."""
    url, folder = served
    rng, seconds = random.Random(soak.SEED), soak.scaled(180)
    with browser() as chromium:
        clinicians = [Clinician(chromium, url) for _ in range(NUM_BROWSERS)]
        asked, num_asked = [0] * NUM_BROWSERS, 0
        for number, clinician in enumerate(clinicians):
            path = tmp_path / f"{number}" / "photo.png"
            path.parent.mkdir()
            path.write_bytes(picture(number))
            clinician.accept()
            clinician.add(path, 1)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline or num_asked <= NUM_BROWSERS:
            chosen = rng.sample(range(NUM_BROWSERS), 6)
            for number in chosen:  # all of them are being answered at once
                page = clinicians[number].page
                page.fill("#question textarea", f"question of {number:02}, {asked[number]}")
                page.click("#ask")
                asked[number] += 1
            for number in chosen:
                answer = clinicians[number].ended(asked[number])
                assert marks(answer) == ({f"question of {number:02}"}, {f"colour{10 * number + 5:03}"})
                num_asked += 1
            one = clinicians[rng.choice(chosen)]
            number = clinicians.index(one)
            assert marks(one.page.inner_text("#chat"))[0] == {f"question of {number:02}"}
            assert colours_of(one.page.inner_html("#gallery")) == {number}
        assert all((clinician.foreign, clinician.errors) == ([], []) for clinician in clinicians)
        for clinician in clinicians:
            clinician.close()
    assert [path for path in folder.rglob("*") if path.is_file()] == []
    soak.write("browsers", num_asked, browsers=NUM_BROWSERS, seconds=seconds, answers=num_asked, mixed=0)
