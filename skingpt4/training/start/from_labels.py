"""A start of the projection from labels (`projection.start: labels`): first words, then pictures.

A projection that starts at random has to find two things at once: which vectors make the frozen language model write
a word, and where a picture shows what the word means. Here they are found one after the other.

1. Codes. The picture is replaced by its labels, a vector of zeros and ones, and a linear layer from labels to the
   language model's embeddings is trained by the step's own loss. Its columns are vectors that the language model
   reads as these words. No picture is needed, so nothing else has to be learned.
2. Regression. A ridge regression finds the labels in the pictures' vectors, in closed form.

The start is the product of both, times the gain at which the loss on some training records is smallest. It is still
one linear layer, and training goes on from it. After another step it is added to that step's projection.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from skingpt4.config.schema import Config
from skingpt4.model.network import SkinGPT4
from skingpt4.model.projection import Projection
from skingpt4.records.manifest import Manifest
from skingpt4.records.record import RecordError
from skingpt4.support.files import move_into_place
from skingpt4.training.batches import Collate, make_collate
from skingpt4.training.distributed.team import Team
from skingpt4.training.samples import SampleEncoder, TrainingSamples
from skingpt4.training.start.labels import Labels, labels_of
from skingpt4.training.start.regression import regress

RATE = 0.15  # of the spread of the language model's embeddings
WARM_UP, LAST_RATE = 5, 0.1
NOISE = 0.1  # added to each label: what a regression finds is a mixture
GAINS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
MIN_ITERATIONS, TIMES_SEEN = 40, 24  # of the codes: altogether, and how often each label is seen on average
NUM_COMPARED = 32  # records on which the gains are compared


class WithCodes(nn.Module):
    """A projection beside a linear layer of labels; both read parts of one vector.

    Args:
        base: from the picture's vectors (width d).
        codes: (labels, width of the language model), where they start.
    """

    def __init__(self, base: Projection, codes: Tensor) -> None:
        super().__init__()
        self.base, self.codes = base, nn.Parameter(codes)
        self.bias = nn.Parameter(torch.zeros_like(codes[0]))

    def forward(self, inputs: Tensor) -> Tensor:
        """Map vectors of a picture and its labels (images, q, d + labels) to (images, q, width)."""
        inputs = inputs.to(self.codes.device).float()
        width = self.base.in_features
        return self.base(inputs[..., :width]) + inputs[..., width:] @ self.codes + self.bias


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
        cache_key: what the codes depend on beside the records' labels, the prompt and the seed.
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
    samples = _Samples(model, vectors, records, labels, config)
    path = _path(labels, config, cache_key)
    saved = team.by_first(lambda: load_file(path) if path.is_file() else None)
    if saved is None:
        saved = _learn(model, samples, labels, num_iterations(labels, config))
        team.by_first(lambda: _save(path, saved))
    codes, bias = saved["codes"], saved["bias"]
    weight, offset = regress(vectors, labels)
    direction = (codes.double().T @ weight).float()  # (width, d)
    centre = labels.values.mean(0).double()
    before, before_bias = (
        projection.weight.detach().clone(),
        projection.bias.detach() + bias.to(projection.bias),
    )

    @torch.no_grad()
    def set_gain(gain: float) -> None:
        shift = codes.double().T @ (centre + gain * (offset - centre))
        projection.weight.copy_(before + gain * direction.to(before))
        projection.bias.copy_(before_bias + shift.to(before_bias))

    losses = {}
    for gain in GAINS:
        set_gain(gain)
        losses[gain] = samples.loss_with_pictures(model)
    best = min(GAINS, key=losses.__getitem__)
    set_gain(best)
    if team.leads:
        print(
            f"start from {len(labels.names)} labels: gain {best:g}, "
            f"{losses[best]:.3f} nats a token on {NUM_COMPARED} records"
        )


def _save(path: Path, tensors: dict[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file(tensors, part)
    move_into_place(part, path)


def num_iterations(labels: Labels, config: Config) -> int:
    """How long codes are trained: as configured, or until each label was seen TIMES_SEEN times on average."""
    seen = (
        float(labels.values.sum(1).clamp(min=1).mean()) * config.optim.batch_size * config.optim.accumulation
    )
    return config.projection.start_iterations or max(
        MIN_ITERATIONS, math.ceil(TIMES_SEEN * len(labels.names) / seen)
    )


class _Samples:
    """The run's own samples, their pictures followed by their labels."""

    def __init__(
        self,
        model: SkinGPT4,
        vectors: Callable[[int], Tensor],
        records: Manifest,
        labels: Labels,
        config: Config,
    ) -> None:
        self.labels, self.batch_size = labels, config.optim.batch_size * config.optim.accumulation
        texts = SampleEncoder.from_config(config, model.tokenizer)

        def with_labels(row: int, rng: np.random.Generator | None) -> dict[str, Tensor]:
            picture, own = vectors(row).float(), labels.values[row]
            if rng is not None:
                own = own + NOISE * torch.from_numpy(rng.standard_normal(len(own), dtype=np.float32))
            return {"queries": torch.cat([picture, own.expand(len(picture), -1)], 1)}

        self.labelled = TrainingSamples(
            records, texts, with_labels, config.seed, sampling=config.data.sampling
        )
        self.plain = TrainingSamples(
            records, texts, lambda row, _: {"queries": vectors(row).float()}, config.seed + 1
        )
        self.collate: Collate = make_collate(config, model.language_model)

    def batch(self, number: int) -> list[dict[str, Tensor]]:
        """The groups of batch `number`, with labels."""
        first = number * self.batch_size
        return self.collate([self.labelled[i] for i in range(first, first + self.batch_size)])

    @torch.no_grad()
    def loss_with_pictures(self, model: SkinGPT4) -> float:
        """Mean loss (nats a token) of some samples whose pictures stand alone."""
        sums = torch.zeros(2)
        for group in self.collate([self.plain[i] for i in range(NUM_COMPARED)]):
            loss, count = model(**group)
            sums += torch.stack([loss.cpu(), count.to(loss).cpu()])
        return float(sums[0] / sums[1])


def _learn(model: SkinGPT4, samples: _Samples, labels: Labels, iterations: int) -> dict[str, Tensor]:
    """Train the codes; returns `codes` (labels, width) and `bias` (width,), on the CPU."""
    base, inputs = model.projection, model.input_map
    assert isinstance(base, Projection)
    embeddings = model.language_model.get_input_embeddings()
    spread = float(embeddings.weight.std())
    labelled = WithCodes(base, _word_means(model, labels) * spread).to(base.weight.device)
    parameters = [labelled.codes, labelled.bias]
    optimizer = torch.optim.Adam(parameters, betas=(0.8, 0.95))
    required = base.weight.requires_grad
    base.requires_grad_(False)
    model.projection, model.input_map = labelled, None  # type: ignore[assignment]
    try:
        bar = tqdm(range(iterations), desc="words of the labels", unit="it")
        for number in bar:
            progress = min(1.0, (number + 1) / WARM_UP) * (1 - (1 - LAST_RATE) * number / iterations)
            for group in optimizer.param_groups:
                group["lr"] = RATE * spread * progress
            groups = samples.batch(number)
            count = sum(int((g["labels"][:, 1:] >= 0).sum()) for g in groups)
            total = 0.0
            for part in groups:
                loss, _ = model(**part)
                (loss / count).backward()
                total += float(loss.detach()) / count
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            bar.set_postfix(loss=f"{total:.3f}", refresh=False)
    finally:
        model.projection, model.input_map = base, inputs
        base.requires_grad_(required)
    tensors = {"codes": labelled.codes, "bias": labelled.bias}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


@torch.no_grad()
def _word_means(model: SkinGPT4, labels: Labels) -> Tensor:
    """(labels, width): the mean embedding of each label's tokens, with the norm of one token of spread 1."""
    embeddings = model.language_model.get_input_embeddings()
    rows = []
    for name in labels.names:
        ids = model.tokenizer(f" {name.lower()}", add_special_tokens=False)["input_ids"]
        rows.append(embeddings(torch.tensor(ids, device=embeddings.weight.device)).float().mean(0).cpu())
    means = torch.stack(rows)
    return means / means.norm(dim=1, keepdim=True) * means.shape[1] ** 0.5


def _path(labels: Labels, config: Config, key: dict[str, Any]) -> Path:
    """Where the codes are cached."""
    parts = {
        **key, "labels": labels.names, "prompt": asdict(config.prompt), "seed": config.seed,
        "batch": config.optim.batch_size * config.optim.accumulation, "sampling": config.data.sampling,
        "iterations": config.projection.start_iterations,
    }  # fmt: skip
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
    assert config.data.feature_cache
    return Path(config.data.feature_cache) / f"codes-{digest}.safetensors"
