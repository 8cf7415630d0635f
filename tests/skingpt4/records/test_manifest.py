"""Large manifests: checked once, mapped from then on; every road gives the same records."""

import json
import multiprocessing
import os
import pickle
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skingpt4.records import manifest
from skingpt4.records.manifest import Manifest, chain, evenly_spread, image_paths, read_manifest
from skingpt4.records.record import RecordError
from tests.skingpt4.records.test_record import ROW


def rows(count):
    for n in range(count):
        row = ROW | {"image": f"images/{n}.png", "note": "\u2028" * (n % 3) + "é", "case_id": f"c{n}"}
        for key in list(ROW)[1 : n % 5]:
            row[key] = None
        yield row


@pytest.fixture
def written(tmp_path):
    def write(count=50, name="manifest.jsonl", extra=""):
        path = tmp_path / name
        text = "".join(
            json.dumps(row, ensure_ascii=False) + "\n" + "\n" * (row["width"] is None) for row in rows(count)
        )
        path.write_text(text + extra, encoding="utf-8")
        return path

    return write


@pytest.fixture
def large(monkeypatch):
    """Every manifest counts as large, and its blocks are small."""
    monkeypatch.setattr(manifest, "SMALL_BYTES", 0)
    monkeypatch.setattr(manifest, "BLOCK_BYTES", 3000)


def hidden_files(folder):
    return sorted(folder.glob(".*"))


def test_the_map_gives_what_the_memory_gives(written, monkeypatch):
    path = written()
    small = read_manifest(path)
    assert hidden_files(path.parent) == []
    monkeypatch.setattr(manifest, "SMALL_BYTES", 0)
    monkeypatch.setattr(manifest, "BLOCK_BYTES", 3000)
    first, second = read_manifest(path), read_manifest(path)
    assert list(small) == list(first) == list(second)
    assert [first[n] for n in range(50)] == list(first)
    assert (first[-1], first[10:14]) == (list(first)[-1], list(first)[10:14])
    assert len(first) == 50
    assert [first.image_path(n) for n in (0, 7, -1)] == [first[n].image_path for n in (0, 7, -1)]
    for outside in (50, -51):
        with pytest.raises(IndexError):
            first[outside]
    assert [first.where(n) for n in (0, 49)] == [small.where(n) for n in (0, 49)]
    lines = path.read_text(encoding="utf-8").split("\n")
    for n in (0, 6, 7, 30, 49):
        number = int(first.where(n).rpartition(" ")[2])
        assert json.loads(lines[number - 1])["image"] == f"images/{n}.png"


def test_the_second_reading_parses_nothing(written, large, monkeypatch):
    path = written()
    read_manifest(path)
    (file,) = hidden_files(path.parent)
    assert file.name.startswith(".manifest.jsonl.")
    assert file.suffix == ".arrow"
    monkeypatch.setattr(manifest, "checked_batch", lambda *args: pytest.fail("parsed again"))
    assert len(read_manifest(path)) == 50


def test_a_changed_manifest_is_read_anew_and_the_old_map_goes(written, large):
    path = written()
    held = read_manifest(path)
    written(60)
    os.utime(path, ns=(1, 1))
    assert len(read_manifest(path)) == 60
    assert len(hidden_files(path.parent)) == 1
    assert held[49].case_id == "c49"  # who still reads the old one goes on
    os.utime(path, ns=(2, 2))
    assert len(read_manifest(path)) == 60


def test_another_version_of_the_reader_makes_it_anew(written, large, monkeypatch):
    path = written()
    read_manifest(path)
    before = hidden_files(path.parent)
    monkeypatch.setattr(manifest, "VERSION", manifest.VERSION + 1)
    read_manifest(path)
    assert hidden_files(path.parent) != before


@pytest.mark.parametrize("damage", [b"", b"half of it", None])
def test_a_damaged_map_is_made_anew(damage, written, large):
    path = written()
    read_manifest(path)
    (file,) = hidden_files(path.parent)
    file.write_bytes(file.read_bytes()[:-100] if damage is None else damage)
    assert len(list(read_manifest(path))) == 50


def test_a_bad_line_is_named_and_nothing_is_left(written, large):
    path = written(20, extra='{"image": "a.png", "fitzpatrick": 9}\n')
    line = path.read_text(encoding="utf-8").count("\n")
    with pytest.raises(RecordError, match=rf"manifest\.jsonl, line {line}: 'fitzpatrick'"):
        read_manifest(path)
    assert hidden_files(path.parent) == []


def test_no_records_leave_nothing(tmp_path, large):
    path = tmp_path / "empty.jsonl"
    path.write_text("\n \n")
    with pytest.raises(RecordError, match="holds no records"):
        read_manifest(path)
    assert hidden_files(tmp_path) == []


def test_a_manifest_that_changes_while_it_is_read(written, large, monkeypatch):
    path = written()
    real = manifest._batches

    def batches(*args):
        yield from real(*args)
        with path.open("a") as file:
            file.write("\n")

    monkeypatch.setattr(manifest, "_batches", batches)
    with pytest.raises(RecordError, match="was changed while it was read"):
        read_manifest(path)
    assert hidden_files(path.parent) == []


def test_a_folder_that_cannot_be_written(written, large, tmp_path, monkeypatch):
    path = written()
    real = os.open

    def refuse(name, *args, **kwargs):
        if os.path.dirname(os.fspath(name)) == os.fspath(path.parent) and "part" in os.fspath(name):
            raise PermissionError(13, "read-only")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(manifest.os, "open", refuse)
    assert len(read_manifest(path, tmp_path / "cache")) == 50
    assert len(hidden_files(tmp_path / "cache")) == 1
    again = read_manifest(path)  # no cache named: a private folder that goes with the process
    place = again.parts[0].table_path.parent
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert hidden_files(path.parent) == []
    assert list(again) == list(read_manifest(path, tmp_path / "cache"))


def test_the_map_is_as_private_as_the_manifest(written, large):
    path = written()
    path.chmod(0o640)
    read_manifest(path)
    (file,) = hidden_files(path.parent)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def _count(path):
    return len(list(read_manifest(path)))


def test_processes_that_race_all_get_the_records(written, large):
    path = written(200)
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert pool.map(_count, [path] * 8) == [200] * 8
        pool.close()  # not ended by SIGTERM, for which a forked process may have this one's handler
        pool.join()
    assert len(hidden_files(path.parent)) == 1


def test_threads_of_one_process_race_too(written, large):
    path = written(200)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(_count, [path] * 8)) == [200] * 8


def test_workers_get_the_map_and_not_its_contents(written, large):
    records = read_manifest(written(200))
    sent = pickle.dumps(records)
    assert len(sent) < 1000
    assert list(pickle.loads(sent)) == list(records)
    assert list(pickle.loads(pickle.dumps(chain([records, records])))) == [*records, *records]


def test_a_chain_is_one_after_the_other(written, tmp_path, large):
    (tmp_path / "other").mkdir()
    one, two = read_manifest(written(20)), read_manifest(written(9, "other/b.jsonl"))
    both = chain([one, Manifest(), two])
    assert list(both) == [*one, *two] == list(one + two)
    assert both[25].image_path == tmp_path / "other" / "images" / "5.png"
    assert both.where(20) == f"{tmp_path / 'other' / 'b.jsonl'}, line 1"
    assert len(Manifest()) == 0
    assert list(Manifest()) == []
    assert both.column("case_id").to_pylist() == [r.case_id for r in both]


@pytest.mark.parametrize("limit", [None, 1, 3, 20, 21, 29, 100])
def test_paths_are_spread_evenly(limit, written, large):
    both = chain([read_manifest(written(20)), read_manifest(written(9, "b.jsonl"))])
    every = [r.image_path for r in both]
    rows = evenly_spread(29, 29 if limit is None else limit)
    assert image_paths(both, limit) == [every[row] for row in rows]


@given(count=st.integers(0, 300), limit=st.integers(0, 60))
def test_rows_are_spread_evenly(count, limit):
    rows = evenly_spread(count, limit)
    assert len(rows) == min(count, limit)
    assert rows.tolist() == evenly_spread(count, limit).tolist(), "always the same"
    if count > limit:
        assert all(
            part * count // limit <= row < (part + 1) * count // limit for part, row in enumerate(rows)
        )


@pytest.mark.parametrize(("count", "limit"), [(150, 30), (6000, 1000), (450, 90)])
def test_a_spread_meets_classes_that_take_turns(count, limit):
    """A fixed step of 5 or 6 would meet three or five of 15 classes."""
    assert len({row % 15 for row in evenly_spread(count, limit).tolist()}) >= 12


def test_a_byte_order_mark_is_forgiven(tmp_path):
    path = tmp_path / "windows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"image": "a.png"}\r\n{"image": "b.png"}\r\n')
    assert [r.image_path.name for r in read_manifest(path)] == ["a.png", "b.png"]
