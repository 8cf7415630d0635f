"""Records and their way into training batches: answers built when training runs, samples, batches."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from skingpt4.config.schema import PromptConfig
from skingpt4.model.prompts import (
    IMAGE,
    Encoded,
    Template,
    Turn,
    answer_end,
    encode_turns,
    get_template,
    shorten,
)
from skingpt4.records.images import open_image, random_crop_box, to_tensor
from skingpt4.records.manifest import Manifest, read_manifest
from skingpt4.records.record import Record, RecordError

__all__ = ["Record", "RecordError", "read_manifest"]  # defined below this floor, asked for here by habit


def answer_for(record: Record, prompt: PromptConfig) -> str:
    """The answer that a record teaches: concepts, then disease, then note, as far as known and asked for.

    A record with a dialogue of its own teaches the answers of that instead, where `prompt.use_turns`. Empty
    where the record has nothing that the configuration asks for.
    """
    if prompt.use_turns and record.turns:
        return " ".join(answer for _, answer in record.turns)
    sentences = []
    if prompt.use_concepts and record.concepts:
        sentences.append(prompt.concepts_sentence.format(concepts=", ".join(record.concepts)))
    if prompt.use_disease and record.disease:
        sentences.append(prompt.disease_sentence.format(disease=record.disease))
    if prompt.use_note and record.note:
        sentences.append(record.note)
    return " ".join(filter(None, sentences))


def rows_with_answer(records: Sequence[Record], prompt: PromptConfig) -> np.ndarray:
    """The rows of records for which `answer_for` is not empty: (n,) int64; of a manifest by whole columns."""
    if not isinstance(records, Manifest):
        found = [row for row, record in enumerate(records) if answer_for(record, prompt)]
        return np.array(found, dtype=np.int64)
    known = np.zeros(len(records), dtype=bool)
    for key, asked in (
        ("turns", prompt.use_turns),
        ("concepts", prompt.use_concepts and bool(prompt.concepts_sentence)),
        ("disease", prompt.use_disease and bool(prompt.disease_sentence)),
        ("note", prompt.use_note),
    ):
        if asked:
            known |= records.known(key)
    return np.flatnonzero(known)


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
        self.end = answer_end(self.template, tokenizer)

    def answer(self, record: Record, question: str) -> str:
        """The record's answer, cut to the budget of tokens; empty if not even its first word fits."""
        if question == self.prompt.concepts_question:
            record = replace(record, disease=None, note=None, turns=())
        answer = answer_for(record, self.prompt)
        return answer if self.cut_blindly else shorten(answer, self.end, self.tokenizer, self.max_text_tokens)

    def draw_question(self, record: Record, rng: np.random.Generator) -> str:
        """One of the questions that this record can answer."""
        rehearsed = self.prompt.concepts_question
        if rehearsed and record.concepts and rng.random() < self.prompt.concepts_share:
            return rehearsed
        return self.prompt.questions[int(rng.integers(len(self.prompt.questions)))]

    def turns(self, record: Record, question: str) -> list[Turn]:
        """The conversation that a record teaches under a question: one turn, or the record's own dialogue.

        A dialogue's answers share the budget of tokens; what does not fit any more is left out.
        """
        if not (record.turns and self.prompt.use_turns) or question == self.prompt.concepts_question:
            return [Turn(question, self.answer(record, question), num_images=1)]
        turns: list[Turn] = []
        budget = self.max_text_tokens
        for asked, said in record.turns:
            answer = shorten(said, self.end, self.tokenizer, budget)
            if turns and not answer:
                break
            # The picture stands before the first question; a mark of it in the text would ask for another.
            turns.append(Turn(asked.replace(IMAGE, "").strip(), answer, num_images=0 if turns else 1))
            budget -= len(self.tokenizer(answer + self.end, add_special_tokens=False)["input_ids"])
            if answer != said:
                break
        return turns

    def __call__(self, record: Record, question: str) -> Encoded:
        """Encode one record under one question."""
        turns = self.turns(record, question)
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
        self.rows = rows_with_answer(records, encoder.prompt)
        self._orders: OrderedDict[int, np.ndarray] = OrderedDict()
        if not len(self.rows):
            first_path = records[0].image_path if len(records) else "no record at all"
            raise RecordError(
                f"none of the {len(records)} records has what this step teaches; the first is {first_path}"
            )
        first = records[int(self.rows[0])]
        if not encoder.turns(first, encoder.prompt.questions[0])[0].answer:
            text = answer_for(first, encoder.prompt)
            raise RecordError(f"no token of the answer {text!r} is supervised; raise data.max_text_tokens")

    def __len__(self) -> int:
        """Records with an answer: the length of one pass."""
        return len(self.rows)

    def row_of(self, index: int) -> int:
        """The record that sample `index` shows."""
        passed, place = divmod(index, len(self.rows))
        return int(self.rows[self._order(passed)[place]])

    def _order(self, passed: int) -> np.ndarray:
        """The permutation of a pass, kept for it and the one before: a batch may lie in both."""
        if passed not in self._orders:
            rng = np.random.default_rng((self.seed, 1, passed))
            self._orders[passed] = rng.permutation(len(self.rows))
            if len(self._orders) > 2:
                self._orders.popitem(last=False)
        return self._orders[passed]

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Sample `index` of the endless sequence."""
        rng = np.random.default_rng((self.seed, 2, index))
        row = self.row_of(index)
        record = self.records[row]
        shared = np.random.default_rng((self.seed, 3, index // self.per_question))
        question = self.encoder.draw_question(record, rng if self.per_question == 1 else shared)
        return {"encoded": self.encoder(record, question), **self.pictures(row, rng)}


class HeldOutSamples(Dataset):
    """At most `limit` records, evenly spread over the manifest, under the first question, whole pictures."""

    def __init__(
        self, records: Sequence[Record], encoder: SampleEncoder, pictures: PictureSource, limit: int
    ) -> None:
        """Choose the records; those without an answer are left out."""
        rows = rows_with_answer(records, encoder.prompt)
        step = max(1, -(-len(rows) // max(1, limit)))
        self.rows = [int(row) for row in rows[::step]] if limit else []
        self.records, self.encoder, self.pictures = records, encoder, pictures

    def __len__(self) -> int:
        """Number of chosen records."""
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Held-out sample `index`."""
        row = self.rows[index]
        encoded = self.encoder(self.records[row], self.encoder.prompt.questions[0])
        return {"encoded": encoded, **self.pictures(row, None)}


def batch_indices(
    start: int, stop: int, batch_size: int, accumulation: int, rank: int, world: int
) -> Iterator[list[int]]:
    """Sample indices of one process's micro-batches for iterations `start` to `stop`.

    An iteration takes the same samples however it is cut into micro-batches and processes.
    """
    for micro in range(start * accumulation, stop * accumulation):
        first = (micro * world + rank) * batch_size
        yield list(range(first, first + batch_size))
