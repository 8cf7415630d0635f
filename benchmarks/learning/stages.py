"""Where drawings' classes are lost on the way into the language model: python -m benchmarks stages [CHECKPOINT ...].

At each stage of each checkpoint a logistic regression is fitted on drawings that none was trained on, and counted on
others: the vision encoder's tokens, the Q-Former's queries, the projection's output, and the language model's state
where the disease would be named (`python -m eval.probe` does the same on any manifests). By default the bundled start
and both steps of the quickstart.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.harness.results import RESULTS, about, share, write
from benchmarks.learning.qformers import pictures
from skingpt4.checkpoints.load import model_source
from skingpt4.generation.probing.lost import Labelled, measure
from skingpt4.generation.probing.stages import STAGES
from skingpt4.support.cli import require_writable
from skingpt4.support.errors import reported

CHECKPOINTS = ["skingpt4/weights/bundled/aligned_tiny", "runs/quickstart/step1", "runs/quickstart/step2"]
NUM_TRAIN, NUM_TEST = 450, 300


def stages_of(checkpoint: str, train: Labelled, test: Labelled) -> dict[str, Any]:
    """What is read at each stage of a checkpoint, and what it is."""
    source = model_source(None, checkpoint)
    model = source.load()
    assert model.encoder is not None
    with tqdm(total=len(train.labels) + len(test.labels), desc=checkpoint, unit="picture") as bar:

        def on_images(count: int) -> None:
            bar.update(count)

        lost = measure(model.encoder, source.loadable, train, test, STAGES, model, 0, on_images)
    return {"step": source.config.step, "sha256": source.identity["sha256"], **lost.to_dict()}


def table(result: dict[str, Any]) -> str:
    """The stages as rows, the checkpoints as columns."""
    found = result["checkpoints"]
    n = next(iter(found.values()))["stages"]["tokens"]["n"]
    head = f"| class of {n} drawings, read by a logistic regression of | " + " | ".join(
        f"`{Path(name).name}`" for name in found
    )
    rows = [
        f"| {stage.replace('_', ' ')} | "
        + " | ".join(share(each["stages"][stage]) for each in found.values())
        + " |"
        for stage in STAGES
    ]
    return "\n".join([f"{head} |", "|---" * (1 + len(found)) + "|", *rows])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    words = list(argv or [])
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks stages", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("checkpoints", nargs="*", default=CHECKPOINTS, metavar="CHECKPOINT", help="or a run's folder")
    add("--out", type=Path, default=RESULTS / "stages.json", help="(default: %(default)s)")
    add("--small", action="store_true", help="takes seconds, to try the path; its figures mean nothing")
    args = parser.parse_args(words)
    with reported() as status:
        require_writable(args.out)
        train, test = (
            Labelled.of(pictures("drawings", part, 48 if args.small else count), "class", count, part)
            for part, count in (("train", NUM_TRAIN), ("test", NUM_TEST))
        )
        found = {name: stages_of(name, train, test) for name in args.checkpoints}
        result = {**about(["stages", *words]), "num_train": len(train.labels), "checkpoints": found}
        print(table(result))
        write(result, args.out)
    return status.code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
