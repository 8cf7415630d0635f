"""What each stage of a model still holds of an image: a logistic regression on its features, with intervals.

    python -m eval.probe --checkpoint runs/quickstart/step2 --train runs/phantoms/step2/manifest.jsonl \\
        --test runs/phantoms/validation_step2/manifest.jsonl --out runs/probe.json

Stages: tokens (of the vision encoder, pooled), queries (of the Q-Former), projection (its output), language_model
(the last layer's state where the disease would be named). What is read at one stage and not at the next was lost
between them. `tokens` and `queries` need no checkpoint and no language model.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from skingpt4.support.cli import (
    NOT_A_DEVICE,
    add_model_arguments,
    make_parser,
    require_writable,
    setup_logging,
)
from skingpt4.support.errors import reported


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = make_parser(__doc__ or "", prog="python -m eval.probe")
    add_model_arguments(result)
    add = result.add_argument
    add("--train", nargs="+", required=True, metavar="MANIFEST", help="records that the probes are fitted on")
    add("--test", nargs="+", required=True, metavar="MANIFEST", help="records that are counted")
    add("--stage", nargs="+", default=["all"], metavar="STAGE", help="all (default), or some of the stages")
    add("--label", default="class", help="key of a record that is probed (default: %(default)s)")
    add("--max-train", type=int, default=1000, help="records, evenly spread (default: %(default)s)")
    add("--max-test", type=int, default=1000, help="default: %(default)s")
    add("--seed", type=int, default=0, help="of the folds (default: %(default)s)")
    add("--out", type=Path, help="JSON file for the figures (default: print the table alone)")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Probe, print a table and write the figures; returns the exit status."""
    args = parser().parse_args(argv)
    with reported() as status:
        setup_logging()
        import torch
        from tqdm import tqdm

        from eval.asking.arms import hardware
        from skingpt4.checkpoints.checkpoint import git_revision
        from skingpt4.checkpoints.load import model_source
        from skingpt4.generation.probing.lost import Labelled, measure
        from skingpt4.generation.probing.stages import chosen_stages, needs_model
        from skingpt4.model.build import build_encoder
        from skingpt4.records.comparing.overlap import require_disjoint
        from skingpt4.records.manifest import chain, read_manifest
        from skingpt4.support.files import file_sha256, write_text

        stages = chosen_stages(args.stage)
        if args.out:
            require_writable(args.out)
        records = chain(map(read_manifest, args.train))
        require_disjoint(records, args.test, allowed=False)
        train = Labelled.of(records, args.label, args.max_train, ", ".join(args.train))
        test = Labelled.of(
            chain(map(read_manifest, args.test)), args.label, args.max_test, ", ".join(args.test)
        )
        source = model_source(args.config, args.checkpoint)
        model = source.load() if needs_model(stages) else None
        encoder = (model and model.encoder) or build_encoder(source.loadable)
        total = len(train.labels) + len(test.labels)
        with tqdm(total=total, desc="images", unit="image") as bar:

            def on_image(count: int) -> None:
                bar.update(count)

            lost = measure(encoder, source.loadable, train, test, stages, model, args.seed, on_image)
        print(f"{args.label} by logistic regression, fitted on {len(train.labels)} images")
        for stage, result in lost.stages.items():
            print(f"  {stage:16} {result}")
        print(f"  {'chance':16} {100 * lost.chance:.1f} % (the most frequent {args.label})")
        if args.out:
            names = {
                kind: [{"manifest": Path(p).name, "sha256": file_sha256(p)} for p in paths]
                for kind, paths in (("train", args.train), ("test", args.test))
            }
            machine = hardware(torch.device("cpu"))
            figures = {
                "command": " ".join(["python -m eval.probe", *(sys.argv[1:] if argv is None else argv)]),
                "commit": git_revision(), "date": datetime.now(UTC).date().isoformat(),
                "hardware": {"device": machine["device"], "threads": machine["threads"]},
                "versions": {name: machine[name] for name in ("python", "torch", "transformers")}
                | {"scikit-learn": version("scikit-learn")},
                "label": args.label, "n_train": len(train.labels), **names, **lost.to_dict(),
            }  # fmt: skip
            figures["model"] = source.identity if source.checkpoint_path and model else None
            write_text(args.out, json.dumps(figures, indent=1) + "\n")
            print(f"wrote {args.out}")
        print(NOT_A_DEVICE)
    return status.code


if __name__ == "__main__":
    sys.exit(main())
