"""The files of a folder: in order, any name, nothing lost without a count."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.reading.files import find_files
from data.reading.rows import SourceError
from data.reading.tables import DiskMap
from skingpt4.records import folders
from tests.support.names import file_names, make_files


def test_files_come_in_order_and_others_are_counted(tmp_path):
    make_files(
        tmp_path, ["b/2.jpg", "b/10.jpg", "a.jpg", ".DS_Store", "b/Thumbs.db", "__MACOSX/._a.jpg", ".git/x"]
    )
    left_out = Counter()
    assert list(find_files(tmp_path, left_out)) == ["a.jpg", "b/10.jpg", "b/2.jpg"]
    assert left_out == {folders.SYSTEM: 3, folders.HIDDEN: 1}


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(folders.os, "scandir", refuse)
    with pytest.raises(SourceError, match="this folder cannot be read"):
        find_files(tmp_path, Counter())


@given(st.sets(file_names()))
def test_any_name_is_a_key(names):
    known = DiskMap()
    assert all(known.add(name, [name]) for name in names)
    assert not any(known.add(name) for name in names)
    assert set(known) == names
    assert all(name in known and known.get(name) == [name] for name in names)
