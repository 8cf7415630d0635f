"""Rules for single values, as they stand at the fields of the schema.

A rule takes a value and returns None, or says what would be right, e.g. "it must be above 0".
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import field
from typing import Any, TypeVar

Rule = Callable[[Any], str | None]
T = TypeVar("T")


def ruled(rule: Rule, default: T) -> T:
    """A dataclass field with a default and the rule that its value must keep."""
    return field(default=default, metadata={"rule": rule})


def did_you_mean(name: Any, valid: Iterable[str]) -> str:
    """The hint that ends a refusal: the valid name nearest to `name`, or an empty string if none is near."""
    near = difflib.get_close_matches(str(name), list(valid), n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else ""


def one_of(*allowed: str) -> Rule:
    """One of these names."""

    def rule(value: str) -> str | None:
        if value in allowed:
            return None
        return f"choose one of {', '.join(allowed)}{did_you_mean(value, allowed)}"

    return rule


def positive(value: float) -> str | None:
    """Above 0."""
    return None if value > 0 else "it must be above 0"


def not_negative(value: float) -> str | None:
    """0 or above."""
    return None if value >= 0 else "it must not be negative"


def fraction(value: float) -> str | None:
    """In 0..1, both included."""
    return None if 0 <= value <= 1 else "it must lie in 0..1"


def below_one(value: float) -> str | None:
    """In 0..1, 1 excluded."""
    return None if 0 <= value < 1 else "it must lie in 0..1, below 1"


def not_empty(value: Sequence[str]) -> str | None:
    """A list with at least one entry."""
    return None if value else "it is empty; give at least one"


def one_per_channel(value: Sequence[float] | None) -> str | None:
    """Three numbers, or null."""
    return None if value is None or len(value) == 3 else "it must have three values, one for each channel"


def sentence_with(name: str) -> Rule:
    """A sentence whose only placeholder is `{name}`."""

    def rule(value: str) -> str | None:
        try:
            value.format(**{name: ""})
        except (KeyError, IndexError, ValueError):
            return f"it may hold no placeholder but {{{name}}}"
        return None

    return rule
