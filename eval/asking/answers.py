"""What a model answered: one JSON object a line, written at once, so that a killed run loses nothing.

`RUN/answers/ARM.jsonl` (and `ARM.rankK.jsonl` of further processes) hold lines of three kinds:

    turn    one prompt of the conversation and its answer
    probe   a question outside the conversation, from which concepts and a class are read
    scores  log-probabilities of the closed sets: the 15 classes, and the 48 concepts where they were asked for

A line names what made it (checkpoint, template, device). `RUN/answers/ARM.meta.json` holds all settings of an arm,
`RUN/cases.jsonl` the cases, `RUN/task.json` the labels and questions where they are not those of the default task.

An arm need not have all kinds: its meta says which prompts (`prompts`) and questions (`probes`) it was asked, and
whether closed sets were scored (`scores`; files of earlier versions do not say it, and have them), and how many cases
go through the prompts (`num_conversations`; null: all).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import Any

from eval.tasks import Task, load_task, read_task
from skingpt4.support.errors import UserError, reason_of
from skingpt4.support.parse import ParseError, parse_json, read_json_object

FOLDER, CASES = "answers", "cases.jsonl"
# What a report reads from probes and scores.
READ = ("predicted_concepts", "text_class", "text_outcome", "text_mention", "listed_class", "class_scores",
        "concept_scores")  # fmt: skip


class AnswersError(UserError):
    """A run's folder that cannot be read; the message says which file and why."""


@dataclass(frozen=True)
class Key:
    """Which answer: the case, the repeat (from 0), the change made to its picture, the kind and its number."""

    case_id: str
    repeat: int
    perturbation: str | None
    kind: str
    number: int = 0


def seed_of(seed: int, key: Key) -> int:
    """The seed (31 bits) of one sampled answer: a function of the run's seed and of what is asked."""
    return int(hashlib.sha256(repr((seed, *astuple(key))).encode()).hexdigest()[:8], 16) >> 1


@dataclass(frozen=True)
class Answer:
    """One line; `fields` holds what is particular to its kind."""

    arm: str
    key: Key
    fields: dict[str, Any]

    @property
    def text(self) -> str:
        """The answer of a turn or probe."""
        return str(self.fields["answer"])


@dataclass
class ArmAnswers:
    """All answers of one arm."""

    name: str
    meta: dict[str, Any]
    lines: dict[Key, Answer] = field(default_factory=dict)  # in the order of the cases

    def of(self, kind: str, repeat: int | None = 0, perturbation: str | None = None) -> list[Answer]:
        """Answers of one kind, case by case; `repeat` None means all repeats."""
        return [
            answer
            for key, answer in self.lines.items()
            if key.kind == kind and key.perturbation == perturbation and repeat in (None, key.repeat)
        ]


@dataclass
class Run:
    """A run's folder: its cases by id (as `write_cases` wrote them), its arms by name, and its task."""

    folder: Path
    cases: dict[str, dict[str, Any]]
    arms: dict[str, ArmAnswers]
    task: Task = field(default_factory=load_task)


def to_line(answer: Answer) -> str:
    """One JSON line, with its end."""
    key = asdict(answer.key)
    number = key.pop("number")
    if answer.key.kind != "scores":
        key["turn" if answer.key.kind == "turn" else "probe"] = number
    return json.dumps({"arm": answer.arm, **key, **answer.fields}, ensure_ascii=False) + "\n"


def from_line(line: str) -> Answer:
    """The inverse of `to_line`.

    Raises:
        ValueError, KeyError, AttributeError: the line is something else.
    """
    row = parse_json(line)
    arm, kind = row.pop("arm"), row.pop("kind")
    number = row.pop("turn" if kind == "turn" else "probe") if kind != "scores" else 0
    key = Key(row.pop("case_id"), row.pop("repeat"), row.pop("perturbation"), kind, number)
    return Answer(arm, key, row)


def arm_files(folder: Path, arm: str) -> list[Path]:
    """The files that hold an arm's lines: the first process's, then those of the others."""
    first = folder / FOLDER / f"{arm}.jsonl"
    return [path for path in (first, *sorted((folder / FOLDER).glob(f"{arm}.rank*.jsonl"))) if path.is_file()]


def read_lines(paths: Iterable[Path]) -> Iterator[Answer]:
    """All complete lines; a truncated last line of a file, which a killed run leaves, is skipped.

    Raises:
        AnswersError: a complete line is not an answer of eval.run.
    """
    for path in paths:
        with path.open(encoding="utf-8", newline="\n") as file:
            for number, line in enumerate(file, 1):
                try:
                    yield from_line(line)
                except (ValueError, KeyError, AttributeError):
                    if line.endswith("\n"):
                        raise AnswersError(f"{path}, line {number}: is not an answer of eval.run") from None


def by_key(lines: Iterable[Answer]) -> dict[Key, Answer]:
    """The first of two lines with one key counts, but scores of the concepts before a line without them."""
    answers: dict[Key, Answer] = {}
    for answer in lines:
        before = answers.setdefault(answer.key, answer)
        if answer.fields.get("concept_scores") and not before.fields.get("concept_scores"):
            answers[answer.key] = answer
    return answers


def read_run(folder: str | Path) -> Run:
    """Read a run's folder.

    Raises:
        AnswersError: there is no run, or a file is damaged.
        TaskError: its task is damaged.
    """
    folder = Path(folder)
    metas = sorted((folder / FOLDER).glob("*.meta.json"))
    if not metas:
        raise AnswersError(
            f"{folder}: holds no answers; make them with python -m eval.run --run-dir {folder}"
        )
    try:
        with (folder / CASES).open(encoding="utf-8", newline="\n") as file:
            cases = {row["id"]: row for row in (parse_json(line, file_names=True) for line in file)}
        places = {name: place for place, name in enumerate(cases)}
        arms = {}
        for path in metas:
            name = path.name.removesuffix(".meta.json")
            arm = ArmAnswers(name, read_json_object(path))
            lines = [a for a in read_lines(arm_files(folder, name)) if a.key.case_id in places]
            # The order in which answers ended is chance; no figure may depend on it.
            arm.lines = by_key(sorted(lines, key=lambda a: places[a.key.case_id]))
            arms[name] = arm
    except (OSError, ParseError) as error:
        raise AnswersError(f"{folder}: cannot be read ({reason_of(error)})") from None
    except (ValueError, LookupError, TypeError, AttributeError):
        raise AnswersError(f"{folder}: holds lines that eval.run does not write; evaluate again") from None
    return Run(folder, cases, arms, read_task(folder))


def kind_of(meta: dict[str, Any]) -> str:
    """What kind of arm a meta file describes: "projection" (ours), "endpoint", "import", ..."""
    return str(meta.get("kind") or "projection")


def spread_places(num_cases: int, limit: int | None) -> list[int]:
    """Places of at most `limit` of the cases, evenly spread; None: of all."""
    from skingpt4.records.manifest import evenly_spread  # heavy, and not needed for --help

    return evenly_spread(num_cases, num_cases if limit is None else limit).tolist()


def num_expected(meta: dict[str, Any], converses: bool) -> int:
    """How many lines a completely answered case has; of imported answers a case has what was imported.

    `converses`: it goes through the prompts (`num_conversations`).
    """
    if kind_of(meta) == "import":
        return 1
    num_prompts = len(meta.get("prompts", ())) if converses else 0
    return num_prompts + len(meta.get("probes", ())) + bool(meta.get("scores", True))


def case_lines(run: Run, arm: ArmAnswers) -> list[dict[str, Any]]:
    """The greedy, unchanged answers of an arm, one object a case, as `eval.report` reads them.

    Cases with answers missing are left out. A key that the arm has nothing for is missing: `class_scores` and
    `predicted_class` without scores, `listed_class` where it did not choose from a list of the classes, `text_class`
    where no text was read for a class, `predicted_concepts` where none was read for concepts; `turns` and
    `conversation` may be empty.
    """
    by_case: dict[str, dict[Key, Answer]] = {name: {} for name in run.cases}
    for key, answer in arm.lines.items():
        if key.repeat == 0 and key.perturbation is None:
            by_case[key.case_id][key] = answer
    lines = []
    conversing = {*spread_places(len(by_case), arm.meta.get("num_conversations"))}
    for place, (name, answered) in enumerate(by_case.items()):
        if len(answered) < max(1, num_expected(arm.meta, place in conversing)):
            continue
        case = run.cases[name]
        line: dict[str, Any] = {
            "arm": arm.name,
            "case_id": name,
            "image": case["images"][0],
            "sha256": case["sha256"][0],
        }
        line |= {key: case[key] for key in ("class", "disease", "concepts", "fitzpatrick")}
        if case.get("groups"):  # of tasks other than the default
            line["groups"] = case["groups"]
        ordered = sorted(answered.values(), key=lambda a: (a.key.kind, a.key.number))
        probes = [answer for answer in ordered if answer.key.kind == "probe"]
        turns = [answer for answer in ordered if answer.key.kind == "turn"]
        line["turns"] = [{"question": a.fields["question"], "answer": a.text} for a in probes]
        line["conversation"] = [
            {"number": a.key.number, "question": a.fields["prompt"], "answer": a.text} for a in turns
        ]
        for answer in (*turns, *probes, *(a for a in ordered if a.key.kind == "scores")):
            line |= {key: value for key, value in answer.fields.items() if key in READ}
        if scores := line.get("class_scores"):
            line["predicted_class"] = max(scores, key=lambda each: scores[each])
        else:
            line.pop("class_scores", None)
        lines.append(line)
    return lines
