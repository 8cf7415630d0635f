"""The words of the consultation page in several languages, from languages/*.yaml."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import yaml

from skingpt4.support.errors import UserError

FOLDER = Path(__file__).with_name("languages")
FIRST = "en"  # the language whose file the others are compared with


class TextError(UserError):
    """A language or a text that there is none of; the message says which."""


def languages() -> dict[str, str]:
    """Code and own name of every language that has a file, English first."""
    codes = sorted(path.stem for path in FOLDER.glob("*.yaml"))
    return {code: load(code)["language"] for code in sorted(codes, key=lambda code: (code != FIRST, code))}


class Texts:
    """One language. `texts["chat.ask"]` is a text, `texts("pictures.alt", number=1)` one filled in."""

    def __init__(self, code: str, table: dict[str, Any]) -> None:
        """Keep a language's code (as in HTML's lang) and its nested table."""
        self.code, self.table = code, table

    def _find(self, key: str) -> Any:
        place: Any = self.table
        for part in key.split("."):
            if not isinstance(place, dict) or part not in place:
                raise TextError(f"languages/{self.code}.yaml: there is no {key}")
            place = place[part]
        return place

    def __getitem__(self, key: str) -> str:
        """The single text under the key; TextError where there is none."""
        found = self._find(key)
        if not isinstance(found, str):
            raise TextError(f"languages/{self.code}.yaml: {key} is no single text")
        return found

    def has(self, key: str) -> bool:
        """Whether there is something under the key."""
        try:
            self._find(key)
        except TextError:
            return False
        return True

    def __call__(self, key: str, **values: object) -> str:
        """The text with its words in braces filled in."""
        return self[key].format(**values)

    def lines(self, key: str) -> list[str]:
        """A list of texts.

        Raises:
            TextError: there is none under that key.
        """
        found = self._find(key)
        if not isinstance(found, list):
            raise TextError(f"languages/{self.code}.yaml: {key} is no list")
        return [str(line) for line in found]


@functools.cache
def load(code: str = FIRST) -> Texts:
    """The texts of one language.

    Raises:
        TextError: there is no such language; the message names those that there are.
    """
    path = FOLDER / f"{code}.yaml"
    if path.parent != FOLDER or not path.is_file():
        known = ", ".join(sorted(path.stem for path in FOLDER.glob("*.yaml")))
        raise TextError(f"there is no page in the language {code!r}; there are {known}")
    return Texts(code, yaml.safe_load(path.read_text(encoding="utf-8")))
