"""The optional history of a case on the page: its controls, and what they hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from skingpt4.page_texts import Texts
from skingpt4.page_visit import Visit


def controls(texts: Texts, trained: bool) -> list[Any]:
    """The fields, in the order that `take` expects them."""
    return []


def take(visit: Visit | None, told: Sequence[Any]) -> None:
    """Keep what the fields say in the case."""
