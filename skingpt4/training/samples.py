"""Training samples: from a record to the answer that it teaches, its token ids and its image."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from skingpt4.config.compat import BEHAVIOURS
from skingpt4.config.schema import Config, PromptConfig
from skingpt4.model.projection import picture_shape
from skingpt4.model.prompts import (
    IMAGE,
    Encoded,
    Template,
    Turn,
    answer_end,
    encode,
    get_template,
    marks_of,
    num_answer_tokens,
    render,
    shorten,
    without_placeholders,
)
from skingpt4.records.manifest import Manifest, evenly_spread
from skingpt4.records.record import Record, RecordError
from skingpt4.support.marks import break_marks, marks_in
from skingpt4.taxonomy.morphology import morphology, say_concepts
from skingpt4.training.features import ImageSource
from skingpt4.training.optim.schedule import ClassBalance, class_names, class_weights

BARE_END = "\n"  # closes a bare answer


def answer_for(record: Record, prompt: PromptConfig) -> str:
    """The answer that a record teaches: concepts, disease, caption, note, as far as known and configured.

    The note stands last: it may be long, and what passes `data.max_text_tokens` is cut off.

    With `prompt.use_turns`, a record that has a dialogue teaches the dialogue's answers instead. Empty if the record
    has nothing that the configuration asks for.
    """
    if prompt.use_turns and record.turns:
        return " ".join(answer for _, answer in record.turns)
    sentences = []
    if prompt.use_concepts and record.concepts:
        sentences.append(say_concepts(prompt.concepts_sentence, record.concepts))
    if prompt.use_disease and record.disease:
        sentences.append(prompt.disease_sentence.format(disease=record.disease))
    if prompt.use_caption and record.caption:
        sentences.append(record.caption)
    if prompt.use_note and record.note:
        sentences.append(record.note)
    return " ".join(filter(None, sentences))


def rows_with_answer(records: Sequence[Record], prompt: PromptConfig) -> np.ndarray:
    """The rows of records for which `answer_for` is not empty: (n,) int64; of a manifest by complete columns."""
    if not isinstance(records, Manifest):
        rows = [row for row, record in enumerate(records) if answer_for(record, prompt)]
        return np.array(rows, dtype=np.int64)
    has_answer = np.zeros(len(records), dtype=bool)
    for column in columns_of_answers(prompt):
        has_answer |= records.known(column)
    return np.flatnonzero(has_answer)


def columns_of_answers(prompt: PromptConfig) -> list[str]:
    """The columns of a record that an answer is made of, by `answer_for`."""
    used = {
        "turns": prompt.use_turns,
        "concepts": prompt.use_concepts and prompt.concepts_sentence,
        "disease": prompt.use_disease and prompt.disease_sentence,
        "note": prompt.use_note,
        "caption": prompt.use_caption,
    }
    return [column for column, is_used in used.items() if is_used]


class SampleEncoder:
    """Encodes records as token ids with the supervised part marked.

    Args:
        prompt: template, questions and the answers' sentences.
        tokenizer: of the language model.
        num_query_tokens: of an image.
        max_text_tokens: supervised tokens of a sample, end symbols included.
        cut_blindly: cut a long answer at the last token that fits, without its end symbol, as the original does.
        disease_weight: in the loss, of the tokens that name the record's disease.
    """

    def __init__(
        self,
        prompt: PromptConfig,
        tokenizer: Any,
        num_query_tokens: int,
        max_text_tokens: int,
        cut_blindly: bool = False,
        disease_weight: float = 1.0,
    ) -> None:
        self.prompt, self.tokenizer, self.cut_blindly = prompt, tokenizer, cut_blindly
        self.disease_weight = disease_weight
        self.num_query_tokens, self.max_text_tokens = num_query_tokens, max_text_tokens
        self.template: Template | None = get_template(prompt.template)
        self.end = BARE_END if prompt.bare else answer_end(self.template, tokenizer)
        self.marks = marks_of(self.template, tokenizer)

    @classmethod
    def from_config(cls, config: Config, tokenizer: Any) -> SampleEncoder:
        """The encoder of a run."""
        return cls(
            config.prompt, tokenizer, picture_shape(config).num_vectors, config.data.max_text_tokens,
            BEHAVIOURS[config.compat].cut_blindly, config.optim.disease_weight,
        )  # fmt: skip

    def __call__(self, record: Record, question: str) -> Encoded:
        """Encode one record under one question."""
        bos = bool(self.template and self.template.bos)
        encoded = encode(self._pieces(record, question), self.tokenizer, self.num_query_tokens, bos)
        # Without `cut_blindly` the answer fits already; with it, the surplus stands at the very end.
        length = len(encoded.input_ids) - max(0, sum(encoded.supervised) - self.max_text_tokens)
        return Encoded(encoded.input_ids[:length], encoded.supervised[:length])

    def weights(self, record: Record, question: str, encoded: Encoded) -> Tensor:
        """(t,) fp32, of each token of an encoded record in the loss: `disease_weight` where it names the disease.

        Raises:
            RecordError: the tokenizer does not say which characters a token stands for.
        """
        if not self.tokenizer.is_fast:
            raise RecordError(
                "optim.disease_weight needs a tokenizer of the `tokenizers` library (tokenizer.json), which this "
                "language model lacks; leave optim.disease_weight at 1"
            )
        pieces = self._pieces(record, question)
        names = [n for text, learned in pieces if learned for n in self._names(record.disease, text)]
        weights = torch.ones(len(encoded.input_ids))
        weights[torch.tensor(encoded.supervised)] += torch.tensor(names) * (self.disease_weight - 1)
        return weights

    def _pieces(self, record: Record, question: str) -> list[tuple[str, bool]]:
        """The texts that a record teaches and what stands before them, see `render`."""
        turns = self.turns(record, question)
        if not self.prompt.bare:
            return render(self.template, turns, self.tokenizer)
        answer = break_marks(" ".join(turn.answer or "" for turn in turns), self.marks)
        return [(IMAGE, False), (answer + self.end, True)]

    def _names(self, disease: str | None, answer: str) -> list[bool]:
        """For each token of an answer, whether it is part of the disease's name."""
        offsets = self.tokenizer(answer, add_special_tokens=False, return_offsets_mapping=True)[
            "offset_mapping"
        ]
        names = [m.span() for m in re.finditer(re.escape(disease), answer, re.IGNORECASE)] if disease else []
        return [any(start < last and first < end for first, last in names) for start, end in offsets]

    def turns(self, record: Record, question: str) -> list[Turn]:
        """The conversation that a record teaches under a question: one turn, or the record's own dialogue.

        One of `prompt.other_questions` follows the first of `prompt.questions` and those before it in the mapping:
        people ask for a cause after they have read what the picture shows. Answers share one budget.
        """
        others = list(self.prompt.other_questions)
        later = others[: others.index(question) + 1] if question in others else []
        if later:
            question = self.prompt.questions[0]
        if question == self.prompt.concepts_question:
            record = replace(record, disease=None, note=None, turns=())
        talk = [(question, answer_for(record, self.prompt))]
        if record.turns and self.prompt.use_turns:
            talk = [(without_placeholders(asked), answer) for asked, answer in record.turns]
        answers = [(other, self._other_answer(record, other)) for other in later]
        return self._within_budget([*talk, *(turn for turn in answers if turn[1])])

    def _other_answer(self, record: Record, question: str) -> str:
        """What to teach for one of `prompt.other_questions`; empty if it needs what the record does not have."""
        sentence = self.prompt.other_questions[question]
        known = {"disease": record.disease, "body_site": record.body_site}
        known |= {
            "concepts": ", ".join(record.concepts or ()),
            "morphology": morphology(record.concepts or ()),
        }
        missing = any("{" + name + "}" in sentence for name, value in known.items() if not value)
        return "" if missing else sentence.format(**known)

    def _within_budget(self, talk: Sequence[tuple[str, str]]) -> list[Turn]:
        """The turns, their answers cut to the token budget that they share; what no longer fits is dropped."""
        if self.cut_blindly and len(talk) == 1:
            return [Turn(*talk[0], num_images=1)]
        turns: list[Turn] = []
        budget = self.max_text_tokens
        for question, complete in talk:
            answer = shorten(complete, self.end, self.tokenizer, budget, self.marks)
            if turns and not answer:
                break
            turns.append(Turn(question, answer, num_images=not turns))
            budget -= num_answer_tokens(answer, self.end, self.tokenizer, self.marks)
            if answer != complete:
                break
        return turns

    def marks_in(self, record: Record) -> list[str]:
        """The prompt's marks in the texts that a record teaches; they are taught as text, see `break_marks`."""
        asked = record.turns if self.prompt.use_turns else ()
        texts = [answer_for(record, self.prompt), *(without_placeholders(question) for question, _ in asked)]
        return marks_in("\n".join(texts), self.marks)

    def draw_question(self, record: Record, rng: np.random.Generator) -> str:
        """Draw one of the questions that this record can answer."""
        others = [q for q in self.prompt.other_questions if self._other_answer(record, q)]
        if others and record.disease and rng.random() < self.prompt.other_share:
            return others[-1]  # a complete conversation
        rehearsed = self.prompt.concepts_question
        if rehearsed and record.concepts and rng.random() < self.prompt.concepts_share:
            return rehearsed
        return self.prompt.questions[int(rng.integers(len(self.prompt.questions)))]


class TrainingSamples(Dataset):
    """An endless, shuffled view of the records that have an answer: sample i is a function of (seed, i) alone.

    Every pass over the records is a new permutation, or a `ClassBalance`; question and crop are drawn for each
    sample. So a resumed run, or one with another number of processes, sees exactly the same samples.

    Args:
        records: of the training manifests.
        encoder: of the texts.
        images: of the records' rows.
        seed: of order, questions and crops.
        per_question: number of consecutive samples that share one drawn question.
        sampling: `data.sampling`.
        class_weight: `optim.class_weight`.

    Raises:
        RecordError: no record has an answer; names the first. Or none has a class to balance.
    """

    def __init__(
        self,
        records: Sequence[Record],
        encoder: SampleEncoder,
        images: ImageSource,
        seed: int,
        per_question: int = 1,
        sampling: str = "uniform",
        class_weight: str = "none",
    ) -> None:
        self.records, self.encoder, self.images, self.seed = records, encoder, images, seed
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
        self.balance: ClassBalance | None = None
        self.class_weights: dict[int, float] = {}  # by row, where they are not all 1
        if sampling != "uniform" or class_weight != "none":
            all_names = class_names(records)
            names = [all_names[row] for row in self.rows]
        if sampling != "uniform":
            self.balance = ClassBalance(names, sampling, seed)
        if class_weight != "none":
            weights = class_weights(names, class_weight)
            self.class_weights = dict(zip(self.rows.tolist(), weights.tolist(), strict=True))

    def __len__(self) -> int:
        """The length of one pass."""
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Sample `index` of the endless sequence: `encoded`, and what `images` gives."""
        rng = np.random.default_rng((self.seed, 2, index))
        row = self.row_of(index)
        record = self.records[row]
        shared = np.random.default_rng((self.seed, 3, index // self.per_question))
        question = self.encoder.draw_question(record, rng if self.per_question == 1 else shared)
        encoded = self.encoder(record, question)
        sample: dict[str, Any] = {"encoded": encoded, **self.images(row, rng)}
        if self.encoder.disease_weight != 1:
            sample["weights"] = self.encoder.weights(record, question, encoded)
        if self.class_weights:
            weights = sample.get("weights", torch.ones(len(encoded.input_ids)))
            sample["weights"] = weights * self.class_weights[row]
        return sample

    def row_of(self, index: int) -> int:
        """The row of the record that sample `index` shows."""
        number, place = divmod(index, len(self.rows))
        return int(self.rows[self._order(number)[place]])

    def _order(self, number: int) -> np.ndarray:
        """The places of a pass, permuted; cached for it and the one before, since a batch may lie in both."""
        if number not in self._orders:
            rng = np.random.default_rng((self.seed, 1, number))
            self._orders[number] = rng.permutation(
                self.balance.places(number) if self.balance else len(self.rows)
            )
            if len(self._orders) > 2:
                self._orders.popitem(last=False)
        return self._orders[number]


class HeldOutSamples(Dataset):
    """At most `limit` records with an answer, evenly spread, under the first question, with complete images."""

    def __init__(
        self, records: Sequence[Record], encoder: SampleEncoder, images: ImageSource, limit: int
    ) -> None:
        rows = rows_with_answer(records, encoder.prompt)
        self.rows = [int(rows[place]) for place in evenly_spread(len(rows), limit)]
        self.records, self.encoder, self.images = records, encoder, images

    def __len__(self) -> int:
        return len(self.rows)

    def row_of(self, index: int) -> int:
        """The row of the record that sample `index` shows."""
        return self.rows[index]

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.row_of(index)
        question = self.encoder.prompt.questions[0]
        return {"encoded": self.encoder(self.records[row], question), **self.images(row, None)}
