"""Stand-ins for what the bundled default does not have: a vision-language model, a person's answers, and raters.

    python -m eval.seven_arms.stand_ins vlm --out FOLDER
    python -m eval.seven_arms.stand_ins answers --run-dir RUN --out FOLDER
    python -m eval.seven_arms.stand_ins ratings --run-dir RUN --out FOLDER
    python -m eval.seven_arms.stand_ins check --run-dir RUN --out FOLDER

The model's weights are random, and nobody has answered or rated anything. Shares of right answers and of agreement
are planted in exact numbers, which `check` compares with the run's results.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.asking.answers import read_run
from eval.measures.results import RESULTS, ReportError, read_json
from eval.rating.questionnaire import DERMATOLOGIST, ITEMS, LAY, LAY_ITEMS, ROLES
from eval.rating.ratings import Rating, write_csv
from eval.seven_arms.stages import ARMS, PERSON, RATED
from skingpt4.support.cli import make_parser
from skingpt4.support.errors import reported
from skingpt4.support.files import write_text
from skingpt4.support.spreadsheets import csv_text

RATERS = {"rater_1": DERMATOLOGIST, "rater_2": DERMATOLOGIST, "rater_3": LAY}
RIGHT = 0.6  # of the person's diagnoses
TEXTS = (
    "The picture shows a lesion of the skin. This could be a skin disease image of {disease}.",
    "The borders and the colour are as one would expect it there.",
    "The cause of {disease} cannot be seen in a picture; history and examination decide.",
    "See a dermatologist, who can examine the skin and decide about treatment.",
)
SEED = 0


def planted(share: float, num_cases: int, shift: int = 0) -> list[bool]:
    """For each case whether it is one of the planted share: exactly round(share n) of them, spread over the list."""
    step = next(k for k in range(7, num_cases + 8) if math.gcd(k, num_cases) == 1)
    return [(step * place + shift) % num_cases < round(share * num_cases) for place in range(num_cases)]


def write_answers(run_dir: Path, out: Path) -> None:
    """A person's answers to the four prompts with the seconds that they took, as a table for `eval.add import`."""
    run = read_run(run_dir)
    rng = np.random.default_rng(SEED)
    rows = []
    options = run.task.options
    for (name, case), right in zip(run.cases.items(), planted(RIGHT, len(run.cases)), strict=True):
        classes = run.task.classes
        other = classes[(classes.index(case["class"]) + 1) % len(classes)]
        disease = options[case["class"] if right else other][0]
        seconds = rng.lognormal(3.6, 0.5, len(TEXTS))
        for turn, (text, time) in enumerate(zip(TEXTS, seconds, strict=True), 1):
            rows.append([name, str(turn), text.format(disease=disease), f"{time:.1f}"])
        rows.append(
            [
                name,
                "diagnosis",
                f"This could be a skin disease image of {disease}.",
                f"{rng.lognormal(3, 0.4):.1f}",
            ]
        )
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "answers.csv", csv_text(("case", "turn", "text", "seconds"), rows))


def write_ratings(run_dir: Path, out: Path) -> None:
    """The forms of three raters about every case and rated arm; lay users have the two items of their form."""
    cases = list(read_run(run_dir).cases)
    rng = np.random.default_rng(SEED)
    ratings = []
    for arm, shares in RATED.items():
        for number, (rater, role) in enumerate(RATERS.items()):
            for place, item in enumerate(LAY_ITEMS if role == LAY else ITEMS):
                agrees = planted(shares[role], len(cases), shift=number + 3 * place)
                for case, agree in zip(cases, agrees, strict=True):
                    value = str(int(rng.integers(4, 6) if agree else rng.integers(1, 4)))
                    ratings.append(
                        Rating(arm, case, rater, item, value, f"{rng.uniform(20, 90):.1f}", role=role)
                    )
            if role == DERMATOLOGIST:
                for case in cases:
                    ratings.append(
                        Rating(arm, case, rater, "hallucination", str(int(rng.random() < 0.2)), role=role)
                    )
    out.mkdir(parents=True, exist_ok=True)
    write_csv(ratings, out / "ratings.csv")


def check(run_dir: Path) -> list[str]:
    """Each planted share beside the one that the results hold.

    Raises:
        ReportError: the results do not hold what was planted.
    """
    results, run = read_json(run_dir / RESULTS), read_run(run_dir)
    num_cases = len(run.cases)
    expected: list[tuple[str, float, Any]] = [
        (
            f"{PERSON}, class in text",
            round(RIGHT * num_cases) / num_cases,
            _value(results, "arms", PERSON, "top1_text"),
        )
    ]
    for arm, shares in RATED.items():
        for role, share in shares.items():
            item = "helps_patients" if role == LAY else "diagnosis"
            place = ("ratings", "by_role", role, "arms", arm, item, "agree")
            expected.append(
                (
                    f"{ROLES[role]}s of {arm}, {item}",
                    round(share * num_cases) / num_cases,
                    _value(results, *place),
                )
            )
    lines, wrong = [], []
    for words, share, value in expected:
        lines.append(
            f"{words}: planted {share:.4f}, in the report {'nothing' if value is None else f'{value:.4f}'}"
        )
        if value is None or abs(value - share) > 1e-9:
            wrong.append(lines[-1])
    lacking = [arm for arm in ARMS if arm not in results.get("arms", {})]
    if wrong or lacking:
        raise ReportError("; ".join([*wrong, *(f"the report has no arm {arm}" for arm in lacking)]))
    return lines


def _value(results: dict[str, Any], *keys: str) -> Any:
    data: Any = results
    for key in (*keys, "value"):
        data = data.get(key) if isinstance(data, dict) else None
    return data


def write_vlm(out: Path, seed: int = SEED) -> None:
    """A random model of LLaVA's shape with its processor and template; the folder appears complete or not at all.

    Args:
        out: the model's folder.
        seed: of the weights.
    """
    import shutil
    import tempfile

    from eval.seven_arms.tiny_vlm import save

    if out.is_dir():
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        save(Path(folder) / "model", seed)
        shutil.move(Path(folder) / "model", out)


def main(argv: Sequence[str] | None = None) -> int:
    """Make one stand-in, or check the results; returns the exit status."""
    parser = make_parser(__doc__ or "", prog="python -m eval.seven_arms.stand_ins")
    parser.add_argument("what", choices=("vlm", "answers", "ratings", "check"))
    parser.add_argument("--run-dir", type=Path, help="the run whose cases are answered or rated")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    if args.what != "vlm" and args.run_dir is None:
        parser.error(f"{args.what} needs --run-dir")
    with reported() as status:
        if args.what == "vlm":
            write_vlm(args.out)
        elif args.what == "answers":
            write_answers(args.run_dir, args.out)
        elif args.what == "ratings":
            write_ratings(args.run_dir, args.out)
        else:
            print("\n".join(check(args.run_dir)))
    return status.code


if __name__ == "__main__":
    sys.exit(main())
