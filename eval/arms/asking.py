"""Asks a respondent about all cases and writes every answer at once: what `python -m eval.add` does.

A case is asked as `eval.run` asks ours: closed sets, the prompts as one conversation, and questions outside it.
Several cases are asked at the same time, the questions of one case one after the other. A case that fails is left for
the next run.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from eval.arms.images import ShownImages
from eval.arms.questions import Questions, Unit
from eval.arms.respondent import Metered, Respondent, RespondentError, RespondentGone, Sender
from eval.arms.workers import outcomes
from eval.asking import answers, perturbations
from eval.asking.answers import Answer, Key
from eval.asking.cases import check_labels, read_cases
from eval.asking.claims import ArmError, add_to_meta, claimed
from eval.asking.perturbations import CONTROLS, STANDARD
from eval.tasks import Task
from skingpt4.checkpoints.checkpoint import git_revision
from skingpt4.support.errors import UserError, reason_of
from skingpt4.support.files import file_sha256
from skingpt4.taxonomy import taxonomy

# What a card says of where it ran, and of its training beside the cases: no answer depends on them.
PLACE = ("device", "hardware", "overlap_with_training", "overlap_not_compared")
NOT_COMPARED = "an arm that is not ours: its training cannot be compared with the cases"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AskSettings:
    """Who is asked about which cases, and what; defaults are those of the options of `python -m eval.add`."""

    cases_path: Path
    run_dir: Path
    name: str
    task: Task
    num_prompts: int = 4
    repeats: int = 1
    temperature: float = 0.0
    max_new_tokens: int = 300
    seed: int = 0
    perturbations: tuple[str, ...] = ()
    control: str | None = None
    concept_scores: bool = False
    with_history: bool = False
    concurrency: int = 1
    max_failures: int = 10  # cases in a row; 0: no limit
    replace_old: bool = False
    dry_run: bool = False

    @classmethod
    def of(cls, args: argparse.Namespace, task: Task) -> AskSettings:
        """The settings that a command line names."""
        return cls(
            cases_path=args.cases,
            run_dir=args.run_dir,
            name=args.name,
            task=task,
            num_prompts=args.num_prompts,
            repeats=args.repeats,
            temperature=args.temperature,
            max_new_tokens=args.max_new_tokens,
            seed=args.seed,
            perturbations=STANDARD if "all" in args.perturb else tuple(args.perturb),
            control=args.control or (args.name if args.name in CONTROLS else None),
            concept_scores=args.concept_scores,
            with_history=args.with_history or task.with_history,
            concurrency=args.concurrency,
            max_failures=args.max_failures,
            replace_old=args.replace,
            dry_run=args.dry_run,
        )

    def check(self) -> None:
        """Refuse what is known to fail before anything is read.

        Raises:
            ArmError, PerturbationError: what cannot be.
        """
        if not self.name.isidentifier():
            raise ArmError(f"--name {self.name!r}: a name has only letters, digits and _")
        for change in self.perturbations:
            perturbations.perturb(Image.new("RGB", (8, 8)), change)
        if self.repeats < 1 or self.concurrency < 1 or self.max_new_tokens < 1:
            raise ArmError("--repeats, --concurrency and --max-new-tokens must be 1 or more")
        if not (0 <= self.temperature <= 10 and self.max_failures >= 0):
            raise ArmError("--temperature must be between 0 and 10, and --max-failures 0 or more")


def answer_with(respondent: Respondent, settings: AskSettings) -> None:
    """Ask about all cases; what an earlier run answered is not asked again.

    Raises:
        ArmError, CasesError, PerturbationError: settings or cases that cannot be used; the message says why.
        RunDirError: another run is in progress in the folder, or it cannot be written.
        RespondentError: some cases are not complete; everything that was answered is written.
    """
    settings.check()
    arm = _Arm(respondent, settings)
    if settings.dry_run:
        print(arm.description())
        return
    with claimed(
        settings.run_dir, settings.name, arm.cases, settings.cases_path, settings.task, arm.meta(), arm.extra(),
        settings.replace_old,
    ):  # fmt: skip
        if "overlap_not_compared" not in respondent.card:
            logger.warning("note: arm %s: %s", settings.name, NOT_COMPARED)
        if isinstance(respondent, Sender) and respondent.is_remote:
            logger.warning("%s", arm.description())
        try:
            arm.run()
        finally:
            if arm.num_answered and isinstance(
                respondent, Metered
            ):  # what cost nothing now keeps what it cost then
                add_to_meta(settings.run_dir, settings.name, {"usage": respondent.usage()})


class _Arm:
    """One arm in a run's folder: what its meta file says, what is open, and the loop that asks for it."""

    def __init__(self, respondent: Respondent, settings: AskSettings) -> None:
        self.respondent, self.settings, self.num_answered = respondent, settings, 0
        self.cases = read_cases(settings.cases_path, settings.task)
        check_labels(self.cases, settings.cases_path, settings.task)
        self.shown = ShownImages(self.cases, settings.control, settings.seed)
        self.questions = Questions(
            respondent, settings.name, settings.task, self.cases, settings.num_prompts,
            settings.concept_scores, settings.with_history, settings.seed,
        )  # fmt: skip
        self.units = [
            Unit(number, repeat, change)
            for change in (None, *settings.perturbations)
            for repeat in range(1 if change else settings.repeats)
            for number in range(len(self.cases))
        ]

    def meta(self) -> dict[str, Any]:
        """What the answers depend on; a run continues only where it is the same."""
        settings, questions, task = self.settings, self.questions, self.settings.task
        card = {key: value for key, value in self.respondent.card.items() if key not in PLACE}
        decoding = {
            "max_new_tokens": settings.max_new_tokens,
            "temperature": settings.temperature,
            "seed": settings.seed,
        }
        return {
            **card,
            "arm": settings.name,
            "language_model": card.get("model"),
            "cases_sha256": file_sha256(settings.cases_path),
            "task": {"name": task.name, "sha256": task.sha256},
            "classes": list(task.classes),
            "control": settings.control,
            "prompts": list(questions.prompts),
            "probes": list(questions.probes.values()),
            "scores": questions.scores,
            "concepts": list(task.concepts) if questions.concept_scores and not task.is_default else [],
            "with_history": settings.with_history,
            "scored_diseases": [texts[0] for texts in questions.options.values()],
            "taxonomy": taxonomy.version(),
            "decoding": decoding | card.get("decoding", {}),
            "seed": settings.seed,
        }

    def extra(self) -> dict[str, Any]:
        """What the meta file says beside that."""
        card, settings = self.respondent.card, self.settings
        return {
            "overlap_not_compared": [NOT_COMPARED],
            **{key: card[key] for key in PLACE if key in card},
            "cases": str(settings.cases_path),
            "num_cases": len(self.cases),
            "repeats": settings.repeats,
            "perturbations": list(settings.perturbations),
            "git_revision": git_revision(),
        }

    def done(self) -> dict[Key, Answer]:
        """What earlier runs answered; scores that lack the concepts that are asked for are asked again."""
        lines = answers.read_lines(answers.arm_files(self.settings.run_dir, self.settings.name))
        return {
            key: answer
            for key, answer in answers.by_key(lines).items()
            if key.kind != "scores"
            or not self.questions.concept_scores
            or answer.fields.get("concept_scores")
        }

    def description(self) -> str:
        """What is asked, how much of it is open and, for a server, what is sent where."""
        respondent, questions, done = self.respondent, self.questions, self.done()
        num_pictures = sum(len(case.records) for case in self.cases)
        open_keys = {unit: sum(key not in done for key in questions.keys(unit)) for unit in self.units}
        lines = [
            f"arm {self.settings.name}: {len(self.cases)} cases with {num_pictures} pictures, task "
            f"{self.settings.task.name}; for each case {len(questions.prompts)} prompts, {len(questions.probes)} "
            f"single questions and {'a' if questions.scores else 'no'} scored closed set (closed set by: "
            f"{respondent.card.get('closed_set') or 'nothing'})",
            f"answers: {sum(open_keys.values())} to ask, "
            f"{sum(len(questions.keys(unit)) for unit in self.units) - sum(open_keys.values())} there already",
        ]
        if isinstance(respondent, Sender):
            num_bytes = sum(
                count * self._num_bytes(respondent, unit) for unit, count in open_keys.items() if count
            )
            history = ", the cases' histories" if self.settings.with_history else ""
            lines.append(
                f"to {respondent.destination}{', ANOTHER MACHINE' if respondent.is_remote else ', this machine'}: "
                f"{sum(open_keys.values())} requests with pictures of {num_bytes / 1e6:.1f} MB in all. Sent are the "
                f"pictures (encoded again, without EXIF and file names), the questions{history} and the system's own "
                "earlier answers; not the labels, names of files or ids of cases"
            )
        return "\n".join(lines)

    def _num_bytes(self, sender: Sender, unit: Unit) -> int:
        """Bytes of a unit's pictures; 0 where they cannot be read, which fails when they are asked about."""
        try:
            return sender.num_bytes(self.shown.of(unit.number, unit.change))
        except UserError:
            return 0

    def run(self) -> None:
        """Ask what is open, and write each answer at once.

        Raises:
            RespondentError: how many cases failed, and why the first did.
        """
        settings, questions, done = self.settings, self.questions, self.done()
        total = sum(len(questions.keys(unit)) for unit in self.units)
        todo = deque(unit for unit in self.units if any(key not in done for key in questions.keys(unit)))
        num_open = sum(key not in done for unit in todo for key in questions.keys(unit))
        failures: dict[str, str] = {}  # case -> the first reason
        in_a_row, stopped = 0, ""
        path = settings.run_dir / answers.FOLDER / f"{settings.name}.jsonl"
        with (
            path.open("a", encoding="utf-8") as file,
            tqdm(total=total, initial=total - num_open, desc=settings.name, unit="answer") as bar,
        ):
            for unit, result in outcomes(
                todo,
                lambda unit: questions.answers(unit, self.shown.of(unit.number, unit.change), done),
                settings.concurrency,
            ):
                if isinstance(result, Answer):
                    file.write(answers.to_line(result))
                    file.flush()
                    bar.update()
                    self.num_answered += 1
                    continue
                in_a_row = 0 if result is None else in_a_row + 1
                if result is not None:
                    case_id = self.cases[unit.number].id
                    failures.setdefault(case_id, reason_of(result))
                    tqdm.write(f"case {case_id} failed: {reason_of(result)}", file=sys.stderr)
                if isinstance(result, RespondentGone) or in_a_row == settings.max_failures > 0:
                    stopped = "stopped early; "
                    todo.clear()  # what is in progress ends and is written
        if failures:
            case_id, reason = next(iter(failures.items()))
            raise RespondentError(
                f"arm {settings.name}: {stopped}{len(failures)} of {len(self.cases)} cases failed, the first "
                f"{case_id} ({reason}); all answers are written; to ask for the missing ones, repeat the command"
            )
