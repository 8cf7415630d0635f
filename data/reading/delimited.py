"""CSV and TSV as people and spreadsheets write them: the encoding, the delimiter, and the records, as a stream."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import TextIO

from data.reading.rows import SourceError
from skingpt4.support.regular import open_regular, open_regular_text

MAX_FIELD = 16 * 2**20  # characters of one field; more is a quote that was never closed
DELIMITERS = ",;\t|"  # of equally likely ones the first counts
BLOCK = 2**20
SAMPLE = 2**16  # characters that decide about the delimiter
SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\s*')  # Excel's first line: which delimiter follows

UTF_8, WINDOWS_1252 = "utf-8-sig", "cp1252"
# The longer mark first: UTF-32's begins with UTF-16's.
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip
NAMES = {"utf-16": "UTF-16", "utf-16-le": "UTF-16", "utf-16-be": "UTF-16", "utf-32": "UTF-32",
         WINDOWS_1252: "Windows-1252"}  # fmt: skip
# Any file decodes as Windows-1252, so it is taken for that only if its letters are those of Western European words
# and stand as they do there: no three accented letters in a row, as in Cyrillic or Greek, and no sign between two
# letters, as in Polish or in a Macintosh's or DOS text. Letters that stand for frequent Czech, Hungarian, Turkish or
# Baltic ones are left out.
_LETTERS = "äöüßéèêëàâçîïôûœæñáíóúåøÄÖÜÉÈÊÀÇÑÁÍÓÚÅØÆŒ"
_SIGNS = "°µ²³±×·§€£¥«»‹›¼½¾‰„“”‚‘’–—…•®™©´¨¿¡ˆ˜†ªº"
_ALSO_INSIDE_WORDS = "’–—´µ…·"
_UNLIKE_1252 = re.compile(
    rf"[^\x00-\x7f\xa0{_LETTERS}{_SIGNS}]|[{_LETTERS}]{{3}}"
    rf"|(?<=[^\W\d_])[{''.join(sign for sign in _SIGNS if sign not in _ALSO_INSIDE_WORDS)}](?=[^\W\d_])"
)


def encoding_of(path: Path) -> str:
    """The encoding of a table: UTF-8, UTF-16 or -32 (also without their marks), or Windows-1252.

    Raises:
        SourceError: it is none of them; names the first line that is not UTF-8.
    """
    with opened_bytes(path) as file:
        head = file.read(4096)
    for mark, encoding in MARKS.items():
        if head.startswith(mark):
            return encoding
    even, odd = head[0::2].count(0), head[1::2].count(0)  # every other byte of English UTF-16 is zero
    if max(even, odd) > len(head) // 4 and min(even, odd) <= len(head) // 32:
        return "utf-16-le" if odd > even else "utf-16-be"
    line = _first_undecodable_line(path)
    if line is None:
        return UTF_8
    if _is_western(path):
        return WINDOWS_1252
    raise SourceError(
        f"{path}, line {line}: is not UTF-8, and neither UTF-16 nor Windows-1252; save the file as UTF-8 "
        "(in Excel: 'CSV UTF-8')"
    )


@contextmanager
def opened_bytes(path: Path) -> Iterator:
    """A table's bytes.

    Raises:
        SourceError: it is missing, not a regular file, or cannot be read.
    """
    try:
        with open_regular(path) as file:
            yield file
    except FileNotFoundError:
        raise SourceError(f"{path}: no such file") from None
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror})") from None


def _first_undecodable_line(path: Path) -> int | None:
    """The number of the first line that is not UTF-8, or None."""
    decoder, line = codecs.getincrementaldecoder("utf-8")(), 1
    with opened_bytes(path) as file:
        for block in iter(lambda: file.read(BLOCK), b""):
            try:
                line += decoder.decode(block).count("\n")
            except UnicodeDecodeError as error:
                return line + error.object[: error.start].count(b"\n")
        return line if decoder.getstate()[0] else None


def _is_western(path: Path) -> bool:
    before = ""
    with opened_bytes(path) as file:
        for block in iter(lambda: file.read(BLOCK), b""):
            try:
                text = before + block.decode(WINDOWS_1252)
            except UnicodeDecodeError:
                return False
            if _UNLIKE_1252.search(text):
                return False
            before = text[-2:]
    return True


@contextmanager
def opened_text(path: Path, encoding: str) -> Iterator[TextIO]:
    """A table's text.

    Raises:
        SourceError: it is missing, cannot be read, or is damaged, at whatever line.
    """
    try:
        with open_regular_text(path, encoding, newline="") as text:
            yield text
    except FileNotFoundError:
        raise SourceError(f"{path}: no such file") from None
    except UnicodeError as error:
        name = NAMES.get(encoding, "UTF-8")
        raise SourceError(f"{path}: is not {name} to its end ({error}); save the file as UTF-8") from None
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror})") from None


class Delimited:
    """A file of delimited records, read again on every call of `rows`.

    Attributes:
        path: of the file.
        encoding: Python's name of it.
        delimiter: as Excel's `sep=` line says, else the one by which header and first records agree.

    Raises:
        SourceError: the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.encoding = path, encoding_of(path)
        with opened_text(self.path, self.encoding) as text:
            first = SEPARATOR_LINE.fullmatch(text.readline())
        self._skipped = 1 if first else 0  # Excel does not show that line either
        self.delimiter = first[1] if first else self._likeliest()

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """(row from 1, cells); blank rows count, as in a spreadsheet.

        Raises:
            SourceError: the file cannot be read to its end.
        """
        with opened_text(self.path, self.encoding) as text:
            yield from enumerate(self._records(islice(text, self._skipped, None), self.delimiter), 1)

    def _records(self, lines: Iterable[str], delimiter: str) -> Iterator[list[str]]:
        csv.field_size_limit(MAX_FIELD)
        # Strict: otherwise a quotation mark that is never closed would silently swallow all rows after it.
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        while True:
            begun = reader.line_num + 1 + self._skipped
            try:
                row = next(reader, None)
            except csv.Error as error:
                raise SourceError(
                    f"{self.path}, line {begun}: is not CSV from here on ({error}); "
                    'a text in quotation marks must be closed, and those inside it doubled ("")'
                ) from None
            if row is None:
                return
            yield row

    def _likeliest(self) -> str:
        """The delimiter that splits the header into columns, and the first records into as many."""
        with opened_text(self.path, self.encoding) as text:
            sample = text.read(SAMPLE)
        return max(DELIMITERS, key=lambda delimiter: _fit(sample, delimiter))


def _fit(sample: str, delimiter: str) -> tuple[bool, bool, float, int]:
    """How well a delimiter fits the beginning of a file; the larger the better."""
    records: list[list[str]] = []
    with suppress(csv.Error):  # the sample ends inside a record, or the file is damaged there
        for record in csv.reader(io.StringIO(sample, newline=""), delimiter=delimiter, strict=True):
            if any(record):
                records.append(record)
    if not records:
        return (False, False, 0.0, 0)
    header = records[0]
    alike = sum(len(record) == len(header) for record in records) / len(records)
    return (len(header) > 1, not any('"' in name for name in header), alike, len(header))
