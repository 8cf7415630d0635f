"""Staging: packed pictures from a storage of fsspec's, resumed, complete or refused in a sentence."""

import json
import tarfile

import fsspec
import numpy as np
import pytest
from PIL import Image

from data.pack import main
from data.preparing import staging
from data.preparing.shards import pack
from data.preparing.staging import StageError, stage
from skingpt4.records.images import open_image
from skingpt4.records.manifest import read_manifest

ADDRESS = "memory://bucket/packed/train.jsonl"


@pytest.fixture
def packed(tmp_path):
    """Ten pictures in several shards, packed here."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for n in range(10):
        pixels = np.random.default_rng(n).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"p{n}.png")
    rows = [{"image": f"p{n}.png", "note": f"note {n}"} for n in range(10)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return pack(folder / "train.jsonl", tmp_path / "packed", 8000, progress=False)


@pytest.fixture
def storage(packed):
    """The same in fsspec's storage in memory; its paths begin with the bucket."""
    system = fsspec.filesystem("memory")
    system.put(str(packed.parent), "/bucket/packed", recursive=True)
    yield system
    system.rm("/bucket", recursive=True)


def everything(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_copy_shows_the_same_pictures(packed, storage, tmp_path, capsys):
    out = tmp_path / "copy"
    assert main([ADDRESS, "--out-dir", str(out)]) == 0
    count = len(list((out / "shards").iterdir()))
    assert count > 2
    assert capsys.readouterr().out == f"{out / 'train.jsonl'}: 10 records in {count} shards\n"
    own = everything(packed.parent)
    assert everything(out) == {path: own[path] for path in own if path.name != "packing.json"}
    one, other = (read_manifest(path)[7] for path in (packed, out / "train.jsonl"))
    assert np.array_equal(np.asarray(open_image(one.image_path)), np.asarray(open_image(other.image_path)))


def test_a_copy_that_was_stopped_copies_only_what_is_missing(storage, tmp_path, monkeypatch):
    out, real, opened = tmp_path / "copy", storage.__class__.open, []

    def open_few(self, path, *args, **kwargs):
        if path.endswith(".tar"):
            opened.append(path)
            if len(opened) == 2:
                raise OSError("the line is dead")
        return real(self, path, *args, **kwargs)

    monkeypatch.setattr(storage.__class__, "open", open_few)
    with pytest.raises(StageError, match=r"cannot be copied \(the line is dead\)"):
        stage(ADDRESS, out, progress=False)
    assert not (out / "train.jsonl").exists()
    assert not list(out.rglob("*.part"))
    stage(ADDRESS, out, progress=False)
    assert len(opened) == 1 + len(list((out / "shards").iterdir()))
    opened.clear()
    assert len(read_manifest(stage(ADDRESS, out, progress=False))) == 10
    assert opened == []


def test_what_is_cut_on_its_way_is_not_taken(storage, tmp_path, monkeypatch):
    real = staging._size
    monkeypatch.setattr(staging, "_size", lambda *args: real(*args) + 1)
    with pytest.raises(StageError, match="arrived with another size"):
        stage(ADDRESS, tmp_path / "copy", progress=False)
    assert not list((tmp_path / "copy/shards").iterdir())


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("memory://bucket/packed/none.jsonl", "cannot be copied"),
        ("nothing://bucket/train.jsonl", "nothing"),
        ("http://example.org/train.jsonl", "unencrypted; use https"),
    ],
)
def test_an_address_that_cannot_be_read_is_refused(address, sentence, storage, tmp_path, capsys):
    assert main([address, "--out-dir", str(tmp_path / "copy")]) == 1
    err = capsys.readouterr().err
    assert sentence in err
    assert "Traceback" not in err
    assert not (tmp_path / "copy/train.jsonl").exists()


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        ("p1.png", "line 2: the picture is in no tar shard; pack it with python -m data.pack"),
        ("../outside.tar/1.png", r"lies outside the manifest's folder"),
        ("/tmp/outside.tar/1.png", r"lies outside the manifest's folder"),
        ("shards/000099.tar/1.png", "000099.tar: is not in the storage, but the manifest names it"),
    ],
)
def test_a_manifest_that_names_something_else_is_refused(image, sentence, packed, storage, tmp_path):
    lines = packed.read_text().splitlines(keepends=True)
    lines[1] = json.dumps(json.loads(lines[1]) | {"image": image}) + "\n"
    storage.pipe("/bucket/packed/train.jsonl", "".join(lines).encode())
    with pytest.raises(StageError, match=sentence):
        stage(ADDRESS, tmp_path / "copy", progress=False)
    assert not (tmp_path / "outside.tar").exists()


def test_a_shard_that_is_no_tar_is_refused(storage, tmp_path):
    storage.pipe("/bucket/packed/shards/000001.tar", b"\x1f\x8b" + bytes(2000))
    with pytest.raises(StageError, match="is not a tar archive"):
        stage(ADDRESS, tmp_path / "copy", progress=False)


def test_the_shards_are_plain_tar_files_of_webdataset_s_layout(packed):
    """Each sample's files follow each other and have its key, so that a stream of a shard gives complete samples."""
    with tarfile.open(next((packed.parent / "shards").iterdir()), "r|") as stream:
        names = [member.name for member in stream]
    keys = [name.split(".")[0] for name in names]
    assert keys == [key for key in dict.fromkeys(keys) for _ in range(2)]
    assert {name.split(".")[1] for name in names[1::2]} == {"json"}
