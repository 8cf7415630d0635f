"""Sources of records: each checks what it is given and yields rows for `data.preparing.engine`.

A source is a module or a `PublicTable` with `HELP`, `EPILOG`, `add_arguments(parser)`, the dataclass `Options`, whose
fields are those arguments, and `read(options) -> Rows`.
"""

from __future__ import annotations

from types import ModuleType

from data.sources import cases, folders, notes
from data.sources.public import derm1m, derm7pt, dermavqa, dermnet, mm_skin, scin, skincon
from data.sources.public.isic import ISIC
from data.sources.public.layouts import LAYOUTS
from data.sources.public.public_tables import PublicTable

SOURCES: dict[str, ModuleType | PublicTable] = {
    "skincon": skincon,
    "dermnet": dermnet,
    **{layout.name: PublicTable(layout) for layout in LAYOUTS},
    "isic": ISIC,
    "derm7pt": derm7pt,
    "scin": scin,
    "derm1m": derm1m,
    "mm_skin": mm_skin,
    "dermavqa": dermavqa,
    "notes": notes,
    "folders": folders,
    "cases": cases,
}
