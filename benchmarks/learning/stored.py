"""Stored vectors of pictures with their labels, and a Q-Former that is trained on them before a curve begins."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from skingpt4.config.schema import Config
from skingpt4.records.feature_store import StoreShape
from skingpt4.records.manifest import Manifest
from skingpt4.support.errors import UserError
from skingpt4.support.files import write_text
from skingpt4.training.qformer.pretrain import Examples, Settings, train
from skingpt4.training.qformer.vocabulary import Vocabulary, caption
from skingpt4.weights.language_model import read_tokenizer


class VectorsError(UserError):
    """Stored vectors that cannot be used; the message says why."""


@dataclass(frozen=True)
class Stored:
    """Vectors (n, q, d) with their diseases and classes; it reads like a store of cached features."""

    folder: Path
    vectors: Tensor
    diseases: np.ndarray
    classes: np.ndarray

    @classmethod
    def read(cls, path: Path, name: str) -> Stored:
        """The array of that name of a file.

        Raises:
            VectorsError: the file has no such vectors with labels.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                vectors = torch.from_numpy(file[name])
                labels = [file[key].astype(str) for key in ("disease", "class_name")]
        except (OSError, ValueError, KeyError) as error:
            raise VectorsError(f"{path}: has no arrays {name}, disease and class_name ({error})") from None
        if vectors.dim() != 3:
            raise VectorsError(f"{path}: {name} must be (n, vectors, width), found {tuple(vectors.shape)}")
        return cls(path.with_suffix("") / name, vectors, *labels)

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def shape(self) -> StoreShape:
        """The sizes, as a store of features has them."""
        count, num_vectors, width = self.vectors.shape
        return StoreShape(count, 1, num_vectors, width)

    def view(self, row: int, view: int) -> Tensor:
        """The vectors (q, d) of a picture."""
        return self.vectors[row]

    def manifest(self, folder: Path) -> Path:
        """A manifest of the records, whose pictures are not there."""
        rows = enumerate(zip(self.diseases, self.classes, strict=True))
        lines = [
            json.dumps({"image": f"{number}.png", "disease": disease, "class": class_name}) + "\n"
            for number, (disease, class_name) in rows
        ]
        path = folder / "records.jsonl"
        write_text(path, "".join(lines))
        return path


def through_qformer(
    own: Stored, others: Stored, records: Manifest, config: Config, settings: Settings, state: Path
) -> Iterator[Stored]:
    """The queries of both, of a Q-Former that is trained on the first, as `skingpt4 pretrain-qformer` would.

    Args:
        own: tokens to learn from: one for the picture, then its patches, row by row.
        others: tokens of other pictures, which it does not see.
        records: of the first, with what their captions say.
        config: its Q-Former's sizes, and the language model whose tokenizer reads the captions.
        settings: of the training.
        state: file from which a stopped training goes on.

    Raises:
        PretrainingError: the state file is of another training.
    """
    captions = [caption(record) for record in records]
    words = Vocabulary(read_tokenizer(config.language.model, local_only=True), captions, settings.max_words)
    examples = Examples((own,), words.encode(captions), 1, own.shape.width)  # type: ignore[arg-type]
    qformer, _ = train(config, examples, words, settings, state)
    for stored in (own, others):
        with torch.no_grad():
            queries = [qformer(part.float()) for part in stored.vectors.split(64)]
        yield replace(stored, vectors=torch.cat(queries))
