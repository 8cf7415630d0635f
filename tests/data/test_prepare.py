"""Preparation as a whole: refused pictures, second runs, stops of every kind, what people see."""

import io
import json
import os
import re
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest
from PIL import Image

from data import prepare
from data.preparing import engine, images, summary
from data.preparing.images import MeasureCache, Measurer, measure
from skingpt4.records.manifest import read_manifest
from tests.support.downloads import image_bytes, skincon_arguments, write_csv, write_skincon

ROOT = Path(__file__).parents[2]


@pytest.fixture
def clinic(tmp_path):
    """A CSV of 12 good pictures."""
    for n in range(12):
        (tmp_path / f"{n:02d}.jpg").write_bytes(image_bytes(600 + n))
    return write_csv(
        tmp_path / "n.csv", ["image", "note"], [[f"{n:02d}.jpg", f"Note {n}."] for n in range(12)]
    )


def run(path, out, *options, status=0):
    assert prepare.main(["notes", str(path), "--out-dir", str(out), "--workers", "1", *options]) == status


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def snapshot(folder):
    return (
        {p.name: p.read_bytes() for p in folder.iterdir() if p.name != engine.CACHE}
        if folder.exists()
        else {}
    )


# --- pictures -------------------------------------------------------------------------------------------


def test_measures_are_of_the_upright_picture_and_of_the_files_bytes(tmp_path):
    import hashlib

    import imagehash

    upright = Image.open(io.BytesIO(image_bytes(1, (60, 40)))).convert("RGB")
    turned, exif = upright.transpose(Image.Transpose.ROTATE_90), Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    turned.save(tmp_path / "a.png", exif=exif)
    measures = measure(str(tmp_path / "a.png"))
    assert (measures.width, measures.height) == (60, 40)
    assert measures.phash == str(imagehash.phash(upright))
    assert re.fullmatch("[0-9a-f]{16}", measures.phash)
    assert measures.sha256 == hashlib.sha256((tmp_path / "a.png").read_bytes()).hexdigest()


def test_unusable_pictures_are_refused_by_reason_and_never_touched(tmp_path, capsys):
    bomb = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(bomb, "PNG")
    bad = {
        "cut.jpg": (image_bytes(1, (200, 200))[:2000], "damaged"),
        "text.jpg": (b"no picture at all", "not_an_image"),
        "empty.jpg": (b"", "not_an_image"),
        "dot.png": (image_bytes(2, (1, 1), format="PNG"), "too_small"),
        "bomb.png": (bomb.getvalue(), "too_large"),
    }
    for name, (data, _) in bad.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "good.jpg").write_bytes(image_bytes(3))
    names = [*bad, "gone.jpg", "folder.jpg", "good.jpg"]
    before = {p: (p.stat().st_mtime_ns, p.is_file() and p.read_bytes()) for p in tmp_path.iterdir()}
    path = write_csv(tmp_path / "in/n.csv", ["image", "note"], [[name, "x"] for name in names])
    run(path, tmp_path / "out", "--images", str(tmp_path))
    refusals = {Path(r["image"]).name: (r["row"], r["reason"]) for r in read(tmp_path / "out/rejected.jsonl")}
    expected = {name: reason for name, (_, reason) in bad.items()} | {
        "gone.jpg": "missing",
        "folder.jpg": "unreadable",
    }
    assert refusals == {name: (names.index(name) + 2, reason) for name, reason in expected.items()}
    assert [Path(r["image"]).name for r in read(tmp_path / "out/all.jsonl")] == ["good.jpg"]
    assert before == {p: (p.stat().st_mtime_ns, p.is_file() and p.read_bytes()) for p in before}
    shown = capsys.readouterr().out
    assert re.search(r"kept +1 ", shown)
    assert re.search(r"refused +7 ", shown)
    assert re.search(r"2  not_an_image: not a picture that can be read", shown)


def test_every_reason_for_a_picture_is_explained():
    from skingpt4.records.images import REASONS

    assert set(summary.IMAGE_REASONS) == set(REASONS)


def test_members_of_a_tar_are_pictures_too(tmp_path):
    import tarfile

    (tmp_path / "a.jpg").write_bytes(image_bytes(5))
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        tar.add(tmp_path / "a.jpg", "in/a.jpg")
    path = write_csv(tmp_path / "n.csv", ["image", "note"], [["s.tar/in/a.jpg", "x"], ["a.jpg", "x"]])
    run(path, tmp_path / "out")
    one, two = read(tmp_path / "out/all.jsonl")
    assert one["image"] == "../s.tar/in/a.jpg"
    assert one["sha256"] == two["sha256"]


# --- what is written --------------------------------------------------------------------------------------


def test_records_fit_the_schema_and_training_reads_them(tmp_path):
    folder = write_skincon(tmp_path / "in")
    out = tmp_path / "link"
    (tmp_path / "elsewhere/deep").mkdir(parents=True)
    out.symlink_to(tmp_path / "elsewhere/deep")  # .. in a record must mean the real parent
    assert prepare.main([*skincon_arguments(folder), "--out-dir", str(out)]) == 0
    schema = json.loads((ROOT / "data/record.schema.json").read_text())
    for record in read(out / "all.jsonl"):
        jsonschema.validate(record, schema)
    records = read_manifest(out / "all.jsonl")
    assert len(records) == 6
    assert all(record.image_path.is_file() for record in records)


def test_the_same_bytes_twice_are_kept_and_counted(clinic, tmp_path, capsys):
    (tmp_path / "03.jpg").write_bytes((tmp_path / "02.jpg").read_bytes())
    run(clinic, tmp_path / "out")
    assert len(read(tmp_path / "out/all.jsonl")) == 12
    assert "1  with the same bytes as an earlier one" in capsys.readouterr().out


def test_any_number_of_workers_writes_the_same(clinic, tmp_path, monkeypatch):
    run(clinic, tmp_path / "one")
    monkeypatch.setattr(engine, "SERIAL_BELOW", 0)
    monkeypatch.setattr(images, "CHUNK", 1)
    run(clinic, tmp_path / "two", "--workers", "2")
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "two")


def test_a_second_run_reads_no_picture_and_changes_no_byte(clinic, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    (tmp_path / "05.jpg").write_bytes(b"no picture")
    run(clinic, out)
    first = snapshot(out)
    assert "12 pictures were read" in capsys.readouterr().out
    monkeypatch.setattr(images, "measure", lambda path: pytest.fail("measured again"))
    run(clinic, out)
    assert snapshot(out) == first
    assert "0 pictures were read" in capsys.readouterr().out
    monkeypatch.undo()
    (tmp_path / "05.jpg").write_bytes(image_bytes(700))
    run(clinic, out)
    assert "1 pictures were read" in capsys.readouterr().out
    assert len(read(out / "all.jsonl")) == 12
    run(clinic, out, "--fresh")
    assert "12 pictures were read" in capsys.readouterr().out


def test_a_limit_and_a_dry_run(clinic, tmp_path, capsys):
    out = tmp_path / "out"
    run(clinic, out, "--dry-run")
    shown = capsys.readouterr().out
    assert shown.count("kept") == prepare.DRY_ROWS
    assert "the first 5 of 12 rows; nothing was written" in shown
    assert not out.exists()
    run(clinic, out, "--limit", "3")
    assert len(read(out / "all.jsonl")) == 3
    assert "only the first 3 of 12 rows" in capsys.readouterr().out
    run(clinic, out)
    assert "9 pictures were read" in capsys.readouterr().out


def test_rows_are_read_a_bounded_distance_ahead(tmp_path):
    read_so_far = 0

    def rows():
        nonlocal read_so_far
        for n in range(20_000):
            read_so_far = n + 1
            yield n

    measurer = Measurer(MeasureCache(":memory:"), 2)
    bound = 2 * images.CHUNKS_PER_WORKER * images.CHUNK
    for n, *_ in measurer(rows(), lambda row: None, str):
        assert read_so_far <= n + bound + images.CHUNK


# --- what stops a run ---------------------------------------------------------------------------------------


def test_where_nothing_is_kept_the_manifest_stays(clinic, tmp_path, capsys):
    out = tmp_path / "out"
    run(clinic, out)
    before = (out / "all.jsonl").read_bytes()
    for path in tmp_path.glob("*.jpg"):
        path.write_bytes(b"gone bad")
    capsys.readouterr()
    run(clinic, out, status=1)
    output = capsys.readouterr()
    assert "no record was kept" in output.err
    assert "is as it was before" in output.err
    assert (out / "all.jsonl").read_bytes() == before
    assert len(read(out / "rejected.jsonl")) == 12


def test_a_table_without_rows_is_told_and_nothing_is_written(tmp_path, capsys):
    path = write_csv(tmp_path / "n.csv", ["image", "note"], [])
    run(path, tmp_path / "out", status=1)
    assert "the source holds no rows" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_table_that_breaks_further_down_leaves_everything_as_it_was(clinic, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    run(clinic, out)
    before = snapshot(out)
    clinic.write_bytes(clinic.read_bytes() + b"13.jpg,\xff\xfe\n")
    run(clinic, out, status=1)
    assert "is not UTF-8" in capsys.readouterr().err
    assert snapshot(out) == before
    monkeypatch.setattr(
        "data.reading.tables.Table.count", lambda self: 13
    )  # as if it broke after it was counted
    run(clinic, out, status=1)
    assert snapshot(out) == before


def test_a_full_disk_is_one_sentence(clinic, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    run(clinic, out)
    before = snapshot(out)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    run(clinic, out, status=1)
    assert "No space left on device" in capsys.readouterr().err
    assert snapshot(out) == before


def test_a_folder_that_cannot_be_written(clinic, tmp_path, capsys):
    run(clinic, tmp_path / "00.jpg" / "out", status=1)
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_two_runs_at_once_are_told_apart(clinic, tmp_path, capsys):
    out = tmp_path / "out"
    run(clinic, out)
    other = MeasureCache(out / engine.CACHE)
    for options in ((), ("--fresh",)):
        run(clinic, out, *options, status=1)
        assert "another run is using this folder" in capsys.readouterr().err
    other.close()
    run(clinic, out)


def test_a_damaged_memory_of_pictures_says_what_to_do(clinic, tmp_path, capsys):
    out = tmp_path / "out"
    run(clinic, out)
    (out / engine.CACHE).write_bytes(b"no data base at all" * 100)
    run(clinic, out, status=1)
    assert "delete it, and the images are measured again" in capsys.readouterr().err


def test_pictures_measured_by_another_version_are_measured_again(clinic, tmp_path, capsys, monkeypatch):
    run(clinic, tmp_path / "out")
    capsys.readouterr()
    monkeypatch.setattr(images, "VERSION", "another")
    run(clinic, tmp_path / "out")
    assert "12 pictures were read" in capsys.readouterr().out


SCRIPT = """
import multiprocessing, os, signal, sys
from data import prepare
from data.preparing import engine, images
engine.SERIAL_BELOW, images.COMMIT_SECONDS, images.CHUNK, images.CHUNKS_PER_WORKER = 0, 0, 2, 1
{change}
if __name__ == "__main__":
    sys.exit(prepare.main(sys.argv[1:]))
"""
DIES = """
put, count = images.MeasureCache.put, 0
def dying(self, *args):
    global count
    put(self, *args)
    count += 1
    if count == 7:
        print(*(child.pid for child in multiprocessing.active_children()), flush=True)
        {how}
images.MeasureCache.put = dying
"""
WORKER_DIES = """
measure = images.measure
images.measure = lambda path: os.kill(os.getpid(), 9) if path.endswith("07.jpg") else measure(path)
"""


def run_apart(change, path, folder):
    """Prepare in a process of its own, two workers, with a change to the code; what it wrote is in folder/out."""
    script = folder / "script.py"
    script.write_text(SCRIPT.format(change=change))
    command = [sys.executable, script, "notes", path, "--out-dir", folder / "out", "--workers", "2"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        list(map(str, command)), env=env, capture_output=True, text=True, timeout=600, start_new_session=True
    )
    assert "Traceback" not in ended.stderr, ended.stderr
    return ended


@pytest.mark.parametrize(
    ("how", "status"),
    [("os.kill(os.getpid(), signal.SIGKILL)", -9), ("os.killpg(0, signal.SIGINT)", 130)],
    ids=["kill -9", "Ctrl-C"],
)
def test_a_run_that_was_stopped_goes_on_where_it_was(clinic, tmp_path, how, status, capsys):
    run(clinic, tmp_path / "whole")
    out = tmp_path / "out"
    ended = run_apart(DIES.format(how=how), clinic, tmp_path)
    assert ended.returncode == status, ended.stderr
    assert ("the same command continues from here" in ended.stderr) == (status == 130)
    assert not {"all.jsonl", "rejected.jsonl"} & {path.name for path in out.iterdir()}
    wait_for_end([int(pid) for pid in ended.stdout.split()])
    capsys.readouterr()
    run(clinic, out)
    assert snapshot(out) == snapshot(tmp_path / "whole")  # and no half-written file is left
    measured = int(re.search(r"(\d+) pictures were read", capsys.readouterr().out)[1])
    assert 0 < measured <= 12 - 6


def wait_for_end(pids):
    """Workers end with the process that started them."""
    assert len(pids) in (1, 2)
    until = time.monotonic() + 300
    while any(
        Path(f"/proc/{pid}").exists() and "zombie" not in Path(f"/proc/{pid}/status").read_text()
        for pid in pids
    ):
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_killed_worker_is_one_sentence_and_nothing_is_lost(clinic, tmp_path):
    ended = run_apart(WORKER_DIES, clinic, tmp_path)
    assert ended.returncode == 1
    assert "a worker process was killed" in ended.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {engine.CACHE}
    base = sqlite3.connect(tmp_path / "out" / engine.CACHE)
    assert base.execute("SELECT COUNT(*) FROM pictures").fetchone()[0] >= 2


# --- what people see ----------------------------------------------------------------------------------------


def test_help_names_every_source_and_says_what_this_is(capsys):
    commands = [*prepare.SOURCES, prepare.DOWNLOAD]
    with pytest.raises(SystemExit) as ended:
        prepare.main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in commands)
    assert "not a medical device" in shown
    for name in commands:
        with pytest.raises(SystemExit) as ended:
            prepare.main([name, "--help"])
        assert ended.value.code == 0
        assert f"python -m data.prepare {name}" in capsys.readouterr().out


def test_dicom_photographs_become_records_and_what_their_files_say_is_counted(tmp_path, capsys):
    from skingpt4.records.images import REMARKS
    from tests.support.dicom_files import PERSON, photograph

    (tmp_path / "a.dcm").write_bytes(photograph(BurnedInAnnotation="YES"))
    (tmp_path / "ct.dcm").write_bytes(photograph(sop_class="1.2.840.10008.5.1.4.1.1.2"))
    path = write_csv(tmp_path / "in/n.csv", ["image", "note"], [["a.dcm", "x"], ["ct.dcm", "x"]])
    for _ in range(2):  # the second time from the cache
        run(path, tmp_path / "out", "--images", str(tmp_path))
        (record,) = read(tmp_path / "out/all.jsonl")
        assert (record["width"], record["height"]) == (48, 32)
        (refusal,) = read(tmp_path / "out/rejected.jsonl")
        assert refusal["reason"] == "not_a_photograph"
        assert f"1  {REMARKS['burnt_in_text']}" in capsys.readouterr().out
        written = b"".join(p.read_bytes() for p in (tmp_path / "out").iterdir())
        assert PERSON.encode() not in written
