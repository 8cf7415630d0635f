"""Rules for single values, for the fields of the schema.

A rule takes a value and returns None, or says what would be right, e.g. "it must be above 0".
"""

from __future__ import annotations

import difflib
import string
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from typing import Any, TypeVar

Rule = Callable[[Any], str | None]
INTERPOLATIONS = ("bicubic", "bilinear", "lanczos", "nearest")  # how an image is resized, by Pillow's names
T = TypeVar("T")
# Arguments of `timm.create_model` by which a file or an address would be read.
LOADING = (
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "checkpoint_path",
    "cache_dir",
    "scriptable",
)


def ruled(rule: Rule, default: T) -> T:
    """A dataclass field with a default and the rule that its value must follow."""
    return field(default=default, metadata={"rule": rule})


def own(rule: Rule, default: T) -> T:
    """As `ruled`, for a value that null leaves to the vision model's own files; the default is for a timm name."""
    return field(default=default, metadata={"rule": rule, "own": True})


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


def _rule(holds: Callable[[Any], bool], otherwise: str) -> Rule:
    return lambda value: None if holds(value) else otherwise


positive = _rule(lambda value: value > 0, "it must be above 0")
not_negative = _rule(lambda value: value >= 0, "it must not be negative")
fraction = _rule(lambda value: 0 <= value <= 1, "it must lie in 0..1")
below_one = _rule(lambda value: 0 <= value < 1, "it must lie in 0..1, below 1")
not_empty = _rule(bool, "give at least one")
one_per_channel = _rule(
    lambda value: value is None or len(value) == 3, "it must have three values, one for each channel"
)


def up_to(most: int) -> Rule:
    """A number above 0 and at most this, far above any network's: a wrong one neither hangs nor fills memory."""
    return lambda value: positive(value) or (None if value <= most else f"it must be at most {most:,}")


FROZEN = ("vision_encoder", "qformer", "language_model")  # in every step


def frozen_parts(parts: list[str]) -> str | None:
    """The parts of the network that a step does not train: those that no step trains, and perhaps the projection."""
    if set(parts) <= {*FROZEN, "projection"} and set(FROZEN) <= set(parts):
        return None
    return f"it must name {', '.join(FROZEN)}, which no step trains, and may name projection"


def optional_count(value: int | None) -> str | None:
    """A positive number, or None for the usual one."""
    return None if value is None else up_to(100_000)(value)


def whole_and_tiles(value: int) -> str | None:
    """The number of crops of a picture: itself, and the tiles of a square if there are any."""
    if value == 1 or (value - 1 in (n * n for n in range(2, 6))):
        return None
    return (
        "write 1 (the complete picture), or 1 and its tiles: 5 (2 x 2), 10 (3 x 3), 17 (4 x 4) or 26 (5 x 5)"
    )


def sentence_with(*names: str) -> Rule:
    """A sentence whose only placeholders are `{name}` of these, without attributes or a format."""
    allowed = " and ".join(f"{{{name}}}" for name in names)

    def rule(value: str) -> str | None:
        try:
            placeholders = {part[1:] for part in string.Formatter().parse(value) if part[1] is not None}
        except ValueError:
            placeholders = {("", "", None)}
        plain = {(name, "", None) for name in names}
        return None if placeholders <= plain else f"it may hold no placeholder but {allowed}"

    return rule


def answers_with(*names: str) -> Rule:
    """Sentences by question, each as `sentence_with`, none of them empty."""
    sentence = sentence_with(*names)

    def rule(value: Mapping[str, str]) -> str | None:
        for question, answer in value.items():
            wrong = sentence(answer) if answer.strip() else "it needs an answer"
            if wrong:
                return f"{question!r}: {wrong}"
        return None

    return rule


def without_weights(arguments: Mapping[str, Any]) -> str | None:
    """Arguments of a timm model that describe the network, and neither name weights nor make it endless."""
    if names := sorted(arguments.keys() & {*LOADING}):
        return f"{names[0]!r} loads weights; name their file in vision.weights"
    if any(isinstance(value, int) and value > 100_000 for value in arguments.values()):
        return "its numbers must be at most 100,000"
    depth = arguments.get("depth")
    return "its depth must be at most 1,000" if isinstance(depth, int) and depth > 1000 else None
