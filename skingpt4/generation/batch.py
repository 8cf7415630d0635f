"""The answers that are decoded together, a token of each in one pass of the language model."""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from skingpt4.generation.cache import CacheStore, Rows
from skingpt4.generation.row import Row
from skingpt4.model.network import SkinGPT4
from skingpt4.support.errors import is_out_of_memory


class Batch:
    """Running answers and their keys and values. Only the decoder's thread uses it.

    Args:
        caches: where an ended answer's keys and values go.
        max_guessed: tokens read ahead in a pass where an answer runs alone, see `Lookup`.
    """

    def __init__(self, caches: CacheStore, max_guessed: int) -> None:
        self.caches, self.max_guessed = caches, max_guessed
        self.rows: list[Row] = []
        self._kv: Rows | None = None  # of the rows, in their order

    def __len__(self) -> int:
        return len(self.rows)

    def join(self, row: Row, kv: Rows) -> None:
        """Add an answer whose prompt and first token are read."""
        if self._kv is None:
            self._kv = kv
        else:
            self._kv.join(kv)
        row.kv = None
        self.rows.append(row)
        for running in self.rows:
            running.num_rows = max(running.num_rows, len(self.rows))

    def step(self, model: SkinGPT4) -> None:
        """Decode one more token of every running answer, or several if one runs alone and they were guessed."""
        if not self.rows:
            return
        kv = self._kv
        assert kv is not None
        guessed = self.rows[0].guess(self.max_guessed) if len(self.rows) == 1 else []
        try:
            device = model.language_model.input_device
            ids = torch.tensor([[row.answer.ids[-1], *guessed] for row in self.rows], device=device)
            logits = kv.read(model.language_model, 1 + len(guessed), input_ids=ids)
            likeliest = logits.float().argmax(-1).tolist()
        except BaseException as error:
            self._fail_newest(error)
            return
        for index in reversed(range(len(self.rows))):
            row = self.rows[index]
            try:
                num_used, ended = row.take(logits[index], likeliest[index], guessed)
                if num_used <= len(guessed):
                    kv.truncate(kv.lengths[0] - (1 + len(guessed) - num_used))
                if ended:
                    self._remove(index, put_back=True)
                    row.finish()
            except BaseException as error:
                self._remove(index, put_back=False)
                row.finish(error=error)

    def _remove(self, index: int, put_back: bool) -> None:
        """Take a row out of the batch; the last row moves to its place."""
        kv, row = self._kv, self.rows[index]
        assert kv is not None
        is_alone = len(self.rows) == 1
        if put_back and self.caches.accepts(row.cache):
            own = kv if is_alone and kv.num_reserved == 1 else kv.copy_row(index)
            self.caches.put_back(row.cache, row.keys, own)
        if is_alone:
            self._kv = None
        else:
            kv.remove(index)
        self.rows[index] = self.rows[-1]
        self.rows.pop()

    def _fail_newest(self, error: BaseException) -> None:
        """After a failed step end the newest answer; the others try again.

        If memory was short, the cached conversations are dropped first, and nobody fails.
        """
        assert self._kv is not None
        self._kv.discard_pending()
        if is_out_of_memory(error) and self.caches.drop_all():
            return
        row = self.rows[-1]
        self._remove(len(self.rows) - 1, put_back=False)
        row.finish(error=error)

    def fail_all(self, error: BaseException) -> None:
        """End all answers with this error."""
        rows, self.rows, self._kv = self.rows, [], None
        for row in rows:
            row.finish(error=error)


def can_cache(config: Any) -> bool:
    """Whether a language model's state is only keys and values per token, so that rows join, leave and are truncated.

    Sliding windows are fine, since the mask applies them. Recurrent, convolutional and compressed states cannot be
    cut back to an earlier token.

    Args:
        config: the language model's.
    """
    config = config.get_text_config(decoder=True)
    if getattr(config, "attention_chunk_size", None) or getattr(config, "num_kv_shared_layers", None):
        return False
    kinds = {type(layer) for layer in DynamicCache(config=config).layers}
    return bool(kinds) and kinds <= {DynamicLayer, DynamicSlidingWindowLayer}
