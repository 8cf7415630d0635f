"""Guesses at the next tokens from what was said before (prompt lookup, a form of speculative decoding).

Reading a few tokens at once takes hardly longer than one: either way all weights pass through memory. Where a text
repeats a phrase of its own or of the question, the guess is often right, and several tokens come from one pass. A
guess is kept only where the model chooses the same token, so the answer is the one it would have been.
"""

from __future__ import annotations

from collections.abc import Iterable

SIZES = (3, 2)  # tokens that must have come in this order before; the longer match counts


class Lookup:
    """A text's tokens, and where each short run of them came last."""

    def __init__(self, ids: Iterable[int]) -> None:
        """Take in a text; numbers below 0 stand for what is no token."""
        self.ids: list[int] = []
        self.places: dict[tuple[int, ...], int] = {}
        for token in ids:
            self.add(token)

    def add(self, token: int) -> None:
        """Append a token."""
        for size in SIZES:
            if len(self.ids) >= size:
                self.places[tuple(self.ids[-size:])] = len(self.ids)
        self.ids.append(token)

    def guess(self, most: int) -> list[int]:
        """At most so many tokens that may come next, going on with a phrase that repeats itself."""
        for size in SIZES:
            place = self.places.get(tuple(self.ids[-size:]))
            if place is None:
                continue
            found: list[int] = []
            while len(found) < most:
                at = place + len(found)
                token = self.ids[at] if at < len(self.ids) else found[at - len(self.ids)]
                if token < 0:
                    break
                found.append(token)
            return found
        return []
