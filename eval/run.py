"""Answer the cases with several arms: python -m eval.run --config ... --cases ... --arm two_step=CHECKPOINT.

An arm is a projection (a checkpoint, or the untouched initial one) and what it is shown. All arms share the
encoder, the language model, the two questions and greedy decoding, so they differ in nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from eval.classes import read_class, scored_diseases
from skingpt4 import checkpoint, lora, taxonomy
from skingpt4.chat import Generation, load_model
from skingpt4.config import Config, load_config
from skingpt4.errors import UserError, reported
from skingpt4.features import cached_queries
from skingpt4.manifests import Manifest, read_manifest
from skingpt4.model import ImageEncoder, SkinGPT4, build_encoder, encoder_identity, load_projection
from skingpt4.overlap import check_cases
from skingpt4.prompts import Turn, encode_turns, get_template, stop_strings
from skingpt4.records import Record
from skingpt4.run_dir import write_text
from skingpt4.scoring import score_answers
from skingpt4.taxonomy import CLASSES, find_concepts
from skingpt4.tensors import file_sha256

CONCEPTS_QUESTION = "Could you describe the medical concepts of skin disease in this image for me?"
DIAGNOSIS_QUESTION = "What is wrong with my skin?"
UNTRAINED, BLANK = "untrained", "blank_image"


class ArmError(UserError):
    """An arm or case list that cannot be run; the message says why."""


@dataclass(frozen=True)
class Arm:
    """A named projection; `blank` shows a picture without content in place of each case's own."""

    name: str
    checkpoint: str | None
    blank: bool = False


def parse_arm(text: str) -> Arm:
    """`two_step=runs/x/step2`, `blank_image=runs/x/step2`, or `untrained`.

    Raises:
        ArmError: no checkpoint for an arm that needs one.
    """
    name, _, path = text.partition("=")
    if not path and name != UNTRAINED:
        raise ArmError(f"arm {text!r}: write NAME=CHECKPOINT (only '{UNTRAINED}' has none)")
    return Arm(name, path or None, blank=name == BLANK)


@torch.no_grad()
def blank_queries(config: Config, device: torch.device) -> Tensor:
    """Queries (1, q, d) of a picture in the encoder's mean colour."""
    size = config.vision.image_size
    return build_encoder(config, device)(torch.zeros(1, 3, size, size))


def answer_cases(
    model: SkinGPT4,
    config: Config,
    queries: Tensor,
    diseases: dict[str, str],
    batch_size: int,
    max_new_tokens: int,
) -> Iterator[list[dict[str, Any]]]:
    """Yield, batch by batch, what the model says about each picture: two answers and 15 class scores.

    Each question is asked with fresh state. `class_scores` are log-probabilities of the published sentence
    for each class's disease (`diseases`) after the diagnosis question; they sum over the tokens that tell the
    classes apart.
    """
    template, tokenizer = get_template(config.prompt.template), model.tokenizer
    stop = stop_strings(template, tokenizer)
    form = config.prompt.disease_sentence
    sentences = [form.format(disease=disease) for disease in diseases.values()]
    for start in range(0, len(queries), batch_size):
        began = time.perf_counter()
        part = queries[start : start + batch_size].float()
        answers = {}
        for question in (CONCEPTS_QUESTION, DIAGNOSIS_QUESTION):
            turns = [Turn(question, None, num_images=1)]
            prompts = [encode_turns(template, turns, tokenizer, part.shape[1])] * len(part)
            answers[question] = model.generate(
                prompts, part, stop, **Generation(max_new_tokens=max_new_tokens).options()
            )
        scores = score_answers(model, prompts, part, sentences)
        seconds = (time.perf_counter() - began) / len(part)
        yield [
            _line(
                {q: texts[row] for q, texts in answers.items()}, scores[row].tolist(), diseases, form, seconds
            )
            for row in range(len(part))
        ]


def _line(
    answers: dict[str, str], scores: list[float], diseases: dict[str, str], form: str, seconds: float
) -> dict[str, Any]:
    class_scores = dict(zip(diseases, (round(s, 4) for s in scores), strict=True))
    return {
        "turns": [{"question": q, "answer": a} for q, a in answers.items()],
        "predicted_concepts": find_concepts(answers[CONCEPTS_QUESTION]),
        "class_scores": class_scores,
        "predicted_class": max(class_scores, key=lambda name: class_scores[name]),
        **read_class(answers[DIAGNOSIS_QUESTION], form, diseases),
        "seconds": round(seconds, 3),
    }


def run_arm(
    model: SkinGPT4,
    config: Config,
    arm: Arm,
    records: Sequence[Record],
    queries: Tensor,
    out: Path,
    args: Any,
    overlap: Sequence[str] = (),
) -> None:
    """Answer what is not answered yet and write `ARM.jsonl` with `ARM.meta.json`.

    Answers made with another checkpoint, case list or setting are made anew.
    """
    diseases = scored_diseases(records)
    card = load_projection(model, config, arm.checkpoint) if arm.checkpoint else {}
    meta = {
        "arm": arm.name,
        "checkpoint": arm.checkpoint and str(checkpoint.find(arm.checkpoint)),
        "checkpoint_sha256": card.get("tensors_sha256"),
        "step": card.get("step"),
        "iteration": card.get("iteration"),
        "cases_sha256": file_sha256(args.cases),
        "num_cases": len(records),
        "encoder": encoder_identity(config),
        "template": config.prompt.template,
        "disease_sentence": config.prompt.disease_sentence,
        "scored_diseases": list(diseases.values()),
        "taxonomy": taxonomy.version(),
        "language_model": config.language.model,
        "precision": str(model.language_model.dtype).removeprefix("torch."),
        "decoding": f"greedy, at most {args.max_new_tokens} new tokens, batch {args.batch_size}",
        "seed": config.seed,
    }
    if overlap:
        meta["overlap_with_training"] = list(overlap)
    path, meta_path = out / f"{arm.name}.jsonl", out / f"{arm.name}.meta.json"
    done = 0
    if meta_path.is_file() and path.is_file() and meta.items() <= json.loads(meta_path.read_text()).items():
        whole = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("}\n")]
        write_text(path, "".join(whole))  # a line torn by a kill is answered again
        done = len(whole)
    else:
        write_text(path, "")
        write_text(meta_path, json.dumps(meta | {"git_revision": checkpoint.git_revision()}, indent=1) + "\n")
    if done == len(records):
        print(f"{arm.name}: all {done} cases are answered already")
        return
    model.eval()
    with (
        path.open("a", encoding="utf-8") as file,
        tqdm(total=len(records), initial=done, desc=arm.name) as bar,
    ):
        if arm.blank:  # one picture for all cases: answered once, and counted for each
            blank_picture = blank_queries(config, model.projection.weight.device)
            (blank,) = next(answer_cases(model, config, blank_picture, diseases, 1, args.max_new_tokens))
            batches = iter([[blank] * (len(records) - done)])
        else:
            batches = answer_cases(
                model, config, queries[done:], diseases, args.batch_size, args.max_new_tokens
            )
        for lines in batches:
            for said in lines:
                file.write(
                    json.dumps({"arm": arm.name, **_case(records[done], args.cases.parent), **said}) + "\n"
                )
                done += 1
            file.flush()
            bar.update(len(lines))


def _case(record: Record, folder: Path) -> dict[str, Any]:
    return {
        "case_id": record.case_id,
        "image": os.path.relpath(record.image_path, folder),
        "sha256": record.sha256,
        "class": record.class_name,
        "disease": record.disease,
        "concepts": None if record.concepts is None else list(record.concepts),
        "fitzpatrick": record.fitzpatrick,
    }


def _check_cases(records: Sequence[Record], where: str) -> None:
    for number, record in enumerate(records, 1):
        if record.class_name not in CLASSES or record.case_id is None:
            raise ArmError(
                f"{where}, record {number}: every case needs a 'case_id' and one of the 15 classes as 'class', "
                f"found {record.case_id!r} and {record.class_name!r}"
            )
    if len({r.case_id for r in records}) < len(records):
        raise ArmError(f"{where}: a 'case_id' stands twice")


def _check_overlap(cases: Manifest, arm: Arm, allowed: bool) -> list[str]:
    """Refuse cases that the arm's checkpoint, or the one it began from, was trained on; returns what is allowed."""
    if not arm.checkpoint:
        return []
    _, card = checkpoint.load(arm.checkpoint)
    shared, unchecked = check_cases(cases, arm.checkpoint, card)
    if shared:
        said = f"arm {arm.name}: the training shares records with the cases: {'; '.join(shared)}"
        if not allowed:
            raise ArmError(f"{said}; evaluate on other cases, or add --allow-overlap")
        print(f"note: {said} (allowed by --allow-overlap)", file=sys.stderr)
    if unchecked:
        print(f"note: arm {arm.name}: {unchecked}", file=sys.stderr)
    return shared


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and answer all cases with all arms; returns the exit status."""
    parser = argparse.ArgumentParser(
        description="Answer the cases with several arms. Research software, no medical device.",
        epilog="example: python -m eval.run --config configs/tiny/step2.yaml "
        "--cases runs/phantoms/cases/manifest.jsonl --run-dir runs/quickstart "
        "--arm two_step=runs/quickstart/step2 --arm untrained",
    )
    parser.add_argument("--config", required=True, help="its encoder, language model and template are used")
    parser.add_argument(
        "--cases", required=True, type=Path, help="a manifest (JSONL) with classes; concepts where known"
    )
    parser.add_argument("--run-dir", required=True, type=Path, help="answers go to its folder answers/")
    parser.add_argument("--arm", action="append", required=True, help="NAME=CHECKPOINT, or 'untrained'")
    parser.add_argument(
        "--allow-overlap", action="store_true", help="answer cases that a checkpoint was trained on too"
    )
    parser.add_argument("--batch-size", type=int, default=50)
    parser.add_argument("--max-new-tokens", type=int, default=48)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the configuration")
    args = parser.parse_intermixed_args(argv)
    with reported() as status:
        config = load_config(args.config, args.overrides)
        arms = [parse_arm(text) for text in args.arm]
        for arm in arms:
            if arm.checkpoint:
                checkpoint.find(arm.checkpoint)
        records = read_manifest(args.cases)
        _check_cases(records, str(args.cases))
        overlaps = {arm.name: _check_overlap(records, arm, args.allow_overlap) for arm in arms}
        out = args.run_dir / "answers"
        out.mkdir(parents=True, exist_ok=True)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

        def encoder() -> ImageEncoder:
            return build_encoder(config, device)

        queries = cached_queries(
            args.cases, records, config, config.data.feature_cache or "runs/features", encoder
        )
        model = load_model(config, None, with_encoder=False)
        initial = {key: value.clone() for key, value in model.projection.state_dict().items()}
        for arm in arms:
            model.projection.load_state_dict(initial)
            lora.remove(model.language_model)
            run_arm(model, config, arm, records, queries, out, args, overlaps[arm.name])
    return status.code


if __name__ == "__main__":
    sys.exit(main())
