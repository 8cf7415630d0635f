"""Sources of records, one a file: each checks what it is given and yields rows.

`data.preparing.engine` does the rest.

A source is a module with `HELP`, `EPILOG`, `add_arguments(parser)` and `read(args) -> Rows`.
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
