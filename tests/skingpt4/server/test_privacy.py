"""What must never happen: a connection to elsewhere, a picture left on disk, one visitor's case in another's page.

The real processes run with a tiny model in a network namespace that has loopback alone, where the machine allows it,
and everywhere under a hook that notes each address that Python connects to or looks up, also where it fails.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import torch
from PIL import Image

import demo
from skingpt4.config.load import to_yaml
from skingpt4.server.address import Address, stay_local

stay_local()

from skingpt4.checkpoints.identity import model_identity  # noqa: E402
from skingpt4.model.build import build, build_encoder  # noqa: E402
from skingpt4.server.page import tools  # noqa: E402  (Gradio reads the environment when it is imported)
from tests.support.gradio_page import Page  # noqa: E402
from tests.support.ports import free_port  # noqa: E402
from tests.support.tiny import make_picture, tiny_config  # noqa: E402

ROOT = Path(__file__).parents[3]
EXIF_TEXT = "taken at home by Anna Example"
ISOLATED = ["unshare", "--map-root-user", "--net"]


def photograph(seed: int = 1, size: tuple[int, int] = (900, 700)) -> bytes:
    """A JPEG with a description, an owner and a place in its EXIF data."""
    out = io.BytesIO()
    picture = make_picture(seed).resize(size)
    exif = picture.getexif()
    exif[0x010E] = EXIF_TEXT
    exif.get_ifd(0x8825)[2] = (52.0, 31.0, 12.0)
    picture.save(out, "JPEG", exif=exif)
    return out.getvalue()


# ---- the real processes


def can_isolate() -> bool:
    try:
        return subprocess.run([*ISOLATED, "true"], capture_output=True).returncode == 0
    except OSError:
        return False


def real_run(folder: Path) -> dict:
    """What tests/support/privacy_run.py saw: both servers used from start to end."""
    config = tiny_config(folder / "model", step="none", initial_checkpoint=None)
    (folder / "config.yaml").write_text(to_yaml(config))
    (folder / "photo.jpg").write_bytes(photograph())
    for name in ("tmp", "home", "hook"):
        (folder / name).mkdir()
    (folder / "hook" / "sitecustomize.py").write_text(
        f"import tests.support.privacy_hook as hook\nhook.watch({str(folder / 'addresses')!r})\n",
        encoding="utf-8",
    )
    around = ISOLATED if can_isolate() else []
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp"),
        "PYTHONPATH": f"{folder / 'hook'}:{ROOT}", "OMP_NUM_THREADS": "1",
        "GRADIO_SHARE": "True",  # a variable that would open a public link if it were not taken away
    }  # fmt: skip
    script = [sys.executable, str(ROOT / "tests/support/privacy_run.py"), str(folder)]
    done = subprocess.run([*around, *script], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:] + (folder / "terminal").read_text()[-2000:]
    outcome = json.loads((folder / "outcome.json").read_text(encoding="utf-8"))
    outcome["addresses"] = [json.loads(line) for line in (folder / "addresses").read_text().splitlines()]
    outcome["isolated"], outcome["folder"] = bool(around), folder
    return outcome


def test_real_servers_reach_nobody_and_leave_nothing(tmp_path):
    """One test, since the two processes take seconds to start."""
    outcome = real_run(tmp_path)
    # Both worked and ended cleanly.
    assert outcome["status"] == {"page": 0, "api": 0}
    assert "What is" in outcome["page_answer"]
    assert outcome["api_answer"]["choices"][0]["finish_reason"] in ("stop", "length")
    assert outcome["exported"], "a case was exported"
    if outcome["isolated"]:
        assert outcome["interfaces"] == ["lo"]
    # No address but loopback was connected to or looked up, not even in vain.
    addresses = outcome["addresses"]
    assert "socket.connect" in {event for event, _ in addresses}, "the hook was at work"
    ours = ("127.0.0.1", "::1", "localhost", "", "0.0.0.0", "None")
    assert [row for row in addresses if row[1] not in ours] == []
    # What was shown has no EXIF; nothing of it stands on disk, while the servers run and afterwards.
    assert EXIF_TEXT not in json.dumps(outcome["page_shown"])
    assert "data:image" in json.dumps(outcome["page_shown"]), "the picture was shown"
    assert outcome["marked_while_running"] == outcome["marked_afterwards"] == outcome["left_over"] == []
    assert outcome["private"] == 0o700
    assert outcome["core"] == [["0", "0"]] * 2, "a server that crashes leaves no file of its memory"
    # Nor does the terminal tell of it.
    assert "Where is my secret" not in outcome["terminal"]
    assert EXIF_TEXT not in outcome["terminal"]


# ---- the page, in this process


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    config = tiny_config(tmp_path_factory.mktemp("page"))
    return build(config, torch.device("cpu"), build_encoder(config)), config


@pytest.fixture(scope="module")
def served(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gradio")
    before = os.environ.get("GRADIO_TEMP_DIR")
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    network, config = model
    address = Address(port=free_port(), max_upload_mb=1)
    blocks = demo.launch(tools.for_model(network, config, model_identity(config, None)), address)
    yield f"http://127.0.0.1:{address.port}", folder
    blocks.close(verbose=False)
    if before is None:
        os.environ.pop("GRADIO_TEMP_DIR", None)


SECRET_FILE = "private-notes.txt"


@pytest.mark.parametrize(
    "path",
    [
        "/file={file}", "/gradio_api/file={file}", "/gradio_api/file/{file}", "/file/{file}",
        "/gradio_api/file=/etc/passwd", "/gradio_api/file=../../../../../../etc/passwd",
        "/gradio_api/file=%2Fetc%2Fpasswd", "/gradio_api/file=..%2F..%2F..%2F..%2Fetc%2Fpasswd",
        "/static/../../../../../etc/passwd", "/assets/..%2F..%2F..%2F..%2F..%2Fetc%2Fpasswd",
        "/gradio_api/file={root}/demo.py", "/gradio_api/file=demo.py", "/gradio_api/file=http://127.0.0.1:{port}/health",
        "/gradio_api/proxy=http://127.0.0.1:{port}/health", "/proxy=https://example.org/",
        "/custom_component/a/b/c/../../../../etc/passwd", "/gradio_api/stream/x/y/z/../../etc/passwd",
        "/gradio_api/file=/proc/self/environ",
    ],
)  # fmt: skip
def test_no_file_of_the_server_is_served(served, tmp_path, path):
    url, _ = served
    (tmp_path / SECRET_FILE).write_text("secret notes of somebody")
    path = path.format(file=tmp_path / SECRET_FILE, root=ROOT, port=url.rsplit(":", 1)[1])
    raw = httpx.URL(url).copy_with(raw_path=path.encode())  # as it is written, not tidied up
    answer = httpx.Client(trust_env=False, verify=False).get(raw, follow_redirects=False)
    assert answer.status_code != 200 or "<html" in answer.text.lower()[:200], path
    for words in ("secret notes", "root:", '"status":"ok"', "def main", "PATH="):
        assert words not in answer.text


def test_large_files_and_too_many_pixels_are_refused(served):
    url, folder = served
    page = Page(url)
    page.begin()
    assert page.upload(os.urandom(1_200_000), "large.jpg").status_code in (400, 413, 500)
    out = io.BytesIO()
    Image.new("1", (12_000, 9_000)).save(out, "PNG", optimize=True)
    assert len(out.getvalue()) < 1_000_000, "a small file of many pixels"
    said = json.dumps(page.add(out.getvalue(), "bomb.png"), ensure_ascii=False)
    assert "data:image" not in said
    assert "80" in said, "the limit in megapixels is said"
    assert files_in(folder) == []


def test_uploads_are_not_served_either(served):
    """Not even while the file that was sent is still there: its name may be a person's, and would be logged."""
    url, _ = served
    page = Page(url)
    (sent,) = page.upload(photograph(), "Anna Example.jpg").json()
    assert Path(sent).is_file()
    for path in (f"/gradio_api/file={sent}", f"/file={sent}", f"/gradio_api/file/{sent}"):
        assert page.http.get(path).status_code == 404
    Path(sent).unlink()


def files_in(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*") if path.is_file())


def test_uploads_lose_their_metadata_and_leave_no_file(served):
    url, folder = served
    page = Page(url)
    page.begin()
    shown = json.dumps(page.add(photograph(), "Anna Example.jpg"))
    assert EXIF_TEXT not in shown
    assert "Anna" not in shown, "nor is the file's name shown"
    assert "data:image" in shown
    assert files_in(folder) == []


def test_the_terminal_shows_nothing_of_a_request_that_gradio_refuses(served, capfd, caplog):
    """Its traceback would hold the value: a note, or characters that a terminal obeys."""
    url, _ = served
    page = Page(url)
    page.begin()
    for note in ("Anna Example \x1b[2J", {"Anna Example": 1}, ["Anna Example"]):
        for body in page.every_input(note):
            page.send(body)
    deadline = time.monotonic() + 60
    while "Gradio refused" not in caplog.text and time.monotonic() < deadline:
        time.sleep(0.1)
    out, err = capfd.readouterr()
    assert "Gradio refused a request (" in caplog.text
    assert "Anna" not in out + err + caplog.text
    assert "Traceback" not in out + err + caplog.text


def test_two_pages_never_see_each_other(served):
    url, _ = served
    first, second, idle = Page(url), Page(url), Page(url)
    for page, seed in ((first, 1), (second, 2)):
        page.begin()
        page.add(photograph(seed))
    said = first.ask("Only the first asks this."), second.ask("Only the second asks this.")
    assert "Only the first" in said[0]
    assert "Only the first" not in said[1]
    again = first.ask("And again?"), second.ask("And again?")
    assert "Only the second" not in again[0]
    assert "Only the first" not in again[1]
    idle.begin()
    nothing = idle.ask("What did the others ask?")
    assert "Only the" not in nothing
    saved = [json.dumps(page.call("save-json", "click")) for page in (first, second, idle)]
    assert saved[0] != saved[1]
    assert "base64" not in saved[2], "an empty case has nothing to save"


def test_the_state_of_a_session_is_not_saved_as_a_link(served):
    """Gradio's deep links would write it to a file."""
    url, folder = served
    page = Page(url)
    page.begin()
    page.add(photograph())
    for path in ("/gradio_api/deep_link", "/gradio_api/deep_link/", "/deep_link"):
        answer = page.http.get(path, params={"session_hash": page.session}, follow_redirects=True)
        assert answer.status_code == 404, path
    assert files_in(folder) == []


def test_delete_wipes(served):
    url, folder = served
    page = Page(url)
    page.begin()
    page.add(photograph())
    assert "My own question" in page.ask("My own question")
    shown = json.dumps(page.call("delete-yes", "click"))
    assert "My own question" not in shown
    assert "data:image" not in shown
    assert "base64" not in json.dumps(page.call("save-json", "click"))
    assert "My own question" not in page.ask("Is there anything?")
    assert files_in(folder) == []


def test_telemetry_is_switched_off(monkeypatch):
    monkeypatch.setenv("GRADIO_SHARE", "True")
    monkeypatch.setenv("GRADIO_ALLOWED_PATHS", "/")
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "0")
    stay_local()
    assert "GRADIO_SHARE" not in os.environ
    assert "GRADIO_ALLOWED_PATHS" not in os.environ
    expected = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    assert {name: os.environ.get(name) for name in expected} == expected
