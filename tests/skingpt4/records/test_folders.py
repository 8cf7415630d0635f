"""Which files of a folder are pictures: one rule, and everything else is counted."""

import io
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skingpt4.records import folders
from skingpt4.records.folders import Files, class_folders, image_files, is_image
from tests.support.names import file_names, make_files
from tests.support.tiny import make_picture


def pictures(folder):
    """(names of pictures in order, what was left out)."""
    files = Files(folder)
    return sorted(image_files(files)), dict(files.left_out)


@pytest.fixture
def folder(tmp_path):
    """A clinic's folder: four pictures, what computers add, and files of other kinds."""
    root = tmp_path / "in"
    make_files(
        root, ["._a.jpg", "__MACOSX/._a.jpg", "__MACOSX/b.jpg", "Thumbs.db", ".DS_Store", "desktop.ini"]
    )
    make_files(root, [".hidden.jpg", ".git/x.jpg", "notes.txt", "x.doc", "empty", "damaged.JPG"])
    (root / "empty").write_bytes(b"")
    for name, format in (
        ("a.jpg", "JPEG"),
        ("saved.jfif", "JPEG"),
        ("b/scan.jpe", "JPEG"),
        ("IMG_0001", "PNG"),
    ):
        (root / name).parent.mkdir(exist_ok=True)
        make_picture(1).save(root / name, format)
    make_picture(1).save(root / "page.dat", "WEBP")
    return root


def test_pictures_are_known_by_suffix_or_by_what_they_hold_and_the_others_are_counted(folder):
    assert pictures(folder) == (
        ["IMG_0001", "a.jpg", "b/scan.jpe", "damaged.JPG", "page.dat", "saved.jfif"],
        {folders.SYSTEM: 5, folders.HIDDEN: 2, folders.OTHERS: 3},
    )


@given(st.sets(file_names().filter(lambda name: folders._never_a_picture(name) is None), max_size=8))
@settings(max_examples=50, deadline=None)
def test_no_name_is_lost(tmp_path_factory, names):
    root = tmp_path_factory.mktemp("any")
    make_files(root, sorted(names))
    files = Files(root)
    kept = list(image_files(files))
    assert set(Files(root)) == names
    assert len(kept) + files.left_out.total() == len(names)
    shutil.rmtree(root)


@pytest.mark.parametrize("head", [b"words", b"\xff\xd8\xff\xe0"])
def test_a_large_file_that_is_no_picture_is_not_read(tmp_path, monkeypatch, head):
    path = tmp_path / "recording"
    path.write_bytes(head + bytes(1000))
    read = []
    monkeypatch.setattr(folders, "read_picture", lambda path, name: read.append(name) or head)
    is_image(path)
    assert bool(read) == (head[0] == 0xFF)


def test_a_picture_without_a_suffix_is_opened_with_the_bounds_of_others(tmp_path, monkeypatch):
    """Its directory claims gigabytes, which Pillow alone would copy before it knows the size."""
    path = tmp_path / "scan"
    make_picture(1).save(path, "TIFF")
    assert is_image(path)
    opened = []
    monkeypatch.setattr(folders, "PictureFile", lambda data: opened.append(len(data)) or io.BytesIO(data))
    assert is_image(path)
    assert opened == [path.stat().st_size]


# ---- links


def test_a_link_to_a_folder_is_followed_and_a_real_folder_keeps_its_own_name(tmp_path):
    make_files(tmp_path, ["store/psoriasis/1.jpg", "store/psoriasis/sub/2.jpg", "in/melanoma/3.jpg"])
    (tmp_path / "in/psoriasis").symlink_to(tmp_path / "store/psoriasis")
    (tmp_path / "in/aaa").symlink_to(tmp_path / "in/melanoma")
    (tmp_path / "in/zzz").symlink_to(tmp_path / "store/psoriasis/sub")
    assert pictures(tmp_path / "in") == (
        ["melanoma/3.jpg", "psoriasis/1.jpg", "psoriasis/sub/2.jpg"],
        {folders.LISTED: 2},
    )
    assert class_folders(tmp_path / "in") == ["aaa", "melanoma", "psoriasis", "zzz"]
    (tmp_path / "to").symlink_to(tmp_path / "in")
    assert pictures(tmp_path / "to") == pictures(tmp_path / "in")


@pytest.mark.parametrize("target", [".", "..", "../..", "/", "loop", "a"])
def test_circles_are_refused_and_nothing_above_is_walked(tmp_path, target):
    make_files(tmp_path, ["outside.jpg", "in/a/1.jpg", "in/2.jpg"])
    (tmp_path / "in/a/loop").symlink_to(target)
    (tmp_path / "in/other").symlink_to(tmp_path / "in/a")
    names, left_out = pictures(tmp_path / "in")
    assert names == ["2.jpg", "a/1.jpg"]
    assert sum(left_out.values()) == 2


def test_folders_that_link_to_each_other_are_listed_once(tmp_path):
    for one in range(9):
        make_files(tmp_path, [f"store/{one}/{one}.jpg"])
        for other in range(9):
            (tmp_path / f"store/{one}/to{other}").symlink_to(tmp_path / f"store/{other}")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/start").symlink_to(tmp_path / "store/0")
    names, left_out = pictures(tmp_path / "in")
    assert sorted(os.path.basename(name) for name in names) == [f"{n}.jpg" for n in range(9)]
    assert left_out == {folders.LISTED: 81 - 8}


def test_links_to_files_are_pictures_also_while_their_file_is_away(tmp_path):
    make_files(tmp_path, ["store/1.jpg", "in/2.jpg"])
    (tmp_path / "in/1.jpg").symlink_to(tmp_path / "store/1.jpg")
    (tmp_path / "in/away.jpg").symlink_to(tmp_path / "unmounted/3.jpg")
    (tmp_path / "in/psoriasis").symlink_to(tmp_path / "unmounted/psoriasis")
    (tmp_path / "in/itself.jpg").symlink_to("itself.jpg")
    assert pictures(tmp_path / "in") == (["1.jpg", "2.jpg", "away.jpg", "itself.jpg"], {folders.BROKEN: 1})
    assert class_folders(tmp_path / "in") == ["psoriasis"]


def test_pipes_are_counted_and_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null.jpg").symlink_to("/dev/null")
    assert pictures(tmp_path) == ([], {folders.SPECIAL: 3})


def test_what_cannot_be_read_is_named_or_stays_to_be_tried_again(tmp_path, monkeypatch):
    make_files(tmp_path, ["a.jpg", "closed/b.jpg"])
    real = os.scandir

    def refuse(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(folders.os, "scandir", refuse)
    files = Files(tmp_path)
    assert list(files) == ["a.jpg"]
    assert files.unreadable == [tmp_path / "closed"]
    assert files.left_out == {folders.UNREADABLE: 1}
    assert is_image(tmp_path / "gone")
