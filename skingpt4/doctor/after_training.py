"""`skingpt4 doctor --after-training RUN`: where a trained model loses what its backbone saw, and what to do about it.

A class is read by logistic regression from four places between the image and the answer: the vision encoder's
tokens, the Q-Former's queries, the projection's output, and the language model's state where the disease would be
named. The probes are fitted on images of the run's training manifests and counted on its validation manifests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from skingpt4.checkpoints.load import model_source
from skingpt4.generation.probing.lost import Labelled, Lost, measure
from skingpt4.generation.probing.stages import StageError
from skingpt4.records.comparing.overlap import require_disjoint
from skingpt4.records.manifest import chain, read_manifest
from skingpt4.support.cli import DISCLAIMER

MAX_TRAIN, MAX_VALIDATION = 600, 300  # images, evenly spread
NAMES = {
    "tokens": "vision encoder's tokens",
    "queries": "Q-Former's queries",
    "projection": "projection's output",
    "language_model": "language model",
}
ADVICE = {
    "tokens": "No later part can show what the vision encoder does not see: name another backbone (vision.model, "
    "vision.block), or a larger vision.image_size or vision.crops.",
    "queries": "The Q-Former drops what the vision encoder saw: train one on your images "
    "(skingpt4 pretrain-qformer), or do without one (projector: mlp, on pooled patch tokens).",
    "projection": "A linear projection of full rank drops nothing that the queries hold: check in metrics.jsonl that "
    "the training converged, and lower optim.init_lr if its loss jumped.",
    "language_model": "The language model does not use what the projection gives it: write what the labels explain "
    "larger (projection.inputs: discriminants), train longer or on more samples, start from an aligned projection "
    "(initial_checkpoint), give the diagnosis more weight (optim.disease_weight), or switch LoRA on (lora.rank).",
}


def after_training(run: str, on_progress: Callable[[int, int], None] = lambda done, total: None) -> Lost:
    """The four numbers of a run or a checkpoint.

    Args:
        run: its folder.
        on_progress: called with the numbers of images done and of all.

    Raises:
        StageError: the run names no validation manifest, or no record of it has a class.
        CheckpointError, LoadError, RecordError, ProbingError: it cannot be measured, and why.
    """
    source = model_source(None, run)
    config = source.config
    if not config.data.train or not config.data.validation:
        raise StageError(
            f"{run}: its configuration names no manifest under data.train or none under data.validation"
        )
    training = chain(map(read_manifest, config.data.train))
    require_disjoint(training, config.data.validation, allowed=False)
    train = Labelled.of(training, "class", MAX_TRAIN, ", ".join(config.data.train))
    test = Labelled.of(
        chain(map(read_manifest, config.data.validation)),
        "class",
        MAX_VALIDATION,
        ", ".join(config.data.validation),
    )
    model = source.load()
    total, done = len(train.labels) + len(test.labels), 0

    def count(images: int) -> None:
        nonlocal done
        done += images
        on_progress(done, total)

    assert model.encoder is not None
    return measure(model.encoder, source.loadable, train, test, model=model, on_progress=count)


def advice(lost: Lost) -> str:
    """One paragraph on the stage that loses most, or on the backbone if none loses anything."""
    first = next(iter(lost.stages.values()))
    if first.interval[0] <= lost.chance:
        return f"The vision encoder itself sees no more than chance here. {ADVICE['tokens']}"
    if lost.worst is None:
        return f"No stage loses what the one before it holds. {ADVICE['tokens']}"
    before, after = lost.worst
    a, b = lost.stages[before], lost.stages[after]
    text = (
        f"Most is lost between {NAMES[before]} and {NAMES[after]}: {100 * (a.value - b.value):.1f} points. "
    )
    if b.interval[1] >= a.value:
        text += "The intervals overlap, so this may be chance; more validation images would tell. "
    return text + ADVICE[after]


def table(run: str, lost: Lost) -> str:
    """The four numbers, the stage that loses most and the advice, for people."""
    lines = [f"{run}: class of validation images, by logistic regression on what each stage holds"]
    lines += [f"  {NAMES[stage]:26} {result}" for stage, result in lost.stages.items()]
    lines.append(f"  {'chance (commonest class)':26} {100 * lost.chance:.1f} %")
    return "\n".join([*lines, advice(lost), DISCLAIMER])


def to_dict(run: str, lost: Lost) -> dict[str, Any]:
    """For JSON."""
    return {"run": run, **lost.to_dict(), "advice": advice(lost), "disclaimer": DISCLAIMER}
