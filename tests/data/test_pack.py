"""Packing: the same pictures out of shards, resumable, and nothing of the user's is touched."""

import argparse
import hashlib
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from data.pack import main, parse_size
from data.preparing import shards
from data.preparing.shards import PackError, pack
from skingpt4.records.images import open_image
from skingpt4.records.manifest import read_manifest
from skingpt4.records.record import RecordError


@pytest.fixture
def manifest(tmp_path):
    folder = tmp_path / "mine"
    (folder / "images").mkdir(parents=True)
    lines = []
    for n in range(10):
        path = folder / "images" / f"p{n}.{'jpg' if n % 2 else 'webp'}"
        pixels = np.random.default_rng(n).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        exif = Image.Exif()
        exif[0x010E], exif[0x0112] = "patient seventeen", 6
        Image.fromarray(pixels).save(path, exif=exif)
        lines.append(
            {"image": f"images/{path.name}", "note": f"note {n}\u2028", "x_camera": n, "case_id": f"c{n}"}
        )
    lines[3]["sha256"] = hashlib.sha256((folder / lines[3]["image"]).read_bytes()).hexdigest()
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def everything(folder):
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_packed_records_show_the_same_pictures(manifest, tmp_path):
    mine = everything(manifest.parent)
    target = pack(manifest, tmp_path / "out", 6000, progress=False)
    before, after = read_manifest(manifest), read_manifest(target)
    assert len(after) == 10
    for one, other in zip(before, after, strict=True):
        assert np.array_equal(
            np.asarray(open_image(one.image_path)), np.asarray(open_image(other.image_path))
        )
        assert (one.note, one.case_id) == (other.note, other.case_id)
        assert (other.width, other.height) == (20, 30)
        assert len(other.phash) == 16
    assert everything(manifest.parent) == mine
    files = sorted((tmp_path / "out" / "shards").iterdir())
    assert [path.name for path in files] == [f"{n:06d}.tar" for n in range(len(files))]
    assert len(files) > 2
    assert b"seventeen" not in b"".join(path.read_bytes() for path in files)
    rows = [json.loads(line) for line in target.read_text().split("\n") if line]
    assert [row["x_camera"] for row in rows] == list(range(10))
    with tarfile.open(files[0]) as tar:  # as WebDataset groups them: one key, a picture and its record
        names = tar.getnames()
        assert names[:2] == ["000000000.png", "000000000.json"]
        assert json.load(tar.extractfile("000000001.json")) == rows[1]
        member = tar.extractfile("000000001.jpg").read()
    assert rows[1]["sha256"] == hashlib.sha256(member).hexdigest()
    original = (manifest.parent / "images" / "p1.jpg").read_bytes()
    assert rows[1]["x_original_sha256"] == hashlib.sha256(original).hexdigest()


def test_pictures_named_in_any_way_are_packed(manifest, tmp_path, capsys):
    folder = manifest.parent
    (folder / "images/p1.jpg").rename(folder / "images/L\udce4sion.jpg")
    (tmp_path / "elsewhere.jpg").write_bytes((folder / "images/p3.jpg").read_bytes())
    names = ["images/L\udce4sion.jpg", "images\\p3.jpg", str(tmp_path / "elsewhere.jpg"), "../elsewhere.jpg"]
    manifest.write_text("".join(json.dumps({"image": name}) + "\n" for name in names))
    target = pack(manifest, tmp_path / "out", 6000, progress=False)
    again = pack(target, tmp_path / "again", 10**6, progress=False)
    for one, other in zip(read_manifest(manifest), read_manifest(again), strict=True):
        assert np.array_equal(
            np.asarray(open_image(one.image_path)), np.asarray(open_image(other.image_path))
        )
    manifest.write_text('{"image": "images/P3.JPG"}\n')
    assert main([str(manifest), "--out-dir", str(tmp_path / "gone")]) == 1
    assert "is not there; there is 'p3.jpg'" in capsys.readouterr().err


def test_a_stopped_run_goes_on_after_its_last_whole_shard(manifest, tmp_path, monkeypatch):
    complete = pack(manifest, tmp_path / "whole", 6000, progress=False)
    real, seen = shards._clean_image, []

    def stop(where, record, folder):
        if len(seen) == 6:
            raise KeyboardInterrupt
        seen.append(record["image"])
        return real(where, record, folder)

    monkeypatch.setattr(shards, "_clean_image", stop)
    with pytest.raises(KeyboardInterrupt):
        pack(manifest, tmp_path / "out", 6000, progress=False)
    assert not (tmp_path / "out" / "train.jsonl").exists()
    assert not list((tmp_path / "out" / "shards").glob("*.part"))
    finished = everything(tmp_path / "out" / "shards")
    assert finished
    seen.clear()
    monkeypatch.setattr(shards, "_clean_image", lambda *args: seen.append(1) or real(*args))
    target = pack(manifest, tmp_path / "out", 6000, progress=False)
    assert 0 < len(seen) < 10
    assert target.read_text() == complete.read_text()
    assert list(everything(tmp_path / "out" / "shards").values()) == list(
        everything(tmp_path / "whole" / "shards").values()
    )
    seen.clear()
    again = pack(manifest, tmp_path / "out", 6000, progress=False)
    assert not seen
    assert again.read_text() == complete.read_text()


@pytest.mark.parametrize("harm", ["gone", "damaged", "changed"])
def test_a_picture_that_cannot_be_packed_is_named(harm, manifest, tmp_path, capsys):
    path = manifest.parent / "images" / "p3.jpg"
    if harm == "gone":
        path.unlink()
    elif harm == "damaged":
        path.write_bytes(b"words")
        lines = manifest.read_text().splitlines()
        row = json.loads(lines[3]) | {"sha256": None}
        manifest.write_text("\n".join([*lines[:3], json.dumps(row), *lines[4:]]) + "\n")
    else:
        Image.new("RGB", (20, 20), "red").save(path)
    assert main([str(manifest), "--out-dir", str(tmp_path / "out")]) == 1
    message = capsys.readouterr().err
    assert "train.jsonl, line 4: " in message
    assert "p3.jpg" in message
    assert not (tmp_path / "out" / "train.jsonl").exists()


def test_folders_that_cannot_take_it(manifest, tmp_path):
    with pytest.raises(PackError, match="own folder"):
        pack(manifest, manifest.parent, 6000)
    pack(manifest, tmp_path / "out", 6000, progress=False)
    with pytest.raises(PackError, match="holds another packing"):
        pack(manifest, tmp_path / "out", 7000)
    (tmp_path / "foreign" / "shards").mkdir(parents=True)
    (tmp_path / "foreign" / "shards" / "000000.tar").write_bytes(b"mine")
    with pytest.raises(PackError, match="shards of something else"):
        pack(manifest, tmp_path / "foreign", 6000)
    assert (tmp_path / "foreign" / "shards" / "000000.tar").read_bytes() == b"mine"


def test_a_bad_manifest_is_refused_before_anything_is_written(manifest, tmp_path):
    manifest.write_text(manifest.read_text() + "{}\n")
    with pytest.raises(RecordError, match="line 11"):
        pack(manifest, tmp_path / "out", 6000)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "size"), [("500MB", 500_000_000), ("1.5 GiB", 3 << 29), ("10", 10), ("2kb", 2000)]
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "MB", "-1MB", "5TB"])
def test_what_is_no_size(text):
    with pytest.raises(argparse.ArgumentTypeError):
        parse_size(text)
