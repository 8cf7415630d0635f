"""Tables 1 and 2 of the paper beside counts: the difference of each row, and why, where that is known.

An explanation is given only if the counts confirm it; any other difference is left open.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from data.counting.counts import UNKNOWN, Counts
from skingpt4.taxonomy.published import class_counts, concept_counts, published
from skingpt4.taxonomy.taxonomy import CLASSES, CONCEPTS, OTHERS, dermnet_folders

STEP1 = ("fitzpatrick17k", "ddi")
# The public file has one more of each than the paper prints.
ONE_HIGHER = ("Plaque", "Papule", "Brown(Hyperpigmentation)")


@dataclass(frozen=True)
class Row:
    """One row of a table of the paper beside ours; `paper` is None where the paper has no such row."""

    name: str
    ours: int
    paper: int | None
    why: str = ""

    @property
    def difference(self) -> int | None:
        """Ours minus the paper's."""
        return None if self.paper is None else self.ours - self.paper


@dataclass(frozen=True)
class Comparison:
    """A table of the paper: what was counted for it, its rows, and remarks on it."""

    title: str
    basis: str
    rows: tuple[Row, ...]
    remarks: tuple[str, ...]


# ---- Table 1 -------------------------------------------------------------------------------------------


def compare_concepts(counts: Counts) -> Comparison | None:
    """Table 1 beside the concepts of Fitzpatrick17k, or of all records where there are none of it."""
    if not counts.of["concept"]:
        return None
    source = "fitzpatrick17k" if counts.with_concepts["fitzpatrick17k"] else None
    number = counts.with_concepts[source] if source else sum(counts.with_concepts.values())
    ours, printed = counts.total("concept", source), concept_counts()
    rows = [
        Row(name, ours.get(name, 0), printed[name], _why_concept(name, ours, printed)) for name in printed
    ]
    basis = f"{number:,} records with concepts" + (f" of {source}" if source else " of all sources")
    return Comparison(
        "Table 1, concepts of step 1", basis, tuple(rows), tuple(_remarks_concepts(counts, rows, source))
    )


def _why_concept(name: str, ours: dict[str, int], printed: dict[str, int]) -> str:
    difference = ours.get(name, 0) - printed[name]
    if difference == 1 and name in ONE_HIGHER:
        return "known: one higher in the public file"
    return "equal" if difference == 0 else ""


def _remarks_concepts(counts: Counts, rows: list[Row], source: str | None) -> Iterator[str]:
    equal = sum(row.difference == 0 for row in rows)
    yield f"{equal} of {len(CONCEPTS)} concepts equal the paper's."
    explained = [row.name for row in rows if row.why.startswith("known")]
    if explained and equal + len(explained) == len(CONCEPTS):
        yield (
            "Table 1 is the valid Fitzpatrick17k rows alone; "
            f"{', '.join(explained)} are one higher in the public file than the paper prints."
        )
    elif source is None:
        yield "Table 1 counts the valid rows of SKINCON's Fitzpatrick17k half; these records are others."
    yield from _remark_total(counts)


def _remark_total(counts: Counts) -> Iterator[str]:
    """Why the paper's total is not the number of valid rows, if the counts show why."""
    total = published()["table1"]["total"]
    valid = {name: counts.with_concepts[name] for name in STEP1}
    if not all(valid.values()):
        yield f"The paper's total, {total:,}, needs both halves of SKINCON; here {sum(valid.values()):,} are valid."
        return
    both = sum(valid.values())
    sums = f"Valid rows of both halves: {valid['fitzpatrick17k']:,} + {valid['ddi']:,} = {both:,}; printed {total:,}"
    flagged = counts.facts.get(("ddi", "flagged"), 0)
    if flagged and both + flagged == total:
        everything = counts.facts["ddi", "rows"]
        yield (
            f"{sums} = {valid['fitzpatrick17k']:,} + {everything:,}: the paper filtered Fitzpatrick17k but not DDI, "
            f"whose {flagged} flagged rows it counts."
        )
    elif total - both == DDI_FLAGGED:
        yield f"{sums}, which is {DDI_FLAGGED} more: DDI's rows that SKINCON says not to consider, unfiltered."
    else:
        yield f"{sums}."


DDI_FLAGGED = 20  # of the 656 rows of SKINCON's second release


# --- Table 2 -------------------------------------------------------------------------------------------


def exact_classes() -> dict[str, int]:
    """Class to Dermnet's train count where Table 2 prints that very count, so that the grouping is verified."""
    exact = {}
    for name in (*CLASSES, OTHERS):
        folders = [folder for folder in dermnet_folders() if folder.class_name == name]
        if all(folder.how == "exact" for folder in folders):
            exact[name] = sum(folder.train for folder in folders)
    return exact


def compare_classes(counts: Counts) -> Comparison | None:
    """Table 2 beside Dermnet's train split and the records of other step 2 sources."""
    ours: dict[str, int] = {}
    others = 0
    for (source, split, name), count in counts.classes_of_split.items():
        if source in STEP1 or (source == "dermnet" and split != "train"):
            continue
        ours[name] = ours.get(name, 0) + count
        others += count if source != "dermnet" else 0
    if not any(name != UNKNOWN for name in ours):
        return None
    printed = class_counts()
    dermnet_only = not others
    rows = [
        Row(name, ours.get(name, 0), printed[name], _why_class(name, ours, dermnet_only)) for name in printed
    ]
    shown = sum(row.ours for row in rows)
    if ours.get(UNKNOWN):
        missing = ", ".join(f.name for f in dermnet_folders() if f.class_name is None)
        why = f"folders in no row of Table 2: {missing}" if dermnet_only else "records without a class"
        rows.append(Row("(no class)", ours[UNKNOWN], None, why))
    parts = ["Dermnet's train split"] if "dermnet" in counts.records else []
    parts += [f"{others:,} records of other sources"] if others else []
    title = "Table 2, classes of step 2"
    remarks = tuple(_remarks_classes(counts, rows, shown))
    return Comparison(title, " and ".join(parts), tuple(rows), remarks)


def _why_class(name: str, ours: dict[str, int], dermnet_only: bool) -> str:
    printed, counted, exact = class_counts()[name], ours.get(name, 0), exact_classes()
    if name in exact:
        folders = sum(folder.class_name == name for folder in dermnet_folders())
        what = "its folder in train" if folders == 1 else f"the sum of its {folders} folders in train"
        if counted == printed:
            return f"exact: {what}"
        return f"exact with all of Dermnet: {what}" if dermnet_only else ""
    if not dermnet_only:
        return "equal" if counted == printed else ""
    expected = sum(folder.train for folder in dermnet_folders() if folder.class_name == name)
    if counted != expected:
        return f"by name; all of Dermnet's train is {expected:,}"
    if printed < counted:
        return "by name; the paper prints fewer than Dermnet's train has"
    return "by name; the paper's row holds more than Dermnet's train"


def _remarks_classes(counts: Counts, rows: list[Row], shown: int) -> Iterator[str]:
    table, exact = published()["table2"], exact_classes()
    equal = [row.name for row in rows if row.difference == 0]
    names = f": {', '.join(equal)}." if equal else "."
    yield f"{len(equal)} of {len(class_counts())} rows equal the paper's{names}"
    if set(equal) == set(exact):
        yield f"These are the {len(exact)} rows whose grouping of Dermnet's folders is verified by their count."
    total, dermnet, in_house = table["total"], table["dermnet_images"], table["in_house_images"]
    yield (
        f"Here {shown:,} samples; the paper prints {total:,} = {dermnet:,} of Dermnet + {in_house:,} in-house, which "
        "are private."
    )
    open_rest = total - shown - in_house
    if set(counts.records) == {"dermnet"} and shown == sum(
        f.train for f in dermnet_folders() if f.class_name
    ):
        yield (
            f"The in-house pictures do not fill the difference: {open_rest:,} samples of Table 2 are neither theirs "
            "nor in the train folders that it shows."
        )
    distinct = counts.facts.get(("dermnet", "distinct bare names"))
    if distinct is None:
        return
    files, lost = (
        counts.facts["dermnet", name] for name in ("files", "files lost if keyed on the bare name")
    )
    names = f"The {files:,} files have {distinct:,} distinct bare names"
    if distinct == dermnet:
        yield f"{names}, which is the paper's Dermnet size: keyed on the bare name {lost:,} files vanish."
    else:
        yield f"{names}; the paper's Dermnet size is {dermnet:,}."
