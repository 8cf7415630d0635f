"""The commands of the evaluation with seven arms, in order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from eval.quickstart import Stage, stages

PERSON = "simulated_dermatologist"
ARMS = ("two_step", "untrained", "blank_image", "endpoint", "tiny_vlm", "probe", PERSON)
# Rated arms -> the share of forms that agree, by role.
RATED = {
    "two_step": {"dermatologist": 0.7, "lay": 0.8},
    "untrained": {"dermatologist": 0.2, "lay": 0.4},
    "tiny_vlm": {"dermatologist": 0.1, "lay": 0.3},
    PERSON: {"dermatologist": 0.9, "lay": 0.6},
}
NUM_CASES = 30
CONFIG, LENGTH = "configs/tiny/step2.yaml", "24"  # tokens of an answer: the texts of phantoms are short
TRAINING = ("weights", "step1", "describe for step2", "step2")
CONTRIBUTION = "simulated for a check of the software, not a person"


def plan(root: Path, checkpoint: Path | None, port: int, num_cases: int = NUM_CASES) -> list[Stage]:
    """All stages; without a checkpoint the short quickstart's two steps are trained first."""
    phantoms = root / "phantoms"
    planned = [
        _with_count(stage, num_cases) if stage.name == "render cases" else stage
        for stage in stages(root, phantoms, short=True, ablation=False)
        if stage.name.startswith("render") or stage.name in (TRAINING if checkpoint is None else TRAINING[:1])
    ]
    ours = str(checkpoint or root / "step2")
    return [
        *planned,
        *_arms(root, phantoms, ours, port),
        *_people(root, phantoms / "cases" / "manifest.jsonl"),
    ]


def _with_count(stage: Stage, count: int) -> Stage:
    """The same rendering of so many pictures."""
    place = stage.command.index("--count") + 1
    return replace(stage, command=[*stage.command[:place], str(count), *stage.command[place + 1 :]])


def _arms(root: Path, phantoms: Path, ours: str, port: int) -> list[Stage]:
    cases = ["--run-dir", str(root), "--cases", str(phantoms / "cases" / "manifest.jsonl")]
    asked = ["--max-new-tokens", LENGTH, "--replace"]
    run = ["-m", "eval.run", "--config", CONFIG, *cases, "--arm", f"two_step={ours}", "--arm", "untrained"]
    run += ["--arm", f"blank_image={ours}", "--concept-scores", *asked]
    served = ["-m", "eval.seven_arms.served", "--config", CONFIG, "--checkpoint", ours, "--port", str(port)]
    vlm = str(root / "tiny_vlm")
    return [
        Stage("ours, untrained and blank", run, _answers(root, "blank_image")),
        Stage(
            "our HTTP API",
            [*served, *cases, "--name", "endpoint", "--concurrency", "4", *asked],
            _answers(root, "endpoint"),
        ),
        Stage("a tiny vision-language model", ["-m", "eval.seven_arms.stand_ins", "vlm", "--out", vlm], Path(vlm)),
        Stage(
            "ask it",
            ["-m", "eval.add", "transformers", *cases, "--name", "tiny_vlm", "--model", vlm, *asked],
            _answers(root, "tiny_vlm"),
        ),
        Stage(
            "classifier on features",
            ["-m", "eval.add", "probe", *cases, "--name", "probe", "--encoder", CONFIG, "--train",
             str(phantoms / "step2" / "manifest.jsonl"), "--feature-cache", str(root / "features"), "--replace"],
            _answers(root, "probe"),
        ),
    ]  # fmt: skip


def _people(root: Path, cases: Path) -> list[Stage]:
    """Simulated answers and ratings, the report, and whether it shows what was planted."""
    made = root / "stand_ins"
    stand_ins = ["-m", "eval.seven_arms.stand_ins"]
    review = ["-m", "eval.review", "--run-dir", str(root)]
    people = ["-m", "eval.add", "import", "--run-dir", str(root), "--cases", str(cases), "--name", PERSON]
    people += ["--system", CONTRIBUTION, "--replace", str(made / "answers.csv")]
    raters = [*review, "--import", str(made / "ratings.csv"), "--overwrite"]
    return [
        Stage(
            "a person's answers", [*stand_ins, "answers", "--run-dir", str(root), "--out", str(made)], made
        ),
        Stage("import them", people, _answers(root, PERSON)),
        Stage(
            "ratings",
            [*stand_ins, "ratings", "--run-dir", str(root), "--out", str(made)],
            made / "ratings.csv",
        ),
        Stage(f"import them ({', '.join(RATED)})", raters, root / "ratings.sqlite"),
        Stage("export them", [*review, "--export", str(root / "ratings.csv")], root / "ratings.csv"),
        Stage(
            "report",
            ["-m", "eval.report", "--run-dir", str(root), "--appendix"],
            root / "report.html",
            cheap=True,
        ),
        Stage("check", [*stand_ins, "check", "--run-dir", str(root), "--out", str(made)], made, cheap=True),
    ]


def _answers(root: Path, arm: str) -> Path:
    return root / "answers" / f"{arm}.jsonl"
