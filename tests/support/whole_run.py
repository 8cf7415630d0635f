"""Runs every command once, from a doctor's table to the report, in one process, for test_whole_run.py.

Planted are a note, a question, a patient and a file name. Nothing outside the places meant for them may hold one of
them afterwards.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

NOTE, QUESTION, PATIENT, NAME = "PLANTEDNOTE", "PLANTEDQUESTION", "PLANTEDPATIENT", "PLANTEDNAME"
DISEASES = ("psoriasis", "acne", "melanoma", "eczema")
NUM_PICTURES = 16


def make_inputs(folder: Path) -> None:
    """What the doctor has: pictures, a table of notes, a configuration; private, as a home folder is."""
    from skingpt4.config.load import to_yaml
    from tests.support.tiny import make_picture, tiny_config

    (folder / "pictures").mkdir()
    rows = []
    for number in range(NUM_PICTURES):
        name = f"{NAME}_{number}.png"
        make_picture(number).save(folder / "pictures" / name)
        rows.append(
            {
                "image": name, "note": f"{NOTE} number {number} itches.", "diagnosis": DISEASES[number % 4],
                "patient_id": f"{PATIENT}{number}", "case_id": f"case{number}",
            }
        )  # fmt: skip
    with (folder / "notes.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    config = tiny_config(
        folder / "model", step="step2", output_dir="runs/step2", log__tensorboard=True,
        data__train=["runs/data/split/train.jsonl"], data__validation=["runs/data/split/validation.jsonl"],
        data__augment=False, data__feature_cache="runs/features",
    )  # fmt: skip
    (folder / "model" / "train.jsonl").unlink()
    for path in (folder / "model").glob("*.png"):
        path.unlink()
    (folder / "config.yaml").write_text(to_yaml(config), encoding="utf-8")


def commands() -> list[tuple[str, Callable[..., int], list[str]]]:
    """(name, its function, arguments) in the order of a project's life; relative to the working folder."""
    from importlib import import_module

    import train
    from skingpt4.__main__ import main as console

    def of(module: str) -> Callable[..., int]:
        return lambda arguments: import_module(module).main(arguments)

    cases, run, saved = "runs/data/split/test.jsonl", "runs/evaluation", "runs/step2"
    phrase = f"What is it? {QUESTION}"
    return [
        ("data.prepare", of("data.prepare"), ["notes", "notes.csv", "--images", "pictures", "--out-dir", "runs/data",
                                              "--workers", "1"]),
        ("data.validate", of("data.validate"), ["runs/data/all.jsonl", "--check-images", "--config", "config.yaml",
                                                "--workers", "1"]),
        ("data.split", of("data.split"), ["runs/data/all.jsonl", "--out-dir", "runs/data/split", "--shares",
                                          "train=0.5,validation=0.25,test=0.25", "--near", "0"]),
        ("data.stats", of("data.stats"), ["runs/data/all.jsonl", "--out-dir", "runs/data/stats"]),
        ("data.pack", of("data.pack"), ["runs/data/split/train.jsonl", "--out-dir", "runs/packed"]),
        ("data.phi", of("data.phi"), ["scan", "notes.csv"]),
        ("skingpt4 weights list", console, ["weights", "list"]),
        ("skingpt4 weights inspect", console, ["weights", "inspect", "model/llama"]),
        ("skingpt4 doctor", console, ["doctor", "--config", "config.yaml"]),
        ("train.py --dry-run", train.main, ["--config", "config.yaml", "--dry-run"]),
        ("train.py", train.main, ["--config", "config.yaml"]),
        ("train.py --resume", train.main, ["--config", "config.yaml", "--resume"]),
        ("eval.cases", of("eval.cases"), ["check", cases]),
        ("eval.run", of("eval.run"), ["--config", "config.yaml", "--cases", cases, "--run-dir", run, "--arm",
                                      f"two_step={saved}", "--arm", "untrained", "--max-new-tokens", "4",
                                      "--num-prompts", "1"]),
        ("eval.review add-rater", of("eval.review"), ["add-rater", "rater1", "--run-dir", run]),
        ("eval.review --status", of("eval.review"), ["--run-dir", run, "--cases", cases, "--status"]),
        ("eval.report", of("eval.report"), ["--run-dir", run, "--cases", cases]),
        ("eval.export", of("eval.export.__main__"), ["--run-dir", run, "--format", "lmms-eval", "--out",
                                                     "runs/exported"]),
        ("eval.power", of("eval.power"), ["width", "--share", "0.8", "--points", "10"]),
        ("skingpt4 calibrate", console, ["calibrate", "--checkpoint", saved, "--manifest", cases, "--dry-run"]),
        ("skingpt4 chat", console, ["chat", "--checkpoint", saved, "--image", f"pictures/{NAME}_1.png", "--question",
                                    phrase, "--max-new-tokens", "4"]),
        ("skingpt4 batch", console, ["batch", "--config", "config.yaml", "--images", "pictures", "--output",
                                     "runs/batch.jsonl", "--question", phrase, "--max-new-tokens", "4"]),
        ("skingpt4 taxonomy", console, ["taxonomy", "This is psoriasis."]),
        ("skingpt4 share", console, ["share", "--checkpoint", saved, "--out", "runs/shared/skin"]),
        ("skingpt4 export", console, ["export", "--checkpoint", saved, "--minigpt4", "runs/skin.pth"]),
        ("eval.run on a shared folder", of("eval.run"), ["--config", "config.yaml", "--cases", cases, "--run-dir",
                                                         "runs/elsewhere", "--arm", "shared=runs/shared/skin",
                                                         "--max-new-tokens", "4", "--num-prompts", "1"]),
    ]  # fmt: skip


def run_all(folder: Path) -> dict[str, dict[str, object]]:
    """Status and output of each command; an exception is its status."""
    outcome: dict[str, dict[str, object]] = {}
    for name, main, arguments in commands():
        out, err = io.StringIO(), io.StringIO()
        sys.stdin = io.StringIO("a long password of a rater\n")
        status: object = None
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status = main(arguments)
            except SystemExit as error:
                status = error.code
            except Exception:
                status = traceback.format_exc()[-1500:]
        outcome[name] = {"status": status, "out": out.getvalue(), "err": err.getvalue()}
    return outcome


def main(folder: Path) -> None:
    """Make the inputs, run everything in `folder`, and write `outcome.json` beside it."""
    from tests.support.privacy_run import loopback_up

    loopback_up()
    os.chdir(folder)
    os.umask(0o077)
    make_inputs(folder)
    os.umask(0o022)  # what most machines have
    outcome = run_all(folder)
    os.umask(0o077)
    shutil.rmtree(folder / "model" / "__pycache__", ignore_errors=True)
    folder.with_name("outcome.json").write_text(json.dumps(outcome), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
