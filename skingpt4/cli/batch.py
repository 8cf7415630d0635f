"""Ask about many pictures, each with fresh state: skingpt4 batch --images FOLDER --output answers.jsonl.

Writes one JSON object per line, in the order of the pictures, as soon as it is ready; the same command continues
a stopped run. A picture that cannot be used gets a line with the reason, and the others are answered; one that could
not be read is tried again by the next run. In a folder, pictures are known by their suffix or by what they hold; what
is left out is counted at the end.

    {"image": "a.jpg", "sha256": "9f86...", "class": "acne_and_rosacea", "confident": false,
     "probabilities": {"acne_and_rosacea": 0.31, ...}, "concepts": {"Papule": 0.8, ...},
     "diseases": {"acne vulgaris": 0.19, "rosacea": 0.12, ...}, "quality": {...},
     "text": "...", "seconds": 1.9}
    {"image": "b.jpg", "error": "damaged", "message": "b.jpg: the picture is damaged (...)"}

`OUTPUT.meta.json` says which model answered which questions how; a run with other settings is refused.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from skingpt4.support.cli import (
    DISCLAIMER,
    add_engine_argument,
    add_generation_arguments,
    add_model_arguments,
    generation_options,
    make_parser,
)
from skingpt4.support.errors import reported


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = make_parser(
        "Ask about many pictures, each with fresh state; one JSON object a line.",
        "The same command continues a stopped run.",
    )
    add = result.add_argument
    add("--images", required=True, help="a folder, with its subfolders, or a manifest (JSONL)")
    add("--output", required=True, type=Path, help="the file of lines, e.g. answers.jsonl")
    add_model_arguments(result)
    add_engine_argument(result)
    add("--question", action="append",
        help="ask this (default: the first clinical prompt); several are one conversation")  # fmt: skip
    add_generation_arguments(result)
    add("--jobs", type=int, default=8, help="pictures under way at once (default: %(default)s)")
    add("--no-text", action="store_true", help="only classes and concepts, which is faster")
    add("--replace", action="store_true", help="delete earlier lines of the output and start again")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Answer all pictures; returns the exit status, 1 if none could be answered or a subfolder could not be read."""
    args = parser().parse_args(argv)
    with reported() as status:
        from skingpt4.chat import batch
        from skingpt4.chat.differential import Ranker, Rule
        from skingpt4.checkpoints.load import model_source
        from skingpt4.generation.engine.decoder import require_engine
        from skingpt4.generation.questions import CLINICAL_PROMPTS
        from skingpt4.generation.sampling import Generation
        from skingpt4.records.folders import BROKEN, UNREADABLE, find_images, left_out_lines

        if args.jobs < 1:
            raise batch.BatchError("--jobs must be at least 1")
        left_out: Counter[str] = Counter()
        images = find_images(args.images, left_out)
        source = model_source(args.config, args.checkpoint, args.engine)
        generation = Generation(**generation_options(args, source.config.data.max_text_tokens))
        generation.options()
        identity = source.identity
        questions = [] if args.no_text else args.question or [CLINICAL_PROMPTS[0]]
        meta = {
            "disclaimer": DISCLAIMER, "model": identity, "questions": questions, "generation": asdict(generation),
        }  # fmt: skip
        engine = source.config.engine
        meta |= {} if engine.name == "in_process" else {"engine": engine.name}
        print(f"{DISCLAIMER} {identity['caution']}".strip(), file=sys.stderr)

        def load() -> batch.ImageAnswerer:
            rule, model = Rule.of(source.checkpoint_path), source.load()
            require_engine(model, engine)
            ranker = Ranker(model, source.config, rule)
            return batch.ImageAnswerer(model, source.config, ranker, tuple(questions), generation)

        result = batch.run(images, args.output, meta, load, args.jobs, args.replace)
        summary = [f"{result.num_lines} lines written, {result.num_failures} of them failures"]
        if result.num_earlier_failures:
            summary.append(f"{result.num_earlier_failures} failures of earlier runs stay as they are")
        for line in [*summary, *left_out_lines(left_out)]:
            print(f"{args.output}: {line}", file=sys.stderr)
        if result.num_lines and result.num_failures == result.num_lines:
            raise batch.BatchError(f"{args.output}: no picture could be answered; each line has its reason")
        if away := left_out[UNREADABLE] + left_out[BROKEN]:
            raise batch.BatchError(
                f"{args.images}: {away} folders or links in it could not be read; when they can be, give the same "
                "command again"
            )
    return status.code
