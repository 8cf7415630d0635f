"""Asks a respondent about all cases and writes every answer at once: what `python -m eval.add` does."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.arms.respondent import Respondent
from eval.asking.perturbations import CONTROLS, STANDARD


@dataclass(frozen=True)
class AskSettings:
    """Who is asked about which cases, and what; defaults are those of the options of `python -m eval.add`."""

    cases_path: Path
    run_dir: Path
    name: str
    task: Any
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
    replace_old: bool = False
    dry_run: bool = False

    @classmethod
    def of(cls, args: argparse.Namespace, task: Any) -> AskSettings:
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
            with_history=args.with_history,
            concurrency=args.concurrency,
            replace_old=args.replace,
            dry_run=args.dry_run,
        )


def answer_with(respondent: Respondent, settings: AskSettings) -> None:
    """Ask about all cases; what an earlier run answered is not asked again.

    Raises:
        ArmError, CasesError, PerturbationError: settings or cases that cannot be used; the message says why.
        RunDirError: another run is in progress in the folder, or it cannot be written.
        RespondentError: some cases are not complete; all others are written.
    """
    raise NotImplementedError
