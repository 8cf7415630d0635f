"""Sources of records, one per file: each checks what it is given and yields rows for `data.preparing.engine`.

A source is a module with `HELP`, `EPILOG`, `add_arguments(parser)`, the dataclass `Options`, whose fields are those
arguments, and `read(options) -> Rows`.
"""

from __future__ import annotations

from types import ModuleType

from data.sources import cases, dermnet, folders, notes, skincon

SOURCES: dict[str, ModuleType] = {
    "skincon": skincon,
    "dermnet": dermnet,
    "notes": notes,
    "folders": folders,
    "cases": cases,
}
