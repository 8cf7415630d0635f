"""A row of people's own tables as fields of a record, and what identifies a person in them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from data.reading.rows import RowError, did_you_mean
from data.reading.values import (
    Diagnosis,
    as_text,
    list_of_texts,
    listed,
    literal,
    parse_diagnosis,
    parse_skin_type,
)
from skingpt4.records.blanks import is_blank
from skingpt4.records.schema import CLASS_NAMES
from skingpt4.taxonomy.taxonomy import CONCEPTS, concept

# Free texts of a record.
SCANNED = ("note", "caption", "disease", "body_site", "turns", "x_history", "x_reference", "x_references")
ROUNDED = re.compile(
    r"[0-9](?:[.,][0-9]+)?E\+[0-9]{1,3}"
)  # what Excel makes of a number of twelve digits or more
MAX_SHOWN = 40  # characters of a value that a refusal shows


@dataclass
class Row:
    """The values of a row by key, to be read one by one.

    `blanks` counts by key the cells, of this and other rows, in which a word stands for nothing; `remarks` are this
    row's own.
    """

    values: Mapping[str, Any]
    blanks: Counter[str] = field(default_factory=Counter)
    remarks: list[str] = field(default_factory=list)

    def text(self, key: str) -> str | None:
        """A text; None where nothing is given, or only a word for it.

        Raises:
            RowError: a list or an object.
        """
        value = self.values.get(key)
        text = as_text(key, value)
        if not is_blank(text):
            return text
        if text or value != value:  # a word, or NaN
            self.blanks[key] += 1
        return None

    def identifier(self, key: str) -> str | None:
        """What identifies a case or a patient.

        Raises:
            RowError: a spreadsheet has rounded it, so that different ones look alike.
        """
        text = self.text(key)
        if text is not None and ROUNDED.fullmatch(text):
            raise RowError(
                "bad_value",
                f"{key!r} is {text!r}: a spreadsheet rounded it; format the column as text, export again",
            )
        return text

    def diagnosis(self, key: str) -> Diagnosis:
        """The disease and its class; see `parse_diagnosis`."""
        result = parse_diagnosis(key, self._value(key))
        self._remark(result.remark)
        return result

    def skin_type(self, key: str) -> int | None:
        """A Fitzpatrick type; see `parse_skin_type`."""
        number, remark = parse_skin_type(self._value(key))
        self._remark(remark)
        return number

    def class_name(self, key: str) -> str | None:
        """A class name of the paper.

        Raises:
            RowError: another name.
        """
        name = self.text(key)
        if name is not None and name not in CLASS_NAMES:
            raise RowError(
                "unknown_class",
                f"class {name[:MAX_SHOWN]!r} is none of the paper's{did_you_mean(name[:MAX_SHOWN], CLASS_NAMES)}",
            )
        return name

    def concepts(self, key: str) -> list[str] | None:
        """SKINCON's names, in SKINCON's order, out of a list or a text; None where nothing is given.

        Raises:
            RowError: an unknown name.
        """
        names = listed(key, self._value(key), ",;|")
        known = set()
        for name in names or ():
            spelled = concept(name)
            if spelled is None:
                name = name[:MAX_SHOWN]
                raise RowError(
                    "unknown_concept",
                    f"{name!r} is none of SKINCON's 48 concepts{did_you_mean(name, CONCEPTS)}",
                )
            known.add(spelled)
        return None if names is None else [name for name in CONCEPTS if name in known]

    def turns(self, key: str) -> list[dict[str, str]] | None:
        """A dialogue, out of a list or a JSON or Python text, without turns that say nothing; None for none.

        Raises:
            RowError: not a list of questions with answers.
        """
        value = self._value(key)
        if isinstance(value, str) and value.strip():
            try:
                value = literal(value)
            except ValueError as error:
                raise RowError("bad_value", f"{key!r} {error}") from None
        if not value:
            return None
        if not isinstance(value, list) or not all(
            isinstance(t, dict) and t.keys() == {"question", "answer"} for t in value
        ):
            raise RowError("bad_value", f"{key!r} must be a list of objects with 'question' and 'answer'")
        turns = [{part: as_text(part, turn[part]) for part in ("question", "answer")} for turn in value]
        full = [turn for turn in turns if not any(map(is_blank, turn.values()))]
        self.blanks[key] += len(turns) - len(full)
        return full or None

    def paths(self, key: str) -> list[str]:
        """Paths of images, out of one text or a list; a word for nothing is none.

        Raises:
            RowError: an item that is not a text.
        """
        return listed(key, self._value(key)) or []

    def answers(self, key: str) -> list[str]:
        """A text or a list of texts that answer one question each; an item that says nothing is an empty text.

        Raises:
            RowError: an item that is not a text.
        """
        items = list_of_texts(self.values.get(key))
        if items is None:
            text = self.text(key)
            return [] if text is None else [text]
        texts = [as_text(key, item) for item in items]
        return ["" if is_blank(text) else text for text in texts]

    def _value(self, key: str) -> Any:
        """The value, None where a word stands for nothing."""
        value = self.values.get(key)
        if isinstance(value, list | dict) or (isinstance(value, str) and value.strip() in ("[]", "{}")):
            return value
        return self.text(key)

    def _remark(self, remark: str | None) -> None:
        if remark and remark not in self.remarks:
            self.remarks.append(remark)


def treat_phi(fields: dict[str, Any], phi: str) -> tuple[str, ...]:
    """Refuse, redact or allow what identifies a person in a row's texts; changes `fields` and returns remarks.

    Raises:
        RowError: `phi` is "refuse" and something was found; names the kinds, never the text.
    """
    from data.reading.phi import redact, scan  # here: processes that only read images import this file too

    kinds: set[str] = set()

    def treat(text: str) -> str:
        kinds.update(finding.kind for finding in scan(text))
        return redact(text) if phi == "redact" else text

    for key in SCANNED:
        if fields.get(key):
            fields[key] = each_text(fields[key], treat)
    if not kinds:
        return ()
    if phi == "refuse":
        raise RowError("phi", f"seems to identify a person: {', '.join(sorted(kinds))}")
    fields["phi"] = "redacted" if phi == "redact" else "allowed"
    return (f"with what seems to identify a person, {fields['phi']}",)


def each_text(value: Any, change: Callable[[str], str]) -> Any:
    """The same text, list or object with every text in it changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [each_text(item, change) for item in value]
    return {key: each_text(item, change) for key, item in value.items()} if isinstance(value, dict) else value
