"""The main job on the bundled default model, end to end: python -m eval.quickstart.

Each stage is a command that you could type yourself; this file prints, times and runs one after the other. A stage
that was completed with the same command and configs is reused; an interrupted one continues.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skingpt4.generation.questions import CONCEPTS_QUESTION
from skingpt4.support.cli import make_parser, setup_logging
from skingpt4.support.errors import UserError, reported
from skingpt4.support.files import write_text
from skingpt4.support.memory import peak_bytes

# split: (pictures, pictures of --short, share of records with concepts, share with a note). Most sources of diagnoses
# have neither.
SPLITS = {
    "step1": (300, 80, 1.0, 1.0),
    "step2": (450, 300, 0.15, 0.05),
    "validation": (30, 45, 1.0, 1.0),
    "validation_step2": (45, 15, 0.15, 0.05),
    "cases": (150, 60, 1.0, 1.0),
}
CASES_SEED = 2  # of drawings by which no setting was chosen; those of seed 0 were used for that
BUNDLED = Path("skingpt4/weights/bundled")  # the Q-Former, and the projection that step 1 starts from
INTERRUPTED = 130
SHORT_ITERATIONS = {"step1": 20, "step2": 100, "step2_only": 3}  # the last: only whether it works
NUM_CONVERSATIONS = 30  # cases that go through the four prompts: as many as people look at
LEARNED_MORE = 0.10  # --short: top-1 of two steps over that of a blank picture; nothing learned gives about 0


class StageError(UserError):
    """A stage that failed; its own message is printed above."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with the name of the stage that it reached."""


@dataclass(frozen=True)
class Stage:
    """A command, the file that shows it is done, and how it is run again.

    A `training` run can be resumed; `cheap` stages check themselves what exists, so they always run.
    """

    name: str
    command: list[str]
    output: Path
    training: bool = False
    cheap: bool = False


def stages(
    root: Path, phantoms: Path, short: bool, ablation: bool, overrides: Sequence[str] = ()
) -> list[Stage]:
    """All stages in order. `short` runs the same stages on little data: a check that they work and that it learns.

    `overrides` are of all trainings.
    """
    weights = ["smollm2-135m-instruct", "dinov2-vit-s14-reg4"]
    planned = [
        Stage("weights", ["-m", "skingpt4", "weights", "fetch", *weights], Path("weights"), cheap=True)
    ]
    for split, (complete, few, concepts, notes) in SPLITS.items():
        count = few if short else complete
        render = ["-m", "data.phantoms", "render", "--out-dir", str(phantoms), "--split", split]
        render += ["--count", str(count), "--known-concepts", str(concepts), "--known-notes", str(notes)]
        render += ["--seed", str(CASES_SEED)] if split == "cases" else []
        planned.append(Stage(f"render {split}", render, phantoms / split / "manifest.jsonl", cheap=True))
    planned.append(_train("step1", root, phantoms, short, overrides))
    planned.append(_describe("step2", root, phantoms))
    planned.append(_train("step2", root, phantoms, short, overrides))
    planned.append(_calibrate("step2", root, phantoms))
    # Only the main arm goes through conversations; the others are needed for their measures.
    main = ["--num-conversations", str(NUM_CONVERSATIONS)]
    planned.append(_answer("answer the cases", root, phantoms, short, [f"two_step={root}/step2"], main))
    others = [f"step1_only={root}/step1", f"blank_image={root}/step2"]
    planned.append(_answer("answer the cases (other arms)", root, phantoms, short, others))
    if ablation:
        planned.append(_describe("step2_only", root, phantoms))
        planned.append(_train("step2_only", root, phantoms, short, overrides))
        planned.append(
            _calibrate("step2_only", root, phantoms)
        )  # read like the main arm, or they cannot be compared
        # These two are the same for every seed. An untrained projection never ends an answer, so it costs much.
        more = [
            *(() if overrides else ("untrained", f"aligned_start={BUNDLED}/aligned_tiny")),
            f"noise_image={root}/step2",
            f"step2_only={root}/step2_only",
        ]
        planned.append(_answer("answer the cases (ablation)", root, phantoms, short, more))
    return planned


def _train(step: str, root: Path, phantoms: Path, short: bool, overrides: Sequence[str]) -> Stage:
    split, held_out = ("step1", "validation") if step == "step1" else ("step2", "validation_step2")
    command = ["train.py", "--config", f"configs/tiny/{step}.yaml", f"output_dir={root}/{step}"]
    command += [
        f"data.train=[{phantoms / split / 'manifest.jsonl' if step == 'step1' else _described(step, root)}]"
    ]
    command += [f"data.validation=[{phantoms}/{held_out}/manifest.jsonl]"]
    command += [f"data.evaluation=[{phantoms}/cases/manifest.jsonl]"]
    command += [f"initial_checkpoint={root}/step1"] if step == "step2" else []
    command += ["optim.max_epoch=1", f"optim.iters_per_epoch={SHORT_ITERATIONS[step]}"] if short else []
    return Stage(step, [*command, *overrides], root / step / "checkpoints", training=True)


def _described(step: str, root: Path) -> Path:
    """Step 2's records with what the model that `step` starts from sees in their pictures."""
    return root / f"{step}_described.jsonl"


def _describe(step: str, root: Path, phantoms: Path) -> Stage:
    start = root / "step1" if step == "step2" else BUNDLED / "aligned_tiny"
    command = ["-m", "skingpt4", "describe", "--checkpoint", str(start), "--sentence", "I see {morphology}."]
    command += ["--question", CONCEPTS_QUESTION, "--manifest", f"{phantoms}/step2/manifest.jsonl"]
    command += ["--output", str(_described(step, root))]
    command += ["--max-new-tokens", "24", "--batch-size", "64", "--replace"]  # the phantoms' texts are short
    return Stage(f"describe for {step}", command, _described(step, root))


def _calibrate(step: str, root: Path, phantoms: Path) -> Stage:
    command = ["-m", "skingpt4", "calibrate", "--checkpoint", f"{root}/{step}"]
    for split in ("validation", "validation_step2"):
        command += ["--manifest", f"{phantoms}/{split}/manifest.jsonl"]
    name = "calibrate" if step == "step2" else f"calibrate {step}"
    return Stage(name, command, root / step / "checkpoints")


def _answer(
    name: str, root: Path, phantoms: Path, short: bool, arms: Sequence[str], asked: Sequence[str] = ()
) -> Stage:
    command = ["-m", "eval.run", "--config", "configs/tiny/step2.yaml"]
    command += ["--cases", str(phantoms / "cases" / "manifest.jsonl"), "--run-dir", str(root)]
    for arm in arms:
        command += ["--arm", arm]
    # The phantoms' texts are short, and an untrained arm never ends by itself.
    command += [*(asked or ["--num-prompts", "0"]), "--replace", "--max-new-tokens", "16" if short else "48"]
    return Stage(name, command, root / "answers" / f"{arms[-1].split('=')[0]}.jsonl")


def run_stages(planned: Sequence[Stage], ledger_path: Path) -> dict[str, Any]:
    """Run what is not done yet; returns the ledger: for each stage its command, key, seconds and peak memory.

    Raises:
        StageError: a stage ended with an error.
    """
    from data.phantoms.splits import RENDERER_VERSION
    from skingpt4.taxonomy.taxonomy import version

    ledger = json.loads(ledger_path.read_text()) if ledger_path.is_file() else {}
    made_of = b"".join(p.read_bytes() for p in [
        *sorted(Path("configs/tiny").glob("*.yaml")), BUNDLED / "qformer_captions.safetensors",
        BUNDLED / "aligned_tiny" / "projection.safetensors",
    ])  # fmt: skip
    made_of += f"{RENDERER_VERSION} {version()}".encode()
    for number, stage in enumerate(planned, 1):
        shown = shlex.join(["python", *stage.command])
        key = hashlib.sha256(shown.encode() + made_of).hexdigest()[:16]
        print(f"\n[{number}/{len(planned)}] {stage.name}\n$ {shown}", flush=True)
        done = ledger.get(stage.name)
        if done and done["key"] == key and stage.output.exists() and not stage.cheap:
            print(f"done before in {done['seconds']:.0f} s; reused", flush=True)
            continue
        if done and done["key"] != key:  # made of something else: later stages are run again too
            for later in planned[number:]:
                ledger.get(later.name, {})["key"] = "of an earlier stage's other result"
            write_text(ledger_path, json.dumps(ledger, indent=1) + "\n")
        again = ["--overwrite" if done else "--resume"] if stage.training else []
        began = time.monotonic()
        status = _wait([sys.executable, *stage.command, *again])
        if status == INTERRUPTED:
            raise Interrupted(stage.name)
        if status:
            raise StageError(
                f"stage '{stage.name}' ended with status {status}; fix it and run the same command again"
            )
        seconds, peak = time.monotonic() - began, peak_bytes(of_children=True) / 2**30
        if done and done["key"] == key and stage.cheap:  # it only looked whether everything is there
            seconds, peak = max(seconds, done["seconds"]), max(peak, done["peak_memory_gb"])
        ledger[stage.name] = {"command": shown, "key": key, "seconds": seconds, "peak_memory_gb": peak}
        write_text(ledger_path, json.dumps(ledger, indent=1) + "\n")
    return ledger


def require_learning(results: dict[str, Any]) -> None:
    """Refuse results in which two steps have not learned to name what a picture shows.

    Raises:
        StageError: with both figures.
    """
    two_steps, blank = (results["arms"][name]["top1"] for name in ("two_step", "blank_image"))
    if two_steps["value"] - blank["value"] < LEARNED_MORE:
        raise StageError(
            f"two steps name the class of {two_steps['value']:.1%} of {two_steps['n']} cases, and of "
            f"{blank['value']:.1%} where the picture is blank: less than {LEARNED_MORE:.0%} more, so the recipe no "
            "longer learns what it should; look at the losses in the report"
        )


def _wait(command: Sequence[str]) -> int:
    """Run a command; Ctrl-C reaches it too, and it is given the time to save. Returns its status."""
    with subprocess.Popen(command) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.wait()
            return INTERRUPTED


def _plan(planned: Sequence[Stage]) -> str:
    """What will happen, for people, before anything does."""
    training = ", ".join(stage.name for stage in planned if stage.training)
    return (
        f"{len(planned)} stages: fetch the pretrained parts, draw phantoms, describe and train ({training}), "
        "answer the cases, write the report.\nEach training shows the time that it has left. Ctrl-C loses nothing: "
        "the same command continues.\nResearch software, not a medical device; phantoms are drawings and carry no "
        "clinical meaning."
    )


def _next_steps(page: Path, root: Path) -> str:
    """Where to look now, for people, after all stages."""
    return (
        f"Next:\n  open {page}\n  python demo.py --checkpoint {root}/step2   (a consultation in the browser)\n"
        "  data/README.md   (your own photographs: data.prepare, then both steps)"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the main job and print the headline table; returns the exit status."""
    parser = make_parser(__doc__ or "", prog="python -m eval.quickstart")
    parser.add_argument("--ablation", action="store_true", help="also train step 2 without step 1")
    parser.add_argument("--short", action="store_true", help="the same stages on a few pictures, in minutes")
    parser.add_argument(
        "--seed", type=int, help="of all trainings, in a folder of its own (default: the configurations')"
    )
    args = parser.parse_args(argv)
    seeded = [] if args.seed is None else [f"seed={args.seed}"]
    root = Path("-".join(["runs/quickstart", *(["short"] if args.short else []), *seeded]))
    phantoms = root / "phantoms" if args.short else Path("runs/phantoms")
    root.mkdir(parents=True, exist_ok=True)
    setup_logging()
    with reported() as status:
        from eval.measures.results import headline, write_results
        from eval.page.report import write_report

        planned = stages(root, phantoms, args.short, args.ablation, seeded)
        print(_plan(planned), flush=True)
        try:
            ledger = run_stages(planned, root / "stages.json")
        except Interrupted as stage:
            print(f"\nInterrupted during {stage}. Run the same command to continue.", file=sys.stderr)
            return INTERRUPTED
        # The ablation is an extra: the main job's time and memory are those of its own stages.
        own = [ledger[stage.name] for stage in stages(root, phantoms, args.short, False, seeded)]
        results = write_results(
            root,
            seconds=round(sum(entry["seconds"] for entry in own), 1),
            peak_memory_gb=round(max(entry["peak_memory_gb"] for entry in own), 2),
            provenance={"commands": [entry["command"] for entry in ledger.values()]},
        )
        page = write_report(root, phantoms / "cases" / "manifest.jsonl")
        print(f"\n{headline(results)}\n\n{_next_steps(page, root)}")
        if args.short:
            require_learning(results)
    return status.code


if __name__ == "__main__":
    sys.exit(main())
