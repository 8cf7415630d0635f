"""The texts of the consultation page in several languages, from languages/*.yaml."""

from __future__ import annotations

import functools
import re
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from skingpt4.chat.checks.flags import flags
from skingpt4.support.errors import UserError, reason_of
from skingpt4.support.files import read_yaml
from skingpt4.support.parse import ParseError, parse_yaml
from skingpt4.support.regular import read_regular_text

CODE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})?")
FOLDER = Path(__file__).with_name("languages")
FIRST = "en"  # the language whose file the others are compared with


class TextError(UserError):
    """A language or a text that does not exist; the message says which."""


def languages() -> dict[str, str]:
    """Code and native name of every language that has a file, English first."""
    codes = {path.stem for path in FOLDER.glob("*.yaml")} | _added.keys()
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


_added: dict[str, Texts] = {}


def load(code: str = FIRST) -> Texts:
    """The texts of one language.

    Raises:
        TextError: there is no such language; the message lists those that exist.
    """
    return _added[code] if code in _added else _bundled(code)


@functools.cache
def _bundled(code: str) -> Texts:
    path = FOLDER / f"{code}.yaml"
    if path.parent != FOLDER or not path.is_file():
        known = ", ".join(sorted({path.stem for path in FOLDER.glob("*.yaml")} | _added.keys()))
        raise TextError(f"there is no page in the language {code!r}; there are {known}")
    return Texts(code, read_yaml(path))


def add_language(path: str | Path) -> Texts:
    """Offer one more language for as long as this program runs; its code is the file's name, such as fr.yaml.

    Raises:
        TextError: the file cannot be read, lacks texts or has others than en.yaml; the message names the first.
    """
    path = Path(path)
    if not CODE.fullmatch(path.stem) or path.suffix != ".yaml":
        raise TextError(f"{path}: a language's file is named after its code, such as fr.yaml or pt-BR.yaml")
    if (FOLDER / path.name).exists():
        raise TextError(f"{path}: the language {path.stem!r} is there already")
    try:
        table = parse_yaml(read_regular_text(path))
    except (OSError, UnicodeDecodeError) as error:
        raise TextError(f"{path}: cannot be read ({reason_of(error)})") from None
    except ParseError as error:
        raise TextError(f"{path}: is not YAML ({error})") from None
    problems = differences(table, load(FIRST).table)
    if problems:
        more = f", and {len(problems) - 1} more" if problems[1:] else ""
        raise TextError(f"{path}: {problems[0]}{more}; {FIRST}.yaml has all texts")
    _added[path.stem] = Texts(path.stem, table)
    return _added[path.stem]


def differences(table: Any, complete: dict[str, Any]) -> list[str]:
    """What keeps a language's texts from standing in for the complete ones, each with its key; empty if nothing."""
    texts, wanted = dict(flat(table)), dict(flat(complete))
    problems = [f"there is no text for {key}" for key in wanted if key not in texts]
    problems += [f"nothing shows the text {key}" for key in texts if key not in wanted]
    for key in wanted.keys() & texts.keys():
        text = texts[key]
        if not isinstance(text, str) or not text.strip():
            problems.append(f"the text {key} is empty, or not a text (put it in quotation marks)")
        elif _fields(text) != _fields(wanted[key]):
            names = ", ".join(sorted(_fields(wanted[key]))) or "nothing"
            problems.append(f"the text {key} needs in braces: {names}")
    return problems


def flat(table: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """(key, text) of nested texts; a list's by its numbers."""
    items = (
        table.items() if isinstance(table, dict) else enumerate(table) if isinstance(table, list) else None
    )
    if items is None:
        yield before[:-1], table
    else:
        for name, inner in items:
            yield from flat(inner, f"{before}{name}.")


def _fields(text: str) -> set[str]:
    """What a text has in braces."""
    try:
        return {
            "".join(filter(None, part[1:])) for part in string.Formatter().parse(text) if part[1] is not None
        }
    except ValueError:
        return {"(a brace that is not closed)"}


def cautions(answer: str, texts: Texts) -> list[str]:
    """The sentences to show beside an answer that has `flags`, one for each kind, with its words."""
    words: dict[str, list[str]] = {}
    for flag in flags(answer):
        words.setdefault(flag.kind, []).append(flag.words)
    return [texts(f"flags.{kind}", words="; ".join(each)) for kind, each in words.items()]
