"""Answers by transformers' own loop, one at a time: beams, and models whose state cannot be cut back."""

from __future__ import annotations

import threading
import time
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from skingpt4.generation.stream import Stream
from skingpt4.model.network import SkinGPT4


def answer_whole(model: SkinGPT4, stream: Stream) -> None:
    """Read the whole prompt and answer it; beams have no text before they end."""
    stream._num_read = len(stream.prompt.input_ids)
    greedy = stream.generation.num_beams == 1
    with torch.random.fork_rng():
        torch.manual_seed(stream.generation.seed)
        text = model.generate(
            [stream.prompt],
            stream.queries,
            stream.stop_strings,
            stopping_criteria=StoppingCriteriaList([_Stopped(stream.stopped)]),
            streamer=_Streamer(stream) if greedy else None,
            **stream.generation.options(),
        )[0]
    if not greedy:
        stream.ids = stream._tokenizer(text, add_special_tokens=False)["input_ids"]
        stream._first = time.perf_counter() - stream._began
    stream._finish(text)


class _Streamer(BaseStreamer):
    """Gives the tokens of `generate` to a stream; its first call shows the prompt."""

    def __init__(self, stream: Stream) -> None:
        self.stream, self.begun = stream, False

    def put(self, value: Tensor) -> None:
        if self.begun:
            for token in value.flatten().tolist():
                self.stream._say(token)
        self.begun = True

    def end(self) -> None:
        """`Stream._finish` follows."""


class _Stopped(StoppingCriteria):
    def __init__(self, event: threading.Event) -> None:
        self.event = event

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        return torch.full((len(input_ids),), self.event.is_set(), device=input_ids.device)
