"""llama.cpp in the place of the language model's layers, in this process, with smaller weights.

`Decoder` stays what it is: prompts are embeddings, and answers are drawn as ever. Only the state of its rows is
llama.cpp's, and with it what reads their tokens. Closed sets, heat maps and beam search are computed by this
program's own language model. `skingpt4 export --llama-cpp` writes the file; the package is llama-cpp-python.
"""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from skingpt4.config.schema import EngineConfig
from skingpt4.generation.decoder import Decoder
from skingpt4.generation.engine.client import EngineError
from skingpt4.generation.engine.llama_library import Library, Reader
from skingpt4.generation.engine.trial import COARSE, NUM_TOKENS, mean_difference, trial_ids
from skingpt4.generation.engine.wire import embedded
from skingpt4.model.network import SkinGPT4

_DECODERS: weakref.WeakKeyDictionary[SkinGPT4, LlamaCppDecoder] = weakref.WeakKeyDictionary()


class Conversations:
    """The numbers of a reader's conversations. One thread uses it; a state may be dropped by any."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.free = list(range(reader.max_rows))

    def new(self, capacity: int) -> LlamaCppRows:
        """An empty row.

        Raises:
            MemoryError: all conversations are in use.
            EngineError: the prompt is too long.
        """
        if capacity > self.reader.max_tokens:
            raise EngineError(
                f"the conversation has {capacity - 1} tokens, and llama.cpp has room for {self.reader.max_tokens}; "
                "start a new one"
            )
        try:
            number = self.free.pop()
        except IndexError:
            raise MemoryError("not enough memory for another conversation in llama.cpp") from None
        self.reader.truncate(number, 0)
        return LlamaCppRows(self.reader, [number], [0], self.free)


class LlamaCppRows:
    """Some conversations of a reader that are read together; see `skingpt4.generation.cache.Rows`."""

    def __init__(self, reader: Reader, numbers: list[int], lengths: list[int], free: list[int]) -> None:
        self.reader, self.numbers, self.lengths, self._free = reader, numbers, lengths, free
        weakref.finalize(self, free.extend, numbers)

    @property
    def num_reserved(self) -> int:
        """Rows."""
        return len(self.numbers)

    @property
    def num_bytes(self) -> int:
        """Of what was read."""
        return sum(self.lengths) * self.reader.bytes_a_token

    def read(self, language_model: Any, length: int, **inputs: Any) -> Tensor:
        """As of `Rows`; `logits_to_keep` counts the last places whose logits are wanted, and 0 means all."""
        content = inputs["input_ids"] if "input_ids" in inputs else inputs["inputs_embeds"].float()
        rows = list(zip(self.numbers, self.lengths, strict=True))
        logits = self.reader.read(rows, content.cpu().numpy(), inputs.get("logits_to_keep") or length)
        self.lengths = [old + length for old in self.lengths]
        return torch.from_numpy(logits).to(language_model.input_device)

    def truncate(self, length: int) -> None:
        """As of `Rows`."""
        self.reader.truncate(self.numbers[0], length)
        self.lengths = [length]

    def join(self, other: LlamaCppRows) -> None:
        """As of `Rows`."""
        self.numbers += other.numbers
        self.lengths += other.lengths
        other.numbers.clear()

    def copy_row(self, row: int) -> LlamaCppRows:
        """Hand a row over; `remove` then leaves it alone."""
        number, self.numbers[row] = self.numbers[row], -1
        return LlamaCppRows(self.reader, [number], [self.lengths[row]], self._free)

    def remove(self, row: int) -> None:
        """As of `Rows`."""
        dropped = self.numbers[row]
        self.numbers[row], self.lengths[row] = self.numbers[-1], self.lengths[-1]
        del self.numbers[-1], self.lengths[-1]
        if dropped >= 0:
            self._free.append(dropped)

    def discard_pending(self) -> None:
        """As of `Rows`."""
        for number, length in zip(self.numbers, self.lengths, strict=True):
            self.reader.truncate(number, length)


class LlamaCppDecoder(Decoder):
    """A `Decoder` whose tokens llama.cpp reads.

    Args:
        model: the network.
        config: with the file.
        reader: of the file.

    Raises:
        EngineError: this language model's answers are drawn by rules of its own, or the file is of another one.
    """

    def __init__(self, model: SkinGPT4, config: EngineConfig, reader: Reader) -> None:
        own = tuple(model.language_model.get_input_embeddings().weight.shape)
        if own != (reader.vocabulary, reader.width):
            raise EngineError(
                f"engine.file {config.file}: has {reader.vocabulary} tokens of width {reader.width}, and this "
                f"checkpoint's language model {own[0]} of width {own[1]}; export the checkpoint again"
            )
        if config.closed_sets != "in_process":
            raise EngineError("engine.closed_sets: llama_cpp computes none; set it to in_process")
        self.config, self.max_tokens = config, reader.max_tokens
        self.conversations = Conversations(reader)
        super().__init__(model, max_rows=reader.max_rows, new_rows=self.conversations.new)
        if self.uses_generate:
            raise EngineError(
                "engine: llama_cpp cannot draw answers by the rules of this language model's generation_config.json, "
                "or cannot hold its state; leave engine out"
            )

    @staticmethod
    def existing(model: SkinGPT4) -> LlamaCppDecoder | None:
        """The one of a model, if it was made."""
        return _DECODERS.get(model)

    @staticmethod
    def for_model(model: SkinGPT4, config: EngineConfig) -> LlamaCppDecoder:
        """The one of a model; made at the first call.

        Raises:
            GgufError, EngineError: as of `Library`.
        """
        decoder = _DECODERS.get(model)
        if decoder is None or decoder.config != config:
            if not config.file:
                raise EngineError("engine.file: name the GGUF file that skingpt4 export --llama-cpp wrote")
            reader = Library(Path(config.file), torch.get_num_threads())
            decoder = _DECODERS[model] = LlamaCppDecoder(model, config, reader)
        return decoder

    def check(self, model: SkinGPT4) -> None:
        """Compare a few of its tokens with this program's language model.

        Raises:
            EngineError: it has another one.
        """
        difference = self.run(lambda: self._difference(model))
        if not difference <= COARSE:
            raise EngineError(
                f"engine.file {self.config.file}: is of another language model than this checkpoint's; after a "
                f"trial prompt the log-probabilities of its tokens differ by {difference:.3f} on average (at most "
                f"{COARSE}); export the checkpoint again (skingpt4 export --llama-cpp)"
            )

    @torch.no_grad()
    def _difference(self, model: SkinGPT4) -> float:
        ids = trial_ids(model)
        rows, embeds = self.caches.new_rows(len(ids) + NUM_TOKENS), embedded(model, ids, None)
        logits = rows.read(model.language_model, len(ids), inputs_embeds=embeds[None], logits_to_keep=1)
        tokens, scores = list[int](), list[float]()
        while True:
            log = logits[0, -1].log_softmax(-1)
            tokens.append(int(log.argmax()))
            scores.append(float(log.max()))
            if len(tokens) == NUM_TOKENS:
                return mean_difference(model, tokens, scores)
            logits = rows.read(model.language_model, 1, input_ids=torch.tensor([tokens[-1:]]))
