"""Streams of rows, files and keys."""

import csv

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.reading.rows import SourceError
from data.reading.tables import DiskMap, Table

text = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0\r"), max_size=20)


@given(rows=st.lists(st.tuples(text, text), max_size=10), delimiter=st.sampled_from(",;\t"))
@settings(deadline=None)
def test_what_was_written_as_csv_is_read(tmp_path_factory, rows, delimiter):
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL)
        writer.writerow(["image", "note"])
        writer.writerows(rows)
    table = Table(path)
    assert table.columns == ["image", "note"]
    filled = [(n, row) for n, row in enumerate(rows, 2) if "".join(row).strip()]
    assert list(table) == [(n, {"image": a, "note": b}) for n, (a, b) in filled]
    assert table.count() == len(filled)


def test_excels_csv_has_a_mark_semicolons_and_blank_lines(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes("\ufeffimage;note\r\n\r\na.jpg;Größe, 2\r\nb.jpg\r\n".encode())
    assert list(Table(path)) == [
        (3, {"image": "a.jpg", "note": "Größe, 2"}),
        (4, {"image": "b.jpg", "note": ""}),
    ]


def test_jsonl_rows_are_lines_and_what_is_none_is_said(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"image": "a", "n": 1}\n\n[1]\n{"image"\n')
    assert list(Table(path))[:2] == [(1, {"image": "a", "n": 1}), (3, "is not a JSON object")]
    assert list(Table(path))[2][1].startswith("is not JSON")
    assert Table(path).count() == 3


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no such file"),
        (b"", "is empty"),
        (b"a,b\n\xff\xfe,1\n", "is not UTF-8"),
        (b'a,b\n"' + b"x" * 2**25, "is not CSV"),
        (b'a,b\n1,2\n3,"4\n5,6\n', "line 3: is not CSV from here on .*must be closed"),
        (b'a,b\n1,"2"3\n', "line 2: is not CSV"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path, content, says):
    path = tmp_path / "t.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SourceError, match=says):
        list(Table(path))


def test_a_missing_column_is_told_with_the_nearest(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("Image_ID,Plaques\n")
    with pytest.raises(SourceError) as raised:
        Table(path).need(["ImageID", ("Plaque", "Patch")])
    message = str(raised.value)
    assert (
        "no column 'ImageID'; it has 'Image_ID'; no column 'Plaque' or 'Patch'; it has 'Plaques'" in message
    )
    assert "found 2 columns: 'Image_ID', 'Plaques'" in message


def test_of_many_missing_columns_few_are_named(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a\n")
    with pytest.raises(
        SourceError, match=r"no column 'x0'; .*'x2'; nor 47 others of the 50 that are needed; f"
    ):
        Table(path).need([f"x{n}" for n in range(50)])


@given(st.dictionaries(text, st.integers() | text))
@settings(deadline=None)
def test_a_disk_map_is_a_map(pairs):
    disk_map = DiskMap()
    for key, value in pairs.items():
        assert disk_map.add(key, value)
        assert not disk_map.add(key, "another")
    assert {key: disk_map.get(key) for key in disk_map} == pairs
    assert list(disk_map) == sorted(pairs, key=lambda key: key.encode())
    assert len(disk_map) == len(pairs)
    assert "\0\0none" not in disk_map
