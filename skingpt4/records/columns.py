"""Many lines of a manifest at once, as checked Arrow columns.

Arrow's own reader of JSON and a few questions to whole columns take good rows ten times as fast as one by one.
What they do not take at once, for whatever reason, `records.parse_line` judges line by line: it alone refuses.
"""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from skingpt4.records.record import CLASS_NAMES, HEX_KEYS, KEYS, PHI, SKIN_TYPES, parse_line
from skingpt4.taxonomy.taxonomy import CONCEPTS

_TURNS = pa.list_(pa.struct([("question", pa.string()), ("answer", pa.string())]))
_TYPES = {
    "width": pa.int32(), "height": pa.int32(), "fitzpatrick": pa.int8(),
    "concepts": pa.list_(pa.string()), "turns": _TURNS,
}  # fmt: skip
ROW = pa.schema([(key, _TYPES.get(key, pa.string())) for key in KEYS])
COLUMNS = pa.schema([("line", pa.int64()), *ROW])

# Arrow makes types for keys of one's own, and one nested ten thousand deep overflows its stack.
LONGEST_WITH_OWN_KEYS = 4096
LONGEST_BLOCK = 2**30  # bytes; Arrow's texts count in 32 bits


def checked_batch(block: bytes, first: int, path: str) -> pa.RecordBatch:
    """Whole lines of a manifest as a batch of `COLUMNS`; blank lines are left out.

    Args:
        block: the lines; the last one may lack its end.
        first: number of the first line, from 1.
        path: of the manifest, for a message.

    Raises:
        RecordError: a line is no record; names the first such line.
    """
    rows = _at_once(block if block.endswith(b"\n") else block + b"\n")
    if rows is not None:
        lines = pa.array(np.arange(first, first + len(rows), dtype=np.int64))
        return pa.RecordBatch.from_arrays([lines, *rows.columns], schema=COLUMNS)
    return pa.RecordBatch.from_pylist(
        [
            {"line": number, **parse_line(line, f"{path}, line {number}")}
            for number, line in enumerate(io.BytesIO(block), first)
            if line.strip()
        ],
        schema=COLUMNS,
    )


def _at_once(block: bytes) -> pa.RecordBatch | None:
    """The lines' rows if each is a record beyond doubt, else None."""
    lines = block.count(b"\n")
    # In JSON nothing but two objects, one after the other, has a line's end between "}" and "{".
    ends = block.count(b"}\n{") + block.count(b"}\r\n{") + block.endswith((b"}\n", b"}\r\n"))
    if ends != lines or not block.startswith(b"{") or len(block) > LONGEST_BLOCK:
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
    if np.diff(ends, prepend=-1).max() > LONGEST_WITH_OWN_KEYS:
        return None
    table = read("infer")
    own = set(table.column_names) - set(KEYS)
    return table if all(key.startswith("x_") for key in own) else None


def _are_records(rows: pa.RecordBatch) -> bool:
    """Whether `records.check_row` would take every row; a False may be wrong, a True may not."""
    column = rows.column
    image = column("image")
    return (
        not image.null_count
        and _all(pc.greater(pc.binary_length(image), 0))
        and not pc.any(pc.match_substring(image, "\0"), min_count=0).as_py()
        and all(
            _all(pc.match_substring_regex(column(key), f"^[0-9a-f]{{{digits}}}$"))
            for key, digits in HEX_KEYS.items()
        )
        and all(_all(pc.greater(column(key), 0)) for key in ("width", "height"))
        and _are_among(column("fitzpatrick"), SKIN_TYPES)
        and _are_among(column("class"), CLASS_NAMES)
        and _are_among(column("phi"), PHI)
        and _are_concepts(column("concepts"))
        and _are_turns(column("turns"))
    )


def _all(truth: pa.Array) -> bool:
    """Whether everything that is known is true."""
    return pc.all(truth, min_count=0).as_py()


def _are_among(values: pa.Array, known: tuple) -> bool:
    return _all(pc.is_in(values.drop_null(), value_set=pa.array(known, values.type)))


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
    return all(not text.null_count and _all(pc.match_substring_regex(text, r"[\pL\pN]")) for text in texts)
