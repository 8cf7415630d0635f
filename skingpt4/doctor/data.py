"""The doctor's checks of the data: manifests, their images, overlap with the evaluation, and what is trained on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from skingpt4.checkpoints.paths import how_to_get
from skingpt4.config.schema import Config
from skingpt4.config.validate import training_problem
from skingpt4.doctor.findings import MISSING, OK, WARNING, Facts, Finding
from skingpt4.records.archives import exists
from skingpt4.records.comparing.overlap import require_disjoint
from skingpt4.records.manifest import Manifest, chain, read_manifest
from skingpt4.records.naming import hint
from skingpt4.support.errors import UserError
from skingpt4.training.coordinates.labels import require_labels
from skingpt4.training.samples import (
    SampleEncoder,
    TrainingSamples,
    columns_of_answers,
    rows_with_answer,
)

NUM_CHECKED_IMAGES = 50  # of each manifest; the run itself checks more


def data(facts: Facts) -> Iterator[Finding]:
    """Manifests of training and validation, their overlap with the evaluation, and the samples they give."""
    config = facts.config
    if not config.data.train:
        yield Finding("data.train", MISSING, "names no manifest", "data.train=[MANIFEST.jsonl]")
    if problem := training_problem(config):
        yield Finding("features", MISSING, problem)
    manifests: dict[str, Manifest] = {}
    for key, paths in (("data.train", config.data.train), ("data.validation", config.data.validation)):
        for path in paths:
            yield _manifest(key, path, manifests)
    facts.num_images = sum(map(len, manifests.values()))
    if config.data.evaluation and manifests:
        yield from _overlap(facts, chain(manifests.values()))
    train = [manifests[path] for path in config.data.train if path in manifests]
    if train:
        yield _samples(facts, chain(train))
        yield from _parts(chain(train), config)
    if train and config.projection.inputs == "discriminants":
        yield _labels(chain(train), config)


def _manifest(key: str, path: str, manifests: dict[str, Manifest]) -> Finding:
    if not Path(path).exists():
        return Finding(key, MISSING, f"{path} is not there", how_to_get(path))
    try:
        records = manifests[path] = read_manifest(path)
    except UserError as error:
        return Finding(key, MISSING, str(error))
    checked = [record.image_path for record in records[:NUM_CHECKED_IMAGES]]
    gone = [image for image in checked if not exists(image)]
    if gone:
        text = f"{path}: {len(gone)} of its first {len(checked)} pictures are not there, e.g. {gone[0]}"
        return Finding(key, MISSING, f"{text}{hint(gone[0])}")
    return Finding(key, OK, f"{path}: {len(records):,} records")


def _overlap(facts: Facts, records: Manifest) -> Iterator[Finding]:
    data, name = facts.config.data, "data.evaluation"
    try:
        notes = require_disjoint(records, data.evaluation, data.allow_overlap)
    except UserError as error:
        yield Finding(name, MISSING, str(error))
        return
    for note in notes:
        yield Finding(name, WARNING, note.removeprefix(f"{name}: "))
    if not notes:
        text = "shares no picture with training or validation, and no case or patient where these are known"
        yield Finding(name, OK, f"{text}: {', '.join(data.evaluation)}")


def _samples(facts: Facts, records: Manifest) -> Finding:
    """How many records have an answer in this step, and how often the run goes through them."""
    config, optim = facts.config, facts.config.optim
    num_answered = len(rows_with_answer(records, config.prompt))
    if facts.tokenizer is not None:
        try:
            encoder = SampleEncoder.from_config(config, facts.tokenizer)
            facts.training = TrainingSamples(
                records, encoder, lambda row, rng: {}, config.seed, sampling=config.data.sampling,
                class_weight=config.optim.class_weight,
            )  # fmt: skip
        except UserError as error:
            return Finding("samples", MISSING, str(error))
    elif not num_answered:
        return Finding("samples", MISSING, f"none of the {len(records)} records has what this step teaches")
    num_samples = optim.max_epoch * optim.iters_per_epoch * optim.batch_size * optim.accumulation
    return Finding(
        "samples",
        OK,
        f"{num_answered:,} of {len(records):,} records have an answer in {config.step}; {optim.max_epoch} x "
        f"{optim.iters_per_epoch} iterations of {optim.batch_size} x {optim.accumulation} samples are "
        f"{num_samples / num_answered:.1f} passes; {optim.warmup_steps} iterations of warm-up to {optim.init_lr:g}"
        f"{_balance(facts)}",
    )


def _parts(records: Manifest, config: Config) -> Iterator[Finding]:
    """How many records have each part of an answer, and whether captions are asked for that nobody has written."""
    counts = {column: int(records.known(column).sum()) for column in columns_of_answers(config.prompt)}
    shown = ", ".join(f"{count:,} {column}" for column, count in counts.items() if count)
    if counts.get("caption") == 0 and shown:
        text = "prompt.use_caption is set and no record has a caption, so nothing is taught to describe"
        yield Finding("answers", WARNING, text, "skingpt4 describe, with a checkpoint of step 1")
    elif shown:
        yield Finding("answers", OK, f"are made of, by records that have it: {shown}")


def _labels(records: Manifest, config: Config) -> Finding:
    try:
        labels = require_labels(records, config.prompt)
    except UserError as error:
        return Finding("labels", MISSING, str(error))
    num_diseases = len(labels.names) - labels.num_concepts
    return Finding(
        "labels", OK, f"the projection is trained in coordinates in which what {labels.num_concepts} concepts and "
        f"{num_diseases} diseases explain is large (projection.inputs: discriminants)",
    )  # fmt: skip


def _balance(facts: Facts) -> str:
    balance = facts.training.balance if facts.training else None
    if balance is None:
        return ""
    fewest, most = balance.times_shown()
    return (
        f"; data.sampling {facts.config.data.sampling}: a pass shows a record of {len(balance.classes)} classes "
        f"{fewest:.2f} to {most:.2f} times"
    )
