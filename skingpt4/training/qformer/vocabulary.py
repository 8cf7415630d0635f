"""Captions for the pretraining of a Q-Former, and their words as numbers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from skingpt4.records.record import Record

PAD, UNKNOWN, CLASSIFY, GENERATE = range(4)
NUM_SPECIAL = 4


def caption(record: Record) -> str:
    """What is known about an image in one text: concepts, class, disease, note; empty if nothing is."""
    class_name = (record.class_name or "").replace("_", " ")
    parts = (", ".join(record.concepts or ()), class_name, record.disease or "", record.note or "")
    texts = [part.strip().rstrip(".") for part in parts if part.strip()]
    return ". ".join({text.casefold(): text for text in texts}.values())  # a disease may be its class


class Vocabulary:
    """Those tokens of a tokenizer that occur in some texts, counted from NUM_SPECIAL.

    A language model's tokenizer has many times more than the captions of a manifest use.
    """

    def __init__(self, tokenizer: Any, texts: Iterable[str], max_words: int) -> None:
        self.tokenizer, self.max_words = tokenizer, max_words
        used = sorted({token for text in set(texts) for token in self._tokens(text)})
        self.ids = {token: NUM_SPECIAL + place for place, token in enumerate(used)}

    def __len__(self) -> int:
        return NUM_SPECIAL + len(self.ids)

    def encode(self, texts: Iterable[str]) -> np.ndarray:
        """Word ids (n, max_words) int64, cut or filled with PAD; an empty text is all PAD."""
        rows = [[self.ids.get(token, UNKNOWN) for token in self._tokens(text)] for text in texts]
        return np.array([row + [PAD] * (self.max_words - len(row)) for row in rows], dtype=np.int64)

    def _tokens(self, text: str) -> list[int]:
        if not text:
            return []
        tokens: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return tokens[: self.max_words]
