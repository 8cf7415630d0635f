"""Pairs of answers as training samples, and what the model at the start of the run thought of them.

The loss is Rafailov et al.'s (arXiv 2305.18290, `skingpt4.model.loss.preference_loss`). Its reference is the model at
the start of the run, so the reference's log-probabilities are computed once, before the first iteration, and saved
beside the cached features. trl is not used: its trainers run a model on token ids, and here pictures enter as
embeddings.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from skingpt4.model.loss import answer_margins
from skingpt4.model.network import SkinGPT4
from skingpt4.records.record import Record, RecordError
from skingpt4.training.batches import pad_right
from skingpt4.training.distributed.team import Team
from skingpt4.training.features import ImageSource
from skingpt4.training.samples import SampleEncoder
from skingpt4.weights.files.tensors import WeightsMismatch, load_tensors

ROWS = 4  # pairs whose log-probabilities are computed at once


class Pairs:
    """The pairs of records: both dialogues encoded, and the picture."""

    def __init__(self, records: Sequence[Record], encoder: SampleEncoder, images: ImageSource) -> None:
        """Check that every record is a pair.

        Raises:
            RecordError: one is not; names it.
        """
        self.records, self.encoder, self.images = records, encoder, images
        for number, record in enumerate(records, 1):
            questions, others = ([q for q, _ in turns] for turns in (record.turns, record.rejected))
            if not questions or questions != others:
                raise RecordError(
                    f"record {number} of {len(records)} ({record.image_path.name}) is not a pair: step dpo needs "
                    "'turns' and 'rejected' with the same questions; python -m eval.preferences writes such manifests"
                )

    def __getitem__(self, row: int) -> dict[str, Any]:
        """`encoded`, `rejected`, and what `images` gives."""
        record, question = self.records[row], self.encoder.prompt.questions[0]
        rejected = replace(record, turns=record.rejected)
        return {
            "encoded": self.encoder(record, question),
            "rejected": self.encoder(rejected, question),
            **self.images(row, None),
        }


class PreferenceSamples(Dataset):
    """Samples of pairs in the order of other samples, with the reference's margins.

    Args:
        pairs: of the records.
        samples: with `row_of` each sample's row.
        margins: (records,) fp32, of the reference.
        beta: of the loss.
    """

    def __init__(self, pairs: Pairs, samples: Any, margins: Tensor, beta: float) -> None:
        self.pairs, self.samples, self.margins, self.beta = pairs, samples, margins, beta

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.samples.row_of(index)
        return {**self.pairs[row], "reference": float(self.margins[row]), "beta": self.beta}


def reference_margins(model: SkinGPT4, pairs: Pairs, folder: Path, key: dict[str, Any], team: Team) -> Tensor:
    """(records,) fp32: log p(preferred) - log p(other) by the model as it is; saved, and read where it is saved.

    Args:
        model: at the start of the run.
        pairs: of the records.
        folder: for the file.
        key: everything that the margins depend on.
        team: the processes that compute together; the first reads and writes the file.
    """
    digest = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()[:16]
    path = folder / "references" / f"{digest}.safetensors"
    margins = team.by_first(lambda: _saved_margins(path, len(pairs.records)))
    if margins is None:
        margins = margins_of(model, pairs)
        team.by_first(lambda: _save_margins(path, margins))
    return margins


def _saved_margins(path: Path, count: int) -> Tensor | None:
    """The margins of a file, None if it is not there, damaged or of other pairs."""
    try:
        saved = load_tensors(path).get("margins") if path.is_file() else None
    except WeightsMismatch:
        return None
    return saved if saved is not None and len(saved) == count else None


def _save_margins(path: Path, margins: Tensor) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    save_file({"margins": margins}, part)
    os.replace(part, path)


@torch.no_grad()
def margins_of(model: SkinGPT4, pairs: Pairs) -> Tensor:
    """(records,) fp32: log p(preferred) - log p(other) of every pair, without dropout."""
    training = model.projection.training
    model.eval()
    parts = []
    device = model.language_model.input_device
    for first in tqdm(range(0, len(pairs.records), ROWS), desc="reference", unit="batch", disable=None):
        samples = [pairs[row] for row in range(first, min(first + ROWS, len(pairs.records)))]
        batch = pad_right([{**sample, "reference": 0.0, "beta": 0.0} for sample in samples])
        embeds = model.embed(batch["input_ids"], batch["queries"].to(device))
        mask = batch["attention_mask"].to(device)
        parts.append(answer_margins(model.language_model, embeds, batch["labels"], mask).cpu())
    model.train(training)
    return torch.cat(parts)
