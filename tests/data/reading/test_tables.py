"""Streams of rows, files and keys."""

import csv
import datetime
import io
import os
import zipfile
from contextlib import suppress
from pathlib import Path

import openpyxl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.reading.delimited import Delimited
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


@given(
    rows=st.lists(st.tuples(text, text), max_size=5),
    delimiter=st.sampled_from(",;\t|"),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    named=st.booleans(),
)
@settings(deadline=None)
def test_every_encoding_and_delimiter_gives_the_same_rows(
    tmp_path_factory, rows, delimiter, encoding, end, named
):
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([["image", "note"], ["1.jpg", "x" * 300], *rows])
    path.write_bytes((f"sep={delimiter}{end}" * named + file.getvalue()).encode(encoding))
    table = Table(path)
    assert next(row for _, row in table) == {"image": "1.jpg", "note": "x" * 300}
    filled = [(n, row) for n, row in enumerate(rows, 3) if "".join(row).strip()]
    assert list(table)[1:] == [(n, {"image": a, "note": b}) for n, (a, b) in filled]


WORDS = [
    "Größe", "3", "mm²,", "Erythem", "–", "süß,", "déjà-vu;", "5", "µg/cm²", "±2", "°C,", "patient’s", "„Plaques“",
    "naïve", "œdème,", "señora,", "Åse", "…",
]  # fmt: skip


@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=30).filter(lambda w: not "".join(w).isascii()))
@settings(deadline=None)
def test_windows_1252_is_recognised(tmp_path_factory, words):
    path, note = tmp_path_factory.mktemp("csv") / "t.csv", " ".join(words)
    path.write_bytes(f'image\tnote\r\na.jpg\t"{note}"\r\n'.encode("cp1252"))
    table = Table(path)
    assert list(table) == [(2, {"image": "a.jpg", "note": note})]
    assert table.remarks == ["t.csv: read as Windows-1252; save it as UTF-8 if letters are wrong"]


@pytest.mark.parametrize(
    ("note", "encoding"),
    [
        ("Пациент с бляшками", "cp1251"), ("Пациент с бляшками", "koi8-r"), ("Ασθενής με πλάκες", "cp1253"),
        ("pacientka s částečně zhojenými ložisky", "cp1250"), ("płytka łuszczycowa, świąd", "cp1250"),
        ("A beteg bőrén kipirult foltok, viszkető kiütés", "cp1250"), ("hastanın sırtında şişlik", "cp1254"),
        ("患者有红斑", "gbk"), ("患者に紅斑", "shift_jis"), ("환자", "euc-kr"),
        ("Größe der süßen Plaques", "mac_roman"),
        ("Größe der süßen Plaques", "cp850"), ("Größe süß", "cp437"), ("jošs un sarkanīgs plankums", "cp1257"),
    ],
)  # fmt: skip
def test_other_encodings_are_refused_and_never_guessed(tmp_path, note, encoding):
    path = tmp_path / "t.csv"
    path.write_bytes(f"image,note\na.jpg,{note}\n".encode(encoding))
    with pytest.raises(
        SourceError, match=r"t.csv, line 2: is not UTF-8, and neither UTF-16 nor Windows-1252; save"
    ):
        Table(path)


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ("image,note,diagnosis,note", "the heading 'note' stands over columns 2 and 4"),
        ('image,"note\ntext",x,note text', "the heading 'note text' stands over columns 2 and 4"),
        ("image, note ,note,note", "'note' stands over columns 2 and 3 and 4"),
    ],
)
def test_a_heading_that_stands_twice_is_refused_by_name(tmp_path, header, says):
    path = tmp_path / "t.csv"
    path.write_text(f"{header}\na.jpg,Silvery plaques.,psoriasis,\n")
    with pytest.raises(SourceError, match=says):
        Table(path)


def test_headings_are_read_as_people_see_them(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(
        '\n,,,\n image ,"note\r\n(free  text)",,\na.jpg,x,,\n,,,\nb.jpg\nc.jpg,y,1,2,3\nd.jpg,z,,,,\n'
    )
    table = Table(path)
    assert table.columns == ["image", "note (free text)", "", ""]
    rows = dict(table)
    assert [(n, r["image"]) for n, r in rows.items() if isinstance(r, dict)] == [
        (4, "a.jpg"),
        (6, "b.jpg"),
        (8, "d.jpg"),
    ]
    assert rows[7].startswith("has 5 cells, the header has 4; a comma")
    assert table.remarks == [
        "t.csv: rows with fewer cells than headings: 1; the missing last cells were read as empty"
    ]
    assert table.count() == 4


@pytest.mark.parametrize(
    ("text", "delimiter"),
    [
        ('image,"a; b; c; d"\n1.jpg,x\n', ","),
        ("image;note, one, two\n1.jpg;x\n2.jpg;y, z\n", ";"),
        ("image\tnote; or not\n1.jpg\tx\n", "\t"),
        ("sep=|\nimage|note;x\n1|2\n", "|"),
        ("image\n1.jpg\n", ","),
        ("image;rating\n1.jpg;4,5\n2.jpg;3,0\n", ";"),
    ],
)
def test_the_delimiter_is_the_one_that_header_and_rows_agree_on(tmp_path, text, delimiter):
    path = tmp_path / "t.csv"
    path.write_text(text)
    assert Delimited(path).delimiter == delimiter


def book_of(path, rows, more=(), merge=None):
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    if merge:
        book.active.merge_cells(merge)
    for title, state, cells in more:
        sheet = book.create_sheet(title)
        sheet.sheet_state = state
        for row in cells:
            sheet.append(row)
    book.save(path)
    return path


cells = st.text(st.characters(categories=["L", "N", "P", "Zs"]), max_size=12).map(lambda t: f"x{t}7")


@given(rows=st.lists(st.tuples(cells, cells), max_size=5))
@settings(deadline=None, max_examples=10)
def test_a_workbook_gives_what_stands_in_it(tmp_path_factory, rows):
    path = book_of(tmp_path_factory.mktemp("xlsx") / "t.xlsx", [["image", "note"], *rows])
    assert list(Table(path)) == [(n, {"image": a, "note": b}) for n, (a, b) in enumerate(rows, 2)]


def test_numbers_dates_and_merged_cells_of_a_workbook(tmp_path):
    rows = [
        ["image", "id", "note\ntext", "date"],
        ["a.jpg", 12, 3.5, datetime.date(2024, 3, 4)],
        ["b.jpg", None, True, datetime.datetime(2024, 3, 4, 5, 6)],
        [],
        ["c.jpg", None, "x"],
        ["d.jpg", "p2", None, None],
    ]
    path = book_of(
        tmp_path / "t.xlsx", rows, [("Legend", "hidden", [["a", "b"]]), ("empty", "visible", [])], "B2:B5"
    )
    table = Table(path)
    assert table.columns == ["image", "id", "note text", "date"]
    assert [(n, list(row.values())) for n, row in table] == [
        (2, ["a.jpg", "12", "3.5", "2024-03-04"]),
        (3, ["b.jpg", "12", "TRUE", "2024-03-04 05:06:00"]),
        (4, ["", "12", "", ""]),
        (5, ["c.jpg", "12", "x", ""]),
        (6, ["d.jpg", "p2", "", ""]),
    ]


def test_a_table_is_what_its_bytes_are_and_not_what_its_name_says(tmp_path):
    book = book_of(tmp_path / "t.xlsx", [["image", "note"], ["a.jpg", "x"]])
    for name in ("t.csv", "t.xls"):
        (tmp_path / name).write_bytes(book.read_bytes())
        assert list(Table(tmp_path / name)) == [(2, {"image": "a.jpg", "note": "x"})]
    (tmp_path / "u.xlsx").write_text("image;note\na.jpg;x\n")
    assert list(Table(tmp_path / "u.xlsx")) == [(2, {"image": "a.jpg", "note": "x"})]


ODS = """<?xml version="1.0"?><office:document-content xmlns:office="urn:oasis:names:tc:opendocument:xmlns:office:1.0"
xmlns:table="urn:oasis:names:tc:opendocument:xmlns:table:1.0"
xmlns:text="urn:oasis:names:tc:opendocument:xmlns:text:1.0">
<office:body><office:spreadsheet><table:table table:name="A">{}</table:table></office:spreadsheet></office:body>
</office:document-content>"""


def test_an_ods_workbook(tmp_path):
    cell = '<table:table-cell office:value-type="string"><text:p>{}</text:p></table:table-cell>'
    rows = [["image", "note"], ["a.jpg", "Größe"]]
    content = "".join(f"<table:table-row>{''.join(map(cell.format, row))}</table:table-row>" for row in rows)
    with zipfile.ZipFile(tmp_path / "t.ods", "w") as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        archive.writestr(
            "META-INF/manifest.xml", '<?xml version="1.0"?><manifest:manifest xmlns:manifest="urn:x"/>'
        )
        archive.writestr("content.xml", ODS.format(content))
    assert list(Table(tmp_path / "t.ods")) == [(2, {"image": "a.jpg", "note": "Größe"})]


def test_what_is_no_workbook_to_read(tmp_path):
    two = book_of(tmp_path / "t.xlsx", [["image"], ["a.jpg"]], [("Old", "visible", [["image"]])])
    with pytest.raises(SourceError, match=r"has rows in 2 sheets, 'Sheet', 'Old'; hide all but"):
        Table(two)
    with pytest.raises(SourceError, match="is empty"):
        Table(book_of(tmp_path / "e.xlsx", []))
    whole = two.read_bytes()
    for broken in (
        whole[: len(whole) // 2],
        b"PK\x03\x04" + bytes(100),
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600),
    ):
        two.write_bytes(broken)
        with pytest.raises(SourceError, match="is not a workbook that can be read"):
            list(Table(two))


STARTS = [b"", b"\xff\xfe", b"\xfe\xff", b"sep=,\n", b"image,note\na.jpg,", b"\xef\xbb\xbf", b"\xff\xfe\0\0"]


@given(st.sampled_from(STARTS), st.binary(max_size=200))
@settings(deadline=None, max_examples=300)
def test_any_bytes_are_a_table_or_a_sentence(tmp_path_factory, start, data):
    for name in ("t.csv", "t.jsonl"):
        path = tmp_path_factory.mktemp("bytes") / name
        path.write_bytes(start + data)
        with suppress(SourceError):
            list(Table(path))


@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4))
@settings(deadline=None, max_examples=12)
def test_a_damaged_workbook_is_a_table_or_a_sentence(tmp_path_factory, changes):
    path = book_of(tmp_path_factory.mktemp("xlsx") / "t.xlsx", [["image", "note"], ["a.jpg", "x"]])
    data = bytearray(path.read_bytes())
    for place, value in changes:
        data[place % len(data)] = value
    path.write_bytes(bytes(data))
    with suppress(SourceError):
        list(Table(path))


def test_a_cell_in_the_last_corner_is_a_sentence_and_not_the_end_of_the_process(tmp_path):
    book = openpyxl.Workbook()
    book.active["A1"], book.active["A2"], book.active["XFD1048576"] = "image", "a.jpg", "x"
    book.save(tmp_path / "t.xlsx")
    with pytest.raises(SourceError, match=r"t.xlsx: is damaged, or too large to be read; delete stray cells"):
        Table(tmp_path / "t.xlsx")


def test_a_text_that_a_program_protected_from_excel_is_the_text(tmp_path):
    path = tmp_path / "t.csv"
    text = '\u200bimage,"id\u200b"\na.jpg,"=""00123"""\nb.jpg,"=""a"" or =""b"""\n'
    path.write_text(text, encoding="utf-8")
    rows = [{"image": "a.jpg", "id": "00123"}, {"image": "b.jpg", "id": '="a" or ="b"'}]
    assert [row for _, row in Table(path)] == rows


@pytest.mark.parametrize(
    "text", ["<html><table><tr><td>image", "\ufeff <?xml version='1.0'?><Workbook>", "<TABLE>"]
)
def test_a_page_that_is_called_a_workbook_is_refused_by_name(tmp_path, text):
    path = tmp_path / "t.xls"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(
        SourceError, match=r"is HTML or XML; open it in a spreadsheet program and save it as \.xlsx"
    ):
        Table(path)


def test_what_is_not_a_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "fifo.csv")
    for path in (tmp_path / "fifo.csv", tmp_path, Path("/dev/zero")):
        with pytest.raises(SourceError, match=r"and not a file; name a file|directory"):
            Table(path)


def test_the_columns_of_jsonl_are_the_keys_of_its_first_rows(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"image": "a.jpg"}\n{"image": "b.jpg", "report": "Plaques."}\n')
    assert Table(path).columns == ["image", "report"]
    path.write_text('[{"image": "a.jpg"}]')
    with pytest.raises(
        SourceError, match=r"line 1: is not a JSON object; expected .*orient='records', lines=True"
    ):
        Table(path)


def test_a_key_that_a_row_has_twice_is_refused(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"image": "a.jpg"}\n{"image": "b.jpg", "note": "Silvery plaques.", "note": ""}\n')
    assert list(Table(path))[1] == (2, "has the key 'note' twice")


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
