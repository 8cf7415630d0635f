"""What became of the rows of a source, for people."""

from __future__ import annotations

from pathlib import Path

from data.preparing.engine import MANIFEST, REJECTED, Summary
from data.reading.rows import REASONS, Rows

MAX_LICENCES = 5  # that are printed
IMAGE_REASONS = {
    "missing": "no such picture",
    "unreadable": "the file cannot be read",
    "not_an_image": "not a picture that can be read",
    "damaged": "a picture that ends early or is damaged",
    "too_large": "more bytes or pixels than a photograph has",
    "too_small": "too few pixels to show anything",
    "not_a_photograph": "a DICOM file of another kind than a photograph",
    "no_decoder": "a DICOM file that cannot be decoded with what is installed",
}


def table(summary: Summary, rows: Rows, out_dir: Path) -> str:
    """Counts of records, refusals by reason, remarks on the records, and how the tables were read."""
    lines = [f"kept     {summary.records:>9,}  {out_dir / MANIFEST}"]
    lines.append(f"refused  {summary.refused.total():>9,}  {out_dir / REJECTED}")
    known = REASONS | IMAGE_REASONS
    for reason, number in summary.refused.most_common():
        lines.append(f"         {number:>9,}  {reason}: {known.get(reason, '')}")
    lines += [f"left out {number:>9,}  {reason}" for reason, number in sorted(rows.left_out.items())]
    remarks = dict(summary.remarks.most_common())
    if summary.duplicates:
        remarks["with the same bytes as an earlier one; data.split keeps one of them"] = summary.duplicates
    if unclassed := summary.unclassed.total():
        names = ", ".join(f"{name} {number:,}" for name, number in summary.unclassed.most_common(3))
        more = ", ..." if len(summary.unclassed) > 3 else ""
        remarks[f"with a diagnosis that belongs to no class: {names}{more}"] = unclassed
    if remarks:
        lines.append("of the kept")
    lines += [f"         {number:>9,}  {remark}" for remark, number in remarks.items()]
    if blanks := +rows.blanks:
        cells = ", ".join(f"{key} {number:,}" for key, number in blanks.most_common())
        lines.append(
            f"empty    {blanks.total():>9,}  cells hold a word for nothing (nan, unknown, -, ...): {cells}"
        )
    lines += rows.remarks()
    lines += [
        f"terms    {number:>9,}  {licence}" for licence, number in summary.licences.most_common(MAX_LICENCES)
    ]
    if (rest := len(summary.licences) - MAX_LICENCES) > 0:
        lines.append(f"                    and {rest:,} others; each record's `licence` names its own")
    cached = ", the others were known from an earlier run" if summary.records > summary.measured else ""
    lines.append(f"{summary.measured:,} pictures were read{cached}")
    return "\n".join(lines)
