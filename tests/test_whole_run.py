"""One tiny project from a doctor's table to a published folder: who can read what is left, and what it tells.

The commands run in a network namespace of their own where the machine allows it, and everywhere under a hook that
notes each address that Python connects to or looks up, also where it fails.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.whole_run import NAME, NOTE, PATIENT, QUESTION

ROOT = Path(__file__).parents[1]
ISOLATED = ["unshare", "--map-root-user", "--net"]
FOR_OTHERS = ("runs/shared/", "runs/skin.pth")  # what is made to be given away
# The places that are meant to hold a planted text; every other file, and every output but `SHOWN`, is without it.
MEANT = {
    NOTE: ("notes.csv", "runs/data/", "runs/packed/"),
    PATIENT: ("notes.csv", "runs/data/", "runs/packed/"),
    NAME: ("notes.csv", "pictures/", "runs/data/", "runs/packed/", "runs/batch.jsonl", "runs/evaluation/",
           "runs/elsewhere/", "runs/exported/"),
    QUESTION: ("runs/batch.jsonl.meta.json", "runs/batch.jsonl"),
}  # fmt: skip
SHOWN = {
    ("skingpt4 chat", "out"),
    ("train.py --dry-run", "out"),
}  # the answer, and the one sample that was asked for


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """(outcome of each command, the project's folder, addresses, whether it was isolated)."""
    folder = tmp_path_factory.mktemp("whole")
    for name in ("tmp", "home", "hook", "project"):
        (folder / name).mkdir()
    (folder / "hook" / "sitecustomize.py").write_text(
        f"import tests.support.privacy_hook as hook\nhook.watch({str(folder / 'addresses')!r})\n",
        encoding="utf-8",
    )
    (folder / "addresses").touch()
    isolated = subprocess.run([*ISOLATED, "true"], capture_output=True).returncode == 0
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp"),
        "PYTHONPATH": f"{folder / 'hook'}:{ROOT}", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    command = [sys.executable, str(ROOT / "tests/support/whole_run.py"), str(folder / "project")]
    ended = subprocess.run(
        [*(ISOLATED if isolated else []), *command], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    outcome = json.loads((folder / "outcome.json").read_text())
    failed = {name: result for name, result in outcome.items() if result["status"] != 0}
    assert failed == {}
    addresses = [json.loads(line) for line in (folder / "addresses").read_text().splitlines()]
    return outcome, folder, addresses


def files_of(folder):
    return [path for path in folder.rglob("*") if not path.is_symlink()]


def test_everything_that_was_written_is_for_its_user_alone(done):
    project = done[1] / "project"
    open_ones = []
    for path in files_of(project):
        name, mode = path.relative_to(project).as_posix(), stat.S_IMODE(path.stat().st_mode)
        if not f"{name}/".startswith(FOR_OTHERS) and name != "runs/skin.pth" and mode & 0o077:
            open_ones.append((name, oct(mode)))
    assert open_ones == []
    assert any(path.suffix == ".jsonl" for path in files_of(project / "runs"))


def test_planted_texts_are_only_in_the_places_meant_for_them(done):
    outcome, folder, _ = done
    everywhere = {path: path.read_bytes() for path in files_of(folder) if path.is_file()}
    del everywhere[folder / "outcome.json"]
    for mark, places in MEANT.items():
        holders = {
            path.relative_to(folder).as_posix()
            for path, content in everywhere.items()
            if mark.encode() in content
        }
        named = {path.relative_to(folder).as_posix() for path in files_of(folder) if mark in path.name}
        meant = tuple(f"project/{place}" for place in places)
        assert {path for path in holders | named if not path.startswith(meant)} == set(), mark
        assert holders | named, f"{mark} was planted"
        for name, result in outcome.items():
            for stream in ("out", "err"):
                assert (name, stream) in SHOWN or mark not in result[stream], (
                    f"{name} prints {mark} to {stream}"
                )


def test_no_command_asks_for_an_address(done):
    """The hook is at work in each process: the control is a look-up by the test itself."""
    *_, addresses = done
    ours = ("127.0.0.1", "::1", "localhost", "", "None")
    assert [row for row in addresses if row[1] not in ours] == []


def test_nothing_is_left_in_the_folder_for_temporary_files(done):
    left = [path.name for path in (done[1] / "tmp").iterdir()]
    assert [name for name in left if not name.startswith("torchinductor")] == [], (
        "that one is torch's own code"
    )
    cached = [path.name for path in files_of(done[1] / "home") if path.is_file()]
    assert [name for name in cached if not name.startswith("fontlist")] == [], "that one is matplotlib's own"


def test_the_hook_notes_a_look_up(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        f"import tests.support.privacy_hook as hook\nhook.watch({str(tmp_path / 'a')!r})\n"
    )
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    code = "import socket\ntry: socket.getaddrinfo('nobody.invalid', 80)\nexcept OSError: pass"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert "nobody.invalid" in (tmp_path / "a").read_text()
