"""A record's keys are the same whether the manifest has them or they are computed from its file."""

import hashlib
import json
import os
import sqlite3
import tarfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from skingpt4.records.comparing import hashes
from skingpt4.records.comparing.hashes import Hashes, hashes_of
from skingpt4.records.comparing.identity import (
    IdentityError,
    Keys,
    are_compared,
    comparable,
    not_compared,
    require_compared,
)
from skingpt4.records.comparing.overlap import find_overlaps
from skingpt4.records.manifest import chain, read_manifest


@pytest.fixture
def photograph(tmp_path):
    def save(name, seed=0):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 255, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(path)
        return path

    return save


@pytest.fixture
def keys_of(tmp_path):
    def make(*rows, name="m.jsonl"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return Keys(read_manifest(path))

    return make


@pytest.fixture(scope="module")
def keys_of_one_file(tmp_path_factory):
    """As `keys_of`, for hypothesis: always the same file."""
    path = tmp_path_factory.mktemp("one") / "m.jsonl"

    def make(*rows):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return Keys(read_manifest(path))

    return make


def test_missing_hashes_are_computed_and_known_ones_are_not(photograph, keys_of):
    path = photograph("p/a.png")
    sha256, phash = hashlib.sha256(path.read_bytes()).hexdigest(), hashes_of(path).phash
    keys = keys_of(
        {"image": "p/a.png"},
        {"image": "p/a.png", "sha256": "f" * 64},  # what a record says is taken
        {"image": "p/gone.png", "phash": "0f" * 8},
        {"image": "p/gone.png"},
    )
    assert keys.column("sha256").to_pylist() == [sha256, "f" * 64, None, None]
    assert keys.column("phash").to_pylist() == [phash, phash, "0f" * 8, None]
    assert keys.content.tolist() == [3, 3, 2, 0]
    assert keys.missing_hashes(0) == {"sha256": sha256, "phash": phash}
    assert keys.missing_hashes(1) == {"phash": phash}
    assert keys.missing_hashes(3) == {}


def test_no_file_is_opened_for_records_with_hashes_or_for_their_ids(photograph, keys_of, monkeypatch):
    photograph("a.png")
    monkeypatch.setattr(hashes, "hashes_of", lambda path: pytest.fail("opened a file"))
    complete = keys_of({"image": "a.png", "sha256": "a" * 64, "phash": "a" * 16}, name="complete.jsonl")
    assert complete.content.tolist() == [3]
    lacking = keys_of({"image": "a.png", "case_id": "c", "source": "s"})
    assert lacking.column("case_id").to_pylist() == ["s\0c"]
    assert lacking.column("patient_id").to_pylist() == [None]
    assert len(lacking.column("path")) == 1


def test_a_member_of_an_archive_and_a_link_are_hashed_as_the_file_is(photograph, keys_of, tmp_path):
    path = photograph("p/a.png")
    (tmp_path / "link.png").symlink_to(path)
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        tar.add(path, "images/a.png")
    keys = keys_of(*({"image": name} for name in ("p/a.png", "link.png", "shard.tar/images/a.png")))
    assert len(set(keys.column("sha256").to_pylist())) == 1
    assert keys.content.tolist() == [3, 3, 3]


@pytest.mark.parametrize("name", ["gone.png", "folder", "pipe", "shard.tar/none.png", "damaged.tar/a.png"])
def test_what_is_no_readable_file_has_no_hashes(name, tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    tarfile.open(tmp_path / "shard.tar", "w").close()
    (tmp_path / "damaged.tar").write_bytes(b"not an archive")
    assert hashes_of(tmp_path / name) == Hashes()


def test_a_file_that_is_no_image_is_still_compared_by_its_bytes(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"truncated")
    assert hashes_of(tmp_path / "a.jpg") == Hashes(hashlib.sha256(b"truncated").hexdigest(), None)


SPARSE = st.sets(st.integers(0, 63), max_size=9).map(lambda bits: sum(1 << bit for bit in bits))


@given(st.lists(st.integers(0, 2**64 - 1) | SPARSE, min_size=1))
def test_a_perceptual_hash_of_few_bits_says_nothing(keys_of_one_file, values):
    rows = [{"image": "gone.png", "phash": f"{value:016x}"} for value in values]
    keys = keys_of_one_file(*rows)
    expected = [f"{value:016x}" if value.bit_count() >= 8 else None for value in values]
    assert keys.column("phash").to_pylist() == expected
    assert [kinds == 2 for kinds in keys.content] == [text is not None for text in expected]


def test_pictures_of_one_colour_are_not_one_picture(keys_of, tmp_path):
    for number in range(2):
        Image.new("RGB", (20, 10), (number, 90, 90)).save(tmp_path / f"{number}.png")
    one, other = (keys_of({"image": f"{number}.png"}, name=f"{number}.jsonl") for number in range(2))
    assert find_overlaps(one, other) == []
    assert one.content.tolist() == [1]


# ---- the cache


@pytest.fixture
def counted(monkeypatch):
    """How many files were hashed, with a cache for two images or more."""
    opened = []

    def counting(path):
        opened.append(path)
        return hashes_of(path)

    monkeypatch.setattr(hashes, "MIN_CACHED", 2)
    monkeypatch.setattr(hashes, "hashes_of", counting)
    return opened


ROWS = [{"image": f"{number}.png"} for number in range(3)]


def test_hashes_are_computed_once_and_again_where_the_file_changed(photograph, keys_of, tmp_path, counted):
    for number in range(2):
        photograph(f"{number}.png", number)
    first = keys_of(*ROWS).column("sha256").to_pylist()
    assert (len(counted), first[2]) == (2, None)
    assert keys_of(*ROWS).column("sha256").to_pylist() == first
    assert len(counted) == 2
    photograph("1.png", 7)
    photograph("2.png", 8)  # was not there before
    again = keys_of(*ROWS).column("sha256").to_pylist()
    assert len(counted) == 4
    assert (again[0], again[1] != first[1], again[2] is not None) == (first[0], True, True)
    cache = tmp_path / ".m.jsonl.hashes.sqlite"
    assert cache.stat().st_mode & 0o777 == 0o600


def test_manifests_that_share_a_part_share_its_hashes(photograph, keys_of, counted):
    photograph("0.png")
    records = keys_of(ROWS[0]).records
    assert Keys(records).content.tolist() == Keys(chain([records])).content.tolist() == [3]
    assert len(counted) == 1


@pytest.mark.parametrize("state", ["damaged", "read-only folder", "another table"])
def test_a_cache_that_cannot_be_used_costs_only_time(
    state, photograph, keys_of, tmp_path, counted, monkeypatch
):
    for number in range(3):
        photograph(f"{number}.png", number)
    cache = tmp_path / ".m.jsonl.hashes.sqlite"
    if state == "damaged":
        cache.write_bytes(b"not a data base" * 100)
    elif state == "another table":
        with sqlite3.connect(cache) as base:
            base.execute("CREATE TABLE hashes (other TEXT)")
        base.close()
    else:
        monkeypatch.setattr(hashes, "private_file", lambda path: (_ for _ in ()).throw(PermissionError()))
    assert keys_of(*ROWS).content.tolist() == [3, 3, 3]


def test_few_hashes_leave_no_file_behind(photograph, keys_of, tmp_path):
    photograph("0.png")
    assert keys_of(*ROWS).content.tolist() == [3, 0, 0]
    assert not list(tmp_path.glob(".*"))


# ---- paths


@given(st.lists(st.sampled_from([".", "..", "a", "b.tar", "é ü#%'\"\n", "..."]), min_size=1, max_size=5))
def test_a_path_is_resolved_as_the_system_does(tmp_path_factory, parts):
    folder = tmp_path_factory.mktemp("paths")
    image = "/".join([*parts, "x.jpg"])
    expected = os.path.realpath(folder / image)
    for written, name in ((image, "relative"), (str(folder / image), "absolute"), (f"./{image}", "dotted")):
        path = folder / f"{name}.jsonl"
        path.write_text(json.dumps({"image": written}) + "\n")
        assert Keys(read_manifest(path)).column("path").to_pylist() == [expected]


def test_odd_names_of_one_file_are_one_path(keys_of, tmp_path):
    odd = os.fsdecode(b"\xe4.jpg")
    (tmp_path / "f").mkdir()
    for name in (odd, "a.jpg"):
        (tmp_path / "f" / name).write_bytes(b"x")
    rows = [{"image": name} for name in (f"f/{odd}", f"./f/{odd}", "f\\a.jpg", "f/a.jpg", "f\\gone.jpg")]
    keys = keys_of(*rows)
    column = keys.column("path").to_pylist()
    assert column[0] == column[1] != column[2] == column[3]
    assert column[4] == str(tmp_path.resolve() / "f\\gone.jpg")
    assert [bool(kinds) for kinds in keys.content] == [True] * 4 + [False]


def test_a_linked_folder_is_its_target(keys_of, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    column = keys_of({"image": "link/a.jpg"}, {"image": "real/a.jpg"}, {"image": "real/b.jpg"}).column("path")
    assert column[0] == column[1] != column[2]


# ---- what could be compared


CONTENT = st.lists(st.integers(0, 3), max_size=6).map(lambda values: np.array(values, dtype=np.uint8))


@given(CONTENT, CONTENT)
def test_a_record_is_compared_if_it_shares_a_hash_with_all_that_have_one(own, others):
    expected = [bool(one) and all(one & other for other in others if other) for one in own]
    assert comparable(own, others).tolist() == expected
    assert are_compared(own, others) == any(one & other for one in own for other in others)
    sentences = not_compared(own, others, "x")
    assert bool(sentences) == (not all(expected))
    if sentences:
        assert sentences[0].startswith(
            f"{expected.count(False)} of {len(own)} records of x could not be compared"
        )


def test_a_group_that_cannot_be_compared_with_the_first_is_refused_by_name():
    content = np.array([3, 0, 3, 3, 0, 0], dtype=np.uint8)
    assert require_compared(content, [("own", 3), ("cases", 1)]) == [
        "1 of 3 records of own could not be compared: no hash and no file that can be read"
    ]
    with pytest.raises(
        IdentityError, match=r"2 of 2 records of blind could not be compared: .*; put the pictures"
    ):
        require_compared(content, [("own", 3), ("cases", 1), ("blind", 2)])
    with pytest.raises(IdentityError, match="2 of 3 records of own"):
        require_compared(np.array([0, 3, 0], dtype=np.uint8), [("own", 3)])
    with pytest.raises(
        IdentityError, match="2 of 2 records of own"
    ):  # one has only bytes, one only the other hash
        require_compared(np.array([1, 2], dtype=np.uint8), [("own", 2)])
    assert require_compared(np.array([3], dtype=np.uint8), [("own", 1)]) == []
