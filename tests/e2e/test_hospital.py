"""Two people of two roles at the same time behind a TLS proxy, and an audit log that says who did what.

A clinician consults about a DICOM photograph and saves it as FHIR, while a reviewer rates a case. Somebody guesses
the clinician's password and has to wait. `pytest tests/e2e/test_hospital.py` is the complete script.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from skingpt4.server.audit import Line, read, verify
from skingpt4.server.page.tools import EXPORTS
from tests.support.dicom_files import PERSON, photograph
from tests.support.hospital import PASSWORD, hospital
from tests.support.page_driver import CHROMIUM, TIMEOUT_MS, Clinician, browser
from tests.support.proxies import NAME, make_certificate, missing, serving

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (apt install chromium)")


@pytest.fixture(params=["nginx", pytest.param("caddy", marks=pytest.mark.soak)])
def morning(request, tmp_path, monkeypatch) -> Iterator[tuple[str, Any, Path]]:
    """The proxy's URL, a browser that trusts its certificate, and the audit log."""
    if reason := missing(request.param):
        pytest.skip(reason)
    (tmp_path / "private").mkdir()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "private"))
    certificate = make_certificate(tmp_path)
    trust = f"--ignore-certificate-errors-spki-list={certificate.pin}"
    with (
        hospital(tmp_path, {"anna": "clinician", "bert": "reviewer"}, exports=EXPORTS) as running,
        serving(request.param, tmp_path / "proxy", certificate, running.ports) as url,
        browser(f"--host-resolver-rules=MAP {NAME} 127.0.0.1", trust) as chromium,
    ):
        yield url, chromium, running.log


def log_in(page: Any, name: str, password: str) -> None:
    page.fill("input[name=username]", name)
    page.fill("input[name=password]", password)
    page.click("button")


def done_by(lines: list[Line], user: str) -> list[str]:
    """The events of one user, in order."""
    return [line.event for line in lines if line.facts.get("user") == user]


@pytest.mark.acceptance
def test_two_people_at_the_same_time(morning, tmp_path):
    url, chromium, log = morning
    picture = tmp_path / "IM0001.dcm"
    picture.write_bytes(photograph())

    # Both log in, each where their role may.
    anna = Clinician(chromium, f"{url}/consult/", login=("anna", PASSWORD))
    rooms = [chromium.new_context() for _ in range(2)]
    for room in rooms:
        room.set_default_timeout(TIMEOUT_MS)
    bert, guesser = (room.new_page() for room in rooms)
    bert.goto(f"{url}/consult/")
    log_in(bert, "bert", PASSWORD)
    bert.wait_for_selector("[role=alert]:not(:empty)")
    bert.goto(f"{url}/review/")
    log_in(bert, "bert", PASSWORD)
    bert.wait_for_selector("#sheet[data-view*=consent]")

    # Anna consults while Bert reads what he agrees to.
    anna.accept()
    anna.add(picture, 1)
    anna.use_anyway()
    assert anna.ask("#study0", 1).endswith("it is <b>red</b>")
    bert.click("#save")
    bert.wait_for_selector("#sheet:not([data-view*=consent])")
    with anna.page.expect_download() as download:
        anna.page.click("#save-fhir")
    saved = Path(download.value.path()).read_text()
    bundle = json.loads(saved)
    assert bundle["resourceType"] == "Bundle"
    assert {"DiagnosticReport", "Media", "Device"} <= {
        each["resource"]["resourceType"] for each in bundle["entry"]
    }
    assert PERSON not in saved

    # Somebody guesses Anna's password, and has to wait; she herself goes on.
    guesser.goto(f"{url}/consult/")
    for number in range(12):
        log_in(guesser, "anna", f"guess {number}")
        guesser.wait_for_selector("[role=alert]:not(:empty)")
        if "Too many failed attempts" in guesser.inner_text("[role=alert]"):
            break
    else:
        pytest.fail("twelve guesses, and no wait")
    assert anna.ask("#study1", 2).endswith("it is <b>red</b>")

    # Both leave.
    anna.page.click("form.user button")
    anna.page.wait_for_selector("input[name=password]")
    assert anna.page.url == f"{url}/consult/"
    bert.click("header form button")
    bert.wait_for_selector("input[name=password]")
    assert (anna.foreign, anna.errors) == ([], [])
    anna.close()
    for room in rooms:
        room.close()

    verify(log)
    lines = list(read(log))
    assert done_by(lines, "bert") == ["log_in_failed", "log_in", "log_out"]
    assert [event for event in done_by(lines, "anna") if event != "log_in_failed"] == [
        "log_in", "consultation_started", "picture_added", "asked", "answered", "exported", "asked", "answered",
        "log_out",
    ]  # fmt: skip
    assert done_by(lines, "anna").count("log_in_failed") == number
    assert PERSON not in log.read_bytes().decode("latin-1")
    assert PASSWORD not in log.read_bytes().decode("latin-1")
