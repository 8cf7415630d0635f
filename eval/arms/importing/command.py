"""Add answers that exist already as an arm: a dermatologist's, an online doctor's, another laboratory's, ...

A table has one row an answer: `case` (as in the list of cases), `turn`, `text`, `seconds`. A turn is the number of
one of the four prompts, or `concepts`, `diagnosis` or `list` for the answer to a single question (`list`: a label of
the task). A row with seconds alone is an answer of which only the time is known. Optional are `question` (if other
than the published one), `num_tokens`, `seconds_to_first_token`, `repeat` (from 1), and columns named like the task's
classes that hold scores. CSV of any encoding, .xlsx and JSONL are read.

    case,turn,text,seconds
    case-0001,1,"Silvery plaques on the elbow.",48
    case-0001,diagnosis,psoriasis,12
"""

from __future__ import annotations

import argparse
import hashlib
import logging
from pathlib import Path
from typing import Any

from eval.arms.importing.lmms_samples import read_samples
from eval.arms.importing.rows import Imported, ImportingError, Row, assemble
from eval.arms.importing.tables import COLUMNS, read_table
from eval.asking import answers
from eval.asking.cases import Case, check_labels, read_cases
from eval.asking.claims import ArmError, claimed
from eval.tasks import Task
from skingpt4.checkpoints.checkpoint import git_revision
from skingpt4.support.files import file_sha256, write_text
from skingpt4.taxonomy import taxonomy

FORMATS = ("table", "lmms-eval")
NOT_COMPARED = "imported answers: what their author has seen before cannot be compared with the cases"

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this kind."""
    add = parser.add_argument_group("the answers").add_argument
    add("answers", nargs="+", metavar="FILE", help="one table; or the samples files of lmms-eval")
    add("--format", choices=FORMATS, default=FORMATS[0], help="default: %(default)s")
    add(
        "--system",
        help="who or what answered, for the report, such as 'dermatologist, 12 years' (default: the name)",
    )
    add("--source", help="where the answers are from: a publication, a questionnaire, a date")
    add("--scores-are", choices=("probabilities", "log"), help="what the columns of classes hold")
    add("--column", action="append", default=[], metavar="KEY=HEADING",
        help=f"the heading of a column, where it is another; keys: {', '.join(COLUMNS)}")  # fmt: skip
    add("--where", action="append", default=[], metavar="COLUMN=VALUE",
        help="only rows with this value, such as rater=anna; may be repeated")  # fmt: skip


def write(args: argparse.Namespace, task: Task) -> None:
    """Check all answers, then write them as an arm, all of them or none.

    Raises:
        ArmError, CasesError, ImportingError, SourceError: what cannot be imported, and why.
        RunDirError: another run is in progress in the folder, or it cannot be written.
    """
    if not args.name.isidentifier():
        raise ArmError(f"--name {args.name!r}: a name has only letters, digits and _")
    cases = read_cases(args.cases, task)
    check_labels(cases, args.cases, task)
    rows = _read(args, cases, task)
    imported = assemble(rows, args.name, cases, task, str(args.cases))
    for note in imported.notes:
        logger.warning("note: %s", note)
    num_cases = len({row.case_id for row in rows})
    print(f"arm {args.name}: {len(imported.lines)} answers about {num_cases} of {len(cases)} cases")
    if args.dry_run:
        return
    meta, extra = _meta(args, imported, task), _extra(args, cases, imported)
    with claimed(args.run_dir, args.name, cases, args.cases, task, meta, extra, args.replace):
        path = args.run_dir / answers.FOLDER / f"{args.name}.jsonl"
        write_text(path, "".join(map(answers.to_line, imported.lines)))


def _read(args: argparse.Namespace, cases: list[Case], task: Task) -> list[Row]:
    if args.format == "lmms-eval":
        return [row for source in args.answers for row in read_samples(source, cases, task)]
    if len(args.answers) != 1:
        raise ImportingError(
            f"{args.answers[1]}: one table is one arm; import the second with another --name"
        )
    headings = _pairs(args.column, "--column")
    unknown = [key for key in headings if key not in COLUMNS]
    if unknown:
        raise ImportingError(f"--column {unknown[0]}: is none of {', '.join(COLUMNS)}")
    rows, remarks = read_table(
        Path(args.answers[0]), task, args.scores_are, headings, _pairs(args.where, "--where")
    )
    for remark in remarks:
        logger.warning("note: %s", remark)
    return rows


def _pairs(texts: list[str], option: str) -> dict[str, str]:
    pairs = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not (sign and key and value):
            raise ImportingError(f"{option} {text!r}: write NAME=VALUE")
        pairs[key] = value
    return pairs


def _meta(args: argparse.Namespace, imported: Imported, task: Task) -> dict[str, Any]:
    """What the arm is; importing something else under its name is refused."""
    lines = "".join(map(answers.to_line, imported.lines))
    return {
        "kind": "import",
        "arm": args.name,
        "model": args.system or args.name,
        "language_model": args.system or args.name,
        "source": args.source,
        "format": args.format,
        "sha256": hashlib.sha256(lines.encode()).hexdigest(),  # of the lines: two files may say the same
        "cases_sha256": file_sha256(args.cases),
        "task": {"name": task.name, "sha256": task.sha256},
        "classes": list(task.classes),
        "taxonomy": taxonomy.version(),
        "precision": None,
        "decoding": {},
        "seed": None,
        "capabilities": {"turns": bool(imported.meta["prompts"]), "scores": imported.meta["scores"]},
        **imported.meta,
    }


def _extra(args: argparse.Namespace, cases: list[Case], imported: Imported) -> dict[str, Any]:
    return {
        "cases": str(args.cases),
        "num_cases": len(cases),
        "repeats": imported.num_repeats,
        "perturbations": [],
        "git_revision": git_revision(),
        "overlap_not_compared": [NOT_COMPARED],
    }
