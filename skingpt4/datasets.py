"""Records and their way into training batches: answers built when training runs, samples, batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from skingpt4.config import PromptConfig
from skingpt4.images import open_image, random_crop_box, to_tensor
from skingpt4.manifests import read_manifest
from skingpt4.prompts import IGNORED, Encoded, Template, Turn, encode_turns, get_template, shorten
from skingpt4.records import Record, RecordError

__all__ = ["Record", "RecordError", "read_manifest"]  # defined below this floor, asked for here by habit


def answer_for(record: Record, prompt: PromptConfig) -> str:
    """The answer that a record teaches: concepts, then disease, then note, as far as known and asked for.

    Empty where the record has nothing that the configuration asks for.
    """
    sentences = []
    if prompt.use_concepts and record.concepts:
        sentences.append(prompt.concepts_sentence.format(concepts=", ".join(record.concepts)))
    if prompt.use_disease and record.disease:
        sentences.append(prompt.disease_sentence.format(disease=record.disease))
    if prompt.use_note and record.note:
        sentences.append(record.note)
    return " ".join(sentences)


class SampleEncoder:
    """Records to token ids with the supervised part marked."""

    def __init__(
        self,
        prompt: PromptConfig,
        tokenizer: Any,
        num_query_tokens: int,
        max_text_tokens: int,
        cut_blindly: bool = False,
    ) -> None:
        """Keep what is the same for all samples; `cut_blindly` cuts a long answer as the original does."""
        self.prompt, self.tokenizer, self.cut_blindly = prompt, tokenizer, cut_blindly
        self.num_query_tokens, self.max_text_tokens = num_query_tokens, max_text_tokens
        self.template: Template | None = get_template(prompt.template)

    def answer(self, record: Record, question: str) -> str:
        """The record's answer, cut to the budget of tokens; empty if not even its first word fits."""
        end = self.template.end if self.template else self.tokenizer.eos_token
        if question == self.prompt.concepts_question:
            record = replace(record, disease=None, note=None)
        answer = answer_for(record, self.prompt)
        return answer if self.cut_blindly else shorten(answer, end, self.tokenizer, self.max_text_tokens)

    def draw_question(self, record: Record, rng: np.random.Generator) -> str:
        """One of the questions that this record can answer."""
        rehearsed = self.prompt.concepts_question
        if rehearsed and record.concepts and rng.random() < self.prompt.concepts_share:
            return rehearsed
        return self.prompt.questions[int(rng.integers(len(self.prompt.questions)))]

    def __call__(self, record: Record, question: str) -> Encoded:
        """Encode one record under one question."""
        turns = [Turn(question, self.answer(record, question), num_images=1)]
        encoded = encode_turns(self.template, turns, self.tokenizer, self.num_query_tokens)
        # Without `cut_blindly` the answer fits already; with it, what is too long stands at the very end.
        length = len(encoded.input_ids) - max(0, sum(encoded.supervised) - self.max_text_tokens)
        return Encoded(encoded.input_ids[:length], encoded.supervised[:length])


PictureSource = Callable[[int, "np.random.Generator | None"], dict[str, Tensor]]


def picture_files(
    records: Sequence[Record], size: int, mean: tuple[float, ...], std: tuple[float, ...], augment: bool
) -> PictureSource:
    """Pictures read from their files: a random crop where a generator is given, else the whole picture."""

    def load(row: int, rng: np.random.Generator | None) -> dict[str, Tensor]:
        image = open_image(records[row].image_path)
        box = random_crop_box(*image.size, rng) if augment and rng is not None else None
        return {"image": to_tensor(image, size, mean, std, box)}

    return load


class TrainingSamples(Dataset):
    """An endless, shuffled view of the records: sample i is a function of (seed, i) alone.

    Every pass over the records is a new permutation; the question and the crop are drawn per sample. So a
    resumed run, or one with another number of processes, sees exactly the same samples.
    """

    def __init__(
        self,
        records: Sequence[Record],
        encoder: SampleEncoder,
        pictures: PictureSource,
        seed: int,
        per_question: int = 1,
    ) -> None:
        """Keep only records with something to teach.

        Args:
            records: what is shown.
            encoder: of texts.
            pictures: of rows.
            seed: of order, questions and crops.
            per_question: so many samples in a row share one drawn question; 1 draws one for each.

        Raises:
            RecordError: no record has an answer; shows the first.
        """
        self.records, self.encoder, self.pictures, self.seed = records, encoder, pictures, seed
        self.per_question = per_question
        self.rows = [row for row, record in enumerate(records) if answer_for(record, encoder.prompt)]
        if not self.rows:
            first_path = records[0].image_path if records else "no record at all"
            raise RecordError(
                f"none of the {len(records)} records has what this step teaches; the first is {first_path}"
            )
        first = records[self.rows[0]]
        if not encoder.answer(first, encoder.prompt.questions[0]):
            text = answer_for(first, encoder.prompt)
            raise RecordError(f"no token of the answer {text!r} is supervised; raise data.max_text_tokens")

    def __len__(self) -> int:
        """Records with an answer: the length of one pass."""
        return len(self.rows)

    def row_of(self, index: int) -> int:
        """The record that sample `index` shows."""
        passed, place = divmod(index, len(self.rows))
        order = np.random.default_rng((self.seed, 1, passed)).permutation(len(self.rows))
        return self.rows[order[place]]

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Sample `index` of the endless sequence."""
        rng = np.random.default_rng((self.seed, 2, index))
        row = self.row_of(index)
        shared = np.random.default_rng((self.seed, 3, index // self.per_question))
        question = self.encoder.draw_question(self.records[row], rng if self.per_question == 1 else shared)
        return {"encoded": self.encoder(self.records[row], question), **self.pictures(row, rng)}


class HeldOutSamples(Dataset):
    """At most `limit` records, evenly spread over the manifest, under the first question, whole pictures."""

    def __init__(
        self, records: Sequence[Record], encoder: SampleEncoder, pictures: PictureSource, limit: int
    ) -> None:
        """Choose the records; those without an answer are left out."""
        rows = [row for row, record in enumerate(records) if answer_for(record, encoder.prompt)]
        step = max(1, -(-len(rows) // max(1, limit)))
        self.rows = rows[::step] if limit else []
        self.records, self.encoder, self.pictures = records, encoder, pictures

    def __len__(self) -> int:
        """Number of chosen records."""
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Held-out sample `index`."""
        row = self.rows[index]
        encoded = self.encoder(self.records[row], self.encoder.prompt.questions[0])
        return {"encoded": encoded, **self.pictures(row, None)}


def collate(samples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """Right-pad samples to a batch: input_ids, labels, attention_mask (b, t) and image or queries (b, ...)."""
    length = max(len(s["encoded"].input_ids) for s in samples)
    input_ids = torch.zeros(len(samples), length, dtype=torch.long)
    labels = torch.full((len(samples), length), IGNORED)
    attention_mask = torch.zeros(len(samples), length, dtype=torch.long)
    for number, sample in enumerate(samples):
        encoded = sample["encoded"]
        ids = torch.tensor(encoded.input_ids)
        input_ids[number, : len(ids)] = ids
        labels[number, : len(ids)] = torch.where(torch.tensor(encoded.supervised), ids, IGNORED)
        attention_mask[number, : len(ids)] = 1
    batch = {"input_ids": input_ids, "labels": labels, "attention_mask": attention_mask}
    for key in ("image", "queries"):
        if key in samples[0]:
            batch[key] = torch.stack([sample[key] for sample in samples])
    return batch


def batch_indices(
    start: int, stop: int, batch_size: int, accumulation: int, rank: int, world: int
) -> Iterator[list[int]]:
    """Sample indices of one process's micro-batches for iterations `start` to `stop`.

    An iteration takes the same samples however it is cut into micro-batches and processes.
    """
    for micro in range(start * accumulation, stop * accumulation):
        first = (micro * world + rank) * batch_size
        yield list(range(first, first + batch_size))
