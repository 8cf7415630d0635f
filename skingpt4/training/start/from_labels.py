"""A start of the projection from labels (`projection.start: labels`), nearly all of it in closed form.

A projection that starts at random has to find two things at once: which vectors make the frozen language model write
a word, and where a picture shows what the word means. Both have a good linear answer:

1. Words. The picture is replaced by its labels, zeros and ones, and a vector for each label and a constant are
   trained by the step's own loss, until the language model answers in the words of the training. That needs no
   picture.
2. Responses. There, the gradient of each label's log-probability by the vectors of a picture tells which shift of
   them makes the language model prefer this label (`response`).
3. Regression. A logistic regression finds the log-odds of the labels in the pictures' vectors (`regression`).

The start is the shift, of least norm, to which the language model responds with these log-odds: a Gauss-Newton step.
Its gain is the one at which the loss on some training records is smallest. It is still one linear layer, and training
goes on from it. After another step it is added to that step's projection.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from skingpt4.config.schema import Config
from skingpt4.model.network import SkinGPT4
from skingpt4.model.projection import Projection
from skingpt4.records.manifest import Manifest, evenly_spread
from skingpt4.records.record import RecordError
from skingpt4.support.files import move_into_place
from skingpt4.training.batches import make_collate
from skingpt4.training.distributed.team import Team
from skingpt4.training.samples import SampleEncoder, TrainingSamples
from skingpt4.training.start.labels import Labels, labels_of
from skingpt4.training.start.regression import discriminants
from skingpt4.training.start.response import Responses, inverse

GAINS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
MIN_ITERATIONS, TIMES_SEEN = 40, 24  # of the words: altogether, and how often each label is seen on average
NUM_COMPARED = 32  # records on which the gains are compared
NUM_MEAN = 1000  # pictures whose mean is the mean picture


def start_from_labels(
    model: SkinGPT4,
    vectors: Callable[[int], Tensor],
    records: Manifest,
    config: Config,
    cache_key: dict[str, Any],
    team: Team,
) -> None:
    """Give the projection its start; one that is not random stays, and the start is added to it.

    Args:
        model: the network, without an encoder.
        vectors: (q, d) of the picture of a row of `records`, in fp16 or fp32.
        records: of the training.
        config: of the run.
        cache_key: what the responses depend on beside the records' labels, the prompt and the seed.
        team: the processes that compute together; the first reads and writes the cache.

    Raises:
        RecordError: no record has a label that the step teaches.
    """
    projection = model.projection
    assert isinstance(projection, Projection)
    if not config.initial_checkpoint:
        nn.init.zeros_(projection.weight)
        nn.init.zeros_(projection.bias)
    labels = labels_of(records, config.prompt)
    if not labels.names:
        raise RecordError(
            f"projection.start: none of the {len(records)} records has a concept or disease that this step teaches; "
            "add them to the manifest, or set projection.start: random"
        )
    path = _path(labels, config, cache_key)
    saved = team.by_first(lambda: load_file(path) if path.is_file() else None)
    if saved is None:
        saved = _measure(model, vectors, records, labels, config)
        team.by_first(lambda: _save(path, saved))
    constant, responses = saved["constant"].to(projection.bias), saved["responses"]
    weight, centre = discriminants(vectors, labels)
    direction = inverse(responses, labels.kinds) @ weight  # (width, d)
    before, bias = projection.weight.detach().clone(), projection.bias.detach() + constant

    @torch.no_grad()
    def set_gain(gain: float) -> None:
        projection.weight.copy_(before + gain * direction.to(before))
        projection.bias.copy_(bias - gain * (direction @ centre).to(bias))

    losses = {}
    loss_of = _loss(model, vectors, records, config)
    for gain in GAINS:
        set_gain(gain)
        losses[gain] = loss_of()
    best = min(GAINS[1:], key=losses.__getitem__)
    set_gain(best)
    if team.leads:
        print(
            f"start from {len(labels.names)} labels: gain {best:g}, {losses[best]:.3f} nats a token on "
            f"{NUM_COMPARED} records ({losses[0.0]:.3f} without their pictures)"
        )


def num_iterations(labels: Labels, config: Config) -> int:
    """How long words are learned: as configured, or until each label was seen TIMES_SEEN times on average."""
    seen = (
        float(labels.values.sum(1).clamp(min=1).mean()) * config.optim.batch_size * config.optim.accumulation
    )
    return config.projection.start_iterations or max(
        MIN_ITERATIONS, math.ceil(TIMES_SEEN * len(labels.names) / seen)
    )


def _measure(
    model: SkinGPT4, vectors: Callable[[int], Tensor], records: Manifest, labels: Labels, config: Config
) -> dict[str, Tensor]:
    """The constant (width,) and the responses (labels, width), on the CPU."""
    rows = evenly_spread(len(records), NUM_MEAN).tolist()
    mean = torch.stack([vectors(row).float() for row in rows]).mean(0)  # (q, d)
    measured = Responses(model, vectors, records, labels, config)
    constant = measured.learn_words(num_iterations(labels, config))
    tensors = {"constant": constant, "responses": measured.of_labels(mean)}
    return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}


def _loss(
    model: SkinGPT4, vectors: Callable[[int], Tensor], records: Manifest, config: Config
) -> Callable[[], float]:
    """Mean loss (nats a token) of the model as it is on some training samples."""
    texts = SampleEncoder.from_config(config, model.tokenizer)
    samples = TrainingSamples(
        records, texts, lambda row, _: {"queries": vectors(row).float()}, config.seed + 1
    )
    groups = make_collate(config, model.language_model)([samples[i] for i in range(NUM_COMPARED)])

    @torch.no_grad()
    def loss_of() -> float:
        sums = torch.zeros(2)
        for group in groups:
            loss, count = model(**group)
            sums += torch.stack([loss.cpu(), count.to(loss).cpu()])
        return float(sums[0] / sums[1])

    return loss_of


def _save(path: Path, tensors: dict[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file(tensors, part)
    move_into_place(part, path)


def _path(labels: Labels, config: Config, key: dict[str, Any]) -> Path:
    """Where constant and responses are cached."""
    parts = {
        **key, "labels": labels.names, "prompt": asdict(config.prompt) | {"other_share": 0.0},
        "seed": config.seed,
        "batch": config.optim.batch_size * config.optim.accumulation, "sampling": config.data.sampling,
        "iterations": config.projection.start_iterations,
    }  # fmt: skip
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
    assert config.data.feature_cache
    return Path(config.data.feature_cache) / f"responses-{digest}.safetensors"
