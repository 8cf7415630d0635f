"""Many lines of a manifest at once, as checked Arrow columns.

Arrow's JSON reader and a few checks of complete columns accept good rows ten times as fast as a check of each row.
A block that they do not accept, for whatever reason, goes to `record.parse_line` line by line; only that refuses.
"""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from skingpt4.records.blanks import MAX_BYTES, is_blank
from skingpt4.records.naming import storable
from skingpt4.records.record import parse_line
from skingpt4.records.schema import FIELDS, KEYS, Choice, Hex, Kind, Plain
from skingpt4.taxonomy.taxonomy import CONCEPTS

_TURNS = pa.list_(pa.struct([("question", pa.string()), ("answer", pa.string())]))


def _arrow_type(kind: Kind) -> pa.DataType:
    match kind:
        case Plain.PIXELS:
            return pa.int32()
        case Choice(values=(int(), *_)):
            return pa.int8()
        case Plain.CONCEPTS:
            return pa.list_(pa.string())
        case Plain.TURNS:
            return _TURNS
    return pa.string()


ROW = pa.schema([(key, _arrow_type(field.kind)) for key, field in FIELDS.items()])
COLUMNS = pa.schema([("line", pa.int64()), *ROW])

# Bytes. Arrow derives types for keys of one's own, and a value nested ten thousand deep overflows its stack.
MAX_LINE_WITH_OWN_KEYS = 4096
MAX_BLOCK = 2**30  # bytes; Arrow's texts count in 32 bits


def checked_batch(block: bytes, first: int, path: str) -> pa.RecordBatch:
    """Complete lines of a manifest as a batch of `COLUMNS`; blank lines are left out. Names of images are `storable`.

    Args:
        block: the lines; the last one may lack its end.
        first: number of the first line, from 1.
        path: the manifest's, for messages.

    Raises:
        RecordError: a line is not a record; names the first such line.
    """
    rows = _at_once(block if block.endswith(b"\n") else block + b"\n")
    if rows is not None:
        lines = pa.array(np.arange(first, first + len(rows), dtype=np.int64))
        kinds = [field.kind for field in FIELDS.values()]
        columns = [
            _without_blanks(column) if kind is Plain.TEXT else column
            for kind, column in zip(kinds, rows.columns, strict=True)
        ]
        return pa.RecordBatch.from_arrays([lines, *columns], schema=COLUMNS)
    checked = [
        {"line": number, **parse_line(line, f"{path}, line {number}")}
        for number, line in enumerate(io.BytesIO(block), first)
        if line.strip()
    ]
    for row in checked:
        row["image"] = storable(row["image"])
    return pa.RecordBatch.from_pylist(checked, schema=COLUMNS)


def _at_once(block: bytes) -> pa.RecordBatch | None:
    """The lines' rows if each is a record beyond doubt, else None."""
    lines = block.count(b"\n")
    # In JSON nothing but two objects, one after the other, has a line's end between "}" and "{".
    ends = block.count(b"}\n{") + block.count(b"}\r\n{") + block.endswith((b"}\n", b"}\r\n"))
    if ends != lines or not block.startswith(b"{") or len(block) > MAX_BLOCK:
        return None
    try:
        block.decode("utf-8")  # Arrow does not look
        table = _parsed(block)
        if table is None or len(table) != lines:  # two objects in one line
            return None
        (rows,) = table.select(KEYS).combine_chunks().to_batches()
    except (UnicodeDecodeError, pa.ArrowException):
        return None
    return rows if rows.schema.equals(ROW) and _are_records(rows) else None


def _parsed(block: bytes) -> pa.Table | None:
    """All objects of the block, keys of one's own among the columns; None if there is another key."""

    def read(unexpected: str) -> pa.Table:
        return pyarrow.json.read_json(
            io.BytesIO(block),
            read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=len(block)),
            parse_options=pyarrow.json.ParseOptions(
                explicit_schema=ROW, unexpected_field_behavior=unexpected
            ),
        )

    if b'"x_' not in block:
        return read("error")
    ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n"))
    if np.diff(ends, prepend=-1).max() > MAX_LINE_WITH_OWN_KEYS:
        return None
    table = read("infer")
    own = set(table.column_names) - set(KEYS)
    return table if all(key.startswith("x_") for key in own) else None


def _are_records(rows: pa.RecordBatch) -> bool:
    """Whether `record.check_row` would accept every row; a False may be wrong, a True may not."""
    return not rows.column("image").null_count and all(
        _holds(field.kind, rows.column(key)) for key, field in FIELDS.items()
    )


def _holds(kind: Kind, column: pa.Array) -> bool:
    """Whether every value of the column that is not null is of the kind; the column has its Arrow type."""
    match kind:
        case Plain.IMAGE_PATH:
            zeros = pc.match_substring(column, "\0")
            return _all(pc.greater(pc.binary_length(column), 0)) and not pc.any(zeros, min_count=0).as_py()
        case Hex():
            return _all(pc.match_substring_regex(column, kind.pattern))
        case Plain.PIXELS:
            return _all(pc.greater(column, 0))
        case Choice():
            return _all(pc.is_in(column.drop_null(), value_set=pa.array(kind.values, column.type)))
        case Plain.CONCEPTS:
            return _are_concepts(column)
        case Plain.TURNS:
            return _are_turns(column)
        case Plain.TEXT:
            return True


def _without_blanks(texts: pa.Array) -> pa.Array:
    """The texts with null where one says nothing, as `record.check_row` reads them."""
    blank = pa.array(_blanks(texts), pa.string())
    if not len(blank):
        return texts
    return pc.if_else(pc.is_in(texts, value_set=blank, skip_nulls=True), pa.scalar(None, pa.string()), texts)


def _blanks(texts: pa.Array) -> list[str]:
    """The different ones of the texts that say nothing; only short ones without a digit from 1 are looked at."""
    short = pc.less_equal(pc.binary_length(pc.utf8_trim_whitespace(texts)), MAX_BYTES)
    different = pc.unique(texts.filter(short))  # few, but for identifiers, most of which have such a digit
    candidates = different.filter(pc.match_substring_regex(different, "^[^1-9]*$"))
    return [text for text in candidates.to_pylist() if is_blank(text)]


def _all(truth: pa.Array) -> bool:
    """Whether everything that is not null is true."""
    return pc.all(truth, min_count=0).as_py()


def _are_concepts(lists: pa.Array) -> bool:
    """Whether the lists hold SKINCON's names alone, and none of them twice."""
    places = pc.index_in(lists.flatten(), value_set=pa.array(CONCEPTS, pa.string()))
    if places.null_count:  # also of a null, which is none of the names
        return False
    pairs = pc.list_parent_indices(lists).to_numpy() * len(CONCEPTS) + places.to_numpy()
    return len(np.unique(pairs)) == len(pairs)


def _are_turns(lists: pa.Array) -> bool:
    """Whether all turns have a question and an answer with a letter or digit in each."""
    turns = lists.flatten()
    if turns.null_count:
        return False
    texts = [turns.field(name) for name in ("question", "answer")]
    return all(
        not text.null_count and _all(pc.match_substring_regex(text, r"[\pL\pN]")) and not _blanks(text)
        for text in texts
    )
