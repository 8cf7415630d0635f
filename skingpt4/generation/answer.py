"""An answer on its way from the decoder to a listener."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from skingpt4.generation.sampling import Generation
from skingpt4.model.network import cut_at


@dataclass(frozen=True)
class Timing:
    """What an answer took, measured from its submission."""

    seconds_to_first_token: float
    seconds: float
    num_tokens: int
    num_read_tokens: int  # of the prompt; the others were cached
    num_rows: int  # the largest number of answers decoded together with it, including itself


class Answer:
    """An answer that is being decoded: iterate over it for its text, piece by piece.

    `Decoder.submit` makes it. The listener iterates, waits for `result` or calls `stop`; the decoder's thread calls
    `add` and `finish`.

    Attributes:
        generation: how it is drawn.
        ids: its tokens so far.
        text: the complete answer, once it has ended.
        error: what its decoding raised.
        timing: set once it has ended.
        stopped: set when nobody listens any more.
    """

    def __init__(
        self,
        generation: Generation,
        tokenizer: Any,
        cut_strings: tuple[str, ...],
        on_done: Callable[[Answer], None] | None = None,
        stopped: threading.Event | None = None,
    ) -> None:
        self.generation = generation
        self.ids: list[int] = []
        self.text: str | None = None
        self.error: BaseException | None = None
        self.timing: Timing | None = None
        self.stopped = stopped or threading.Event()
        self._tokenizer, self._cut_strings, self._on_done = tokenizer, cut_strings, on_done
        self._tokens: queue.SimpleQueue[int | None] = queue.SimpleQueue()  # None at the end
        self._done = threading.Event()

    def stop(self) -> None:
        """End the answer after its present token; what has been written stays."""
        self.stopped.set()

    def result(self) -> str:
        """Wait for the complete answer.

        Raises:
            BaseException: what the decoding of this answer raised.
        """
        self._done.wait()
        if self.error is not None:
            raise self.error
        assert self.text is not None
        return self.text

    def __iter__(self) -> Iterator[str]:
        """Yield the text, holding back what may become a stop string.

        Raises:
            BaseException: what the decoding of this answer raised.
        """
        ids: list[int] = []
        sent, more = "", True
        while more:
            new = [self._tokens.get()]
            while not self._tokens.empty():  # whatever has arrived in the meantime is shown at once
                new.append(self._tokens.get_nowait())
            more = None not in new
            ids += [token for token in new if token is not None]
            text = self._tokenizer.decode(ids)
            if text.endswith("\ufffd"):  # a character whose bytes have not all arrived yet
                continue
            safe = safe_text(text, self._cut_strings).lstrip()
            if len(safe) > len(sent) and safe.startswith(sent):
                yield safe[len(sent) :]
                sent = safe
        if rest := self.result()[len(sent) :]:
            yield rest

    def add(self, token: int) -> None:
        """Append a token."""
        self.ids.append(token)
        self._tokens.put(token)

    def finish(self, timing: Timing, text: str | None = None, error: BaseException | None = None) -> None:
        """End the answer.

        Args:
            timing: what it took.
            text: the complete answer; by default its decoded tokens up to the first stop string.
            error: what `result` raises instead.
        """
        if error is None and text is None:
            text = cut_at(self._tokenizer.decode(self.ids), self._cut_strings)
        self.text, self.error, self.timing = text, error, timing
        self._done.set()
        self._tokens.put(None)
        if self._on_done is not None:
            self._on_done(self)


def safe_text(text: str, stops: Sequence[str]) -> str:
    """The text up to a stop string, or up to what may be the beginning of one, without trailing blanks."""
    for stop in stops:
        text = text.split(stop)[0]
    for stop in stops:
        for length in range(len(stop) - 1, 0, -1):
            if text.endswith(stop[:length]):
                text = text[:-length]
                break
    return text.rstrip()
