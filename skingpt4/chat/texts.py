"""The texts of the consultation page in several languages, from languages/*.yaml."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import yaml

from skingpt4.chat.checks.flags import flags
from skingpt4.support.errors import UserError

FOLDER = Path(__file__).with_name("languages")
FIRST = "en"  # the language whose file the others are compared with


class TextError(UserError):
    """A language or a text that does not exist; the message says which."""


def languages() -> dict[str, str]:
    """Code and native name of every language that has a file, English first."""
    codes = sorted(path.stem for path in FOLDER.glob("*.yaml"))
    return {code: load(code)["language"] for code in sorted(codes, key=lambda code: (code != FIRST, code))}


class Texts:
    """One language: `texts["chat.ask"]` is a text, `texts("pictures.alt", number=1)` one with its fields filled in.

    Args:
        code: of the language, as in HTML's `lang`.
        table: nested texts.
    """

    def __init__(self, code: str, table: dict[str, Any]) -> None:
        self.code, self.table = code, table

    def _find(self, key: str) -> Any:
        value: Any = self.table
        for part in key.split("."):
            if not isinstance(value, dict) or part not in value:
                raise TextError(f"languages/{self.code}.yaml: there is no {key}")
            value = value[part]
        return value

    def __getitem__(self, key: str) -> str:
        text = self._find(key)
        if not isinstance(text, str):
            raise TextError(f"languages/{self.code}.yaml: {key} is not a single text")
        return text

    def has(self, key: str) -> bool:
        """Whether the key exists."""
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
            TextError: there is no list under that key.
        """
        lines = self._find(key)
        if not isinstance(lines, list):
            raise TextError(f"languages/{self.code}.yaml: {key} is not a list")
        return [str(line) for line in lines]


@functools.cache
def load(code: str = FIRST) -> Texts:
    """The texts of one language.

    Raises:
        TextError: there is no such language; the message lists those that exist.
    """
    path = FOLDER / f"{code}.yaml"
    if path.parent != FOLDER or not path.is_file():
        known = ", ".join(sorted(path.stem for path in FOLDER.glob("*.yaml")))
        raise TextError(f"there is no page in the language {code!r}; there are {known}")
    return Texts(code, yaml.safe_load(path.read_text(encoding="utf-8")))


def cautions(answer: str, texts: Texts) -> list[str]:
    """The sentences to show beside an answer that reassures or names a dose, one for each kind, with its words."""
    words: dict[str, list[str]] = {}
    for flag in flags(answer):
        words.setdefault(flag.kind, []).append(flag.words)
    return [texts(f"flags.{kind}", words="; ".join(each)) for kind, each in words.items()]
