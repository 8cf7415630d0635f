"""Names of pictures: any file's name survives every store, and a name in a list finds the file that it means."""

import json
import os
import sqlite3
import tarfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from skingpt4.records import naming
from skingpt4.records.folders import is_image
from skingpt4.records.images import FORMATS, ImageError, open_image, prepare_pillow
from skingpt4.records.manifest import image_paths, read_manifest
from skingpt4.records.naming import (
    LETTERS,
    SLASHES,
    SUFFIX,
    Relative,
    from_storable,
    hint,
    image_path,
    locate,
    name_of,
    readable,
    storable,
)
from skingpt4.support.files import write_text
from tests.support.names import file_names, make_files


@given(file_names())
def test_every_name_survives_json_and_databases(name):
    assert from_storable(storable(name)) == name
    storable(name).encode()
    line = json.dumps({"image": name}, ensure_ascii=False)
    assert json.loads(line.encode("utf-8", "backslashreplace"))["image"] == name
    with sqlite3.connect(":memory:") as base:
        assert base.execute("SELECT ?", (storable(name),)).fetchone()[0] == storable(name)


@given(file_names())
def test_what_people_see_is_text_in_one_line(name):
    shown = readable(name)
    shown.encode()
    assert len(shown.splitlines()) <= 1
    assert "\x1b" not in shown


@given(st.text("abcäéü #%'\"؀漢😀", min_size=1))
def test_ordinary_names_stay_as_they_are(name):
    assert storable(name) == readable(name) == name


@given(st.lists(file_names(), min_size=1, max_size=8))
def test_a_manifest_of_any_names_leads_to_the_files(tmp_path_factory, names):
    folder = tmp_path_factory.mktemp("any")
    names = make_files(folder, names)
    rows = [json.dumps({"image": name}, ensure_ascii=False) + "\n" for name in names]
    write_text(folder / "m.jsonl", "".join(rows))
    records = read_manifest(folder / "m.jsonl")
    assert [record.image_path for record in records] == [folder / name for name in names]
    assert image_paths(records) == [records.image_path(row) for row in range(len(names))]
    assert all(path.read_bytes() == os.fsencode(path.name) for path in image_paths(records))
    assert [name_of(path, folder) for path in image_paths(records)] == names
    assert [locate(folder, name) for name in names] == [(folder / name, ()) for name in names]


def test_a_manifest_may_hold_bytes_that_are_not_utf8_but_no_other_half_of_a_surrogate_pair(tmp_path):
    from skingpt4.records.record import RecordError

    (tmp_path / "m.jsonl").write_text('{"image": "L\\udce4sion.jpg", "note": "a"}\n{"image": "b.jpg"}\n')
    assert read_manifest(tmp_path / "m.jsonl")[0].image_path == tmp_path / "L\udce4sion.jpg"
    for line in (
        '{"image": "L\\ud83dsion.jpg"}',
        '{"image": "a.jpg", "note": "\\udce4"}',
        '{"image": "a\\u0000"}',
    ):
        (tmp_path / "m.jsonl").write_text(line + "\n")
        with pytest.raises(RecordError, match="line 1"):
            read_manifest(tmp_path / "m.jsonl")


def test_a_large_manifest_with_an_odd_name_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr("skingpt4.records.manifest.SMALL_BYTES", 0)
    for name in ("L\udce4[1]", "x" * 249):
        path = tmp_path / f"{name}.jsonl"
        path.write_text('{"image": "L\\udce4sion.jpg"}\n')
        assert read_manifest(path)[0].image_path.name == "L\udce4sion.jpg"
        path.write_text('{"image": "longer than before.jpg"}\n')
        assert read_manifest(path)[0].image_path.name == "longer than before.jpg"
    assert len(list(tmp_path.glob(".*.arrow"))) == 2  # one a manifest, that of its present state


# ---- which file a name means


@pytest.fixture
def folder(tmp_path):
    make_files(
        tmp_path, ["images/a.jpg", "ISIC_1.jpg", "two.jpg", "two.png", "Upper.JPG", "e\u0301.png", "x.json"]
    )
    make_files(tmp_path, ["same.jpg", "SAME.JPG", " blank.jpg", "lit\\eral.jpg", "x.tiff", "img.01.jpg"])
    make_files(tmp_path, ["L\udce4sion.jpg", "\udc9abersicht.jpg"])
    return tmp_path


@pytest.mark.parametrize(
    ("written", "name", "remark"),
    [
        ("images/a.jpg", "images/a.jpg", None),
        ("./images//a.jpg", "images/a.jpg", None),
        ("images\\a.jpg", "images/a.jpg", SLASHES),
        (".\\images\\a.jpg", "images/a.jpg", SLASHES),
        ("lit\\eral.jpg", "lit\\eral.jpg", None),
        ("ISIC_1", "ISIC_1.jpg", SUFFIX),
        ("img.01", "img.01.jpg", SUFFIX),
        ("images\\a", "images/a.jpg", SUFFIX),
        ("x", "x.tiff", SUFFIX),
        ("upper.jpg", "Upper.JPG", LETTERS),
        ("IMAGES/A.jpg", "images/a.jpg", LETTERS),
        ("Images/a.jpg", "images/a.jpg", LETTERS),
        ("\u00e9.png", "e\u0301.png", LETTERS),
        ("blank.jpg", " blank.jpg", LETTERS),
        ("Läsion.jpg", "L\udce4sion.jpg", LETTERS),
        ("Läsion", "L\udce4sion.jpg", SUFFIX),
        ("Übersicht.jpg", "\udc9abersicht.jpg", LETTERS),
        ("same.jpg", "same.jpg", None),
        ("SAME.JPG", "SAME.JPG", None),
    ],
)
def test_a_name_in_a_table_finds_its_file(folder, written, name, remark):
    assert locate(folder, written) == (folder / name, (remark,) if remark else ())


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("two", "; there is 'two.jpg' and 'two.png'"),
        ("Same.jpg", "; there is 'SAME.JPG' and 'same.jpg'"),
        ("C:\\Users\\me\\a.jpg", "; it is a path of a Windows computer"),
        ("\\\\server\\share\\a.jpg", "; it is a path of a Windows computer"),
        ("https://example.org/a.jpg", "; it is an address"),
        ("nowhere/a.jpg", "; its folder is not there"),
        ("gone.jpg", ""),
        ("images", ""),
        ("", ""),
        ("a\0b", ""),
    ],
)
def test_a_name_that_means_no_file_or_several_has_a_hint(folder, written, said):
    located = locate(folder, written)
    assert located == (folder / written, ())
    assert hint(located.path).startswith(said)
    assert bool(hint(located.path)) == bool(said)


@given(st.one_of(st.text(), st.text("a./\\ :\0\udce4", max_size=20)))
@example("x" * 300)  # longer than a name may be: a note in the wrong column
@example("x/" * 3000)  # longer than a path may be
@example("x" * 5000 + "/a.jpg")
def test_whatever_a_table_writes_has_a_place_and_a_hint(tmp_path_factory, written):
    folder = tmp_path_factory.getbasetemp()
    hint(locate(folder, written).path).encode()
    hint(locate(folder / "nowhere", written).path).encode()


def test_the_message_about_a_missing_picture_has_the_hint(folder):
    with pytest.raises(ImageError, match=r"no such picture; there is 'Upper\.JPG'"):
        open_image(folder / "upper.jpg")


def test_absolute_names_and_members_of_archives(folder):
    assert locate(Path("elsewhere"), str(folder / "images/a.jpg")) == (folder / "images/a.jpg", ())
    assert locate(Path("elsewhere"), str(folder / "images/A.jpg")) == (folder / "images/a.jpg", (LETTERS,))
    with tarfile.open(folder / "s.tar", "w") as tar:
        tar.add(folder / "images/a.jpg", "in/a.jpg")
    assert locate(folder, "s.tar/in/a.jpg") == (folder / "s.tar/in/a.jpg", ())
    assert locate(folder, "s.tar\\in\\a.jpg") == (folder / "s.tar/in/a.jpg", (SLASHES,))
    assert locate(folder, "s.tar/in/b.jpg") == (folder / "s.tar/in/b.jpg", ())
    assert hint(folder / "s.tar/in/b.jpg") == "; the archive has no such member"


def test_a_file_that_arrives_later_is_found(folder):
    assert locate(folder, "late").path == folder / "late"
    make_files(folder, ["late.jpg"])
    os.utime(folder)
    assert locate(folder, "late") == (folder / "late.jpg", (SUFFIX,))


def test_names_in_a_manifest_with_slashes_of_windows(folder):
    written = ["images\\a.jpg", "lit\\eral.jpg", "b\\c.jpg"]
    (folder / "m.jsonl").write_text("".join(json.dumps({"image": name}) + "\n" for name in written))
    records = read_manifest(folder / "m.jsonl")
    names = ["images/a.jpg", "lit\\eral.jpg", "b\\c.jpg"]
    assert [record.image_path for record in records] == [folder / name for name in names]
    assert image_paths(records) == [folder / name for name in names]


# ---- how a file is named


def test_a_name_does_not_depend_on_how_the_list_is_named(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    for list_folder in (folder, Path(folder.name)):
        for written in ("images/a.jpg", str(folder / "images/a.jpg")):
            assert name_of(image_path(list_folder, written), list_folder) == "images/a.jpg"
        assert name_of(image_path(list_folder, "../b.jpg"), list_folder) == "../b.jpg"
        assert name_of(image_path(list_folder, "/elsewhere/b.jpg"), list_folder) == "/elsewhere/b.jpg"


@given(name=file_names(), depth=st.integers(0, 3), other=st.integers(0, 3))
def test_a_name_is_the_same_file_in_another_list(tmp_path_factory, name, depth, other):
    root = tmp_path_factory.mktemp("move")
    old, new = root.joinpath(*"abc"[:depth]), root.joinpath(*"xyz"[:other])
    new.mkdir(parents=True, exist_ok=True)
    (name,) = make_files(old, [name])
    renamed = Relative(new).renamed(name, old)
    assert (new / renamed).samefile(old / name)
    assert Relative(new).renamed(str(old / name), old) == str(old / name)


def test_behind_a_link_two_dots_mean_the_real_parent(tmp_path):
    make_files(tmp_path, ["store/deep/a.jpg", "store/b.jpg", "lists/m.jsonl"])
    (tmp_path / "link").symlink_to(tmp_path / "store/deep")
    (tmp_path / "b.jpg").write_text("another")
    relative = Relative(tmp_path / "lists")
    assert (tmp_path / "lists" / relative(tmp_path / "link/../b.jpg")).samefile(tmp_path / "store/b.jpg")
    assert relative(tmp_path / "link/a.jpg") == "../link/a.jpg"
    into = Relative(tmp_path / "link")
    assert (tmp_path / "link" / into(tmp_path / "b.jpg")).samefile(tmp_path / "b.jpg")


def test_the_suffixes_are_those_of_the_formats():
    prepare_pillow()
    known = {suffix for suffix, format in Image.registered_extensions().items() if format in FORMATS}
    own = {".dcm", ".dicom", ".hif"}  # read without a format of Pillow's, or only by some versions of it
    assert known - own == naming.SUFFIXES - own
    assert own <= naming.SUFFIXES
    assert is_image(Path("nowhere/a.JFIF"))


def test_links_behind_the_last_two_dots_stay(tmp_path):
    make_files(tmp_path, ["store/a.jpg", "lists/old/m.jsonl", "lists/new/m.jsonl"])
    (tmp_path / "photos").symlink_to(tmp_path / "store")
    relative = Relative(tmp_path / "lists/new")
    assert relative.renamed("../../photos/a.jpg", tmp_path / "lists/old") == "../../photos/a.jpg"
