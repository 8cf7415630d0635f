"""The history of a case: six optional fields, checked, and rendered as plain words before a first question.

A history may mislead a model that was not trained with any, such as the bundled default; `trained` returns what the
configuration claims.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from skingpt4.config.schema import Config
from skingpt4.model.prompts import IMAGE
from skingpt4.support.errors import UserError

AGE_BANDS = ("0-1", "2-11", "12-17", "18-29", "30-44", "45-64", "65-79", "80+")  # years
SKIN_TYPES = ("I", "II", "III", "IV", "V", "VI")  # Fitzpatrick 1 to 6
# What a form may offer; other words are accepted too.
SITES = (
    "face", "scalp", "neck", "chest", "back", "abdomen", "arm", "forearm", "hand", "nail", "groin", "genitals",
    "buttock", "thigh", "lower leg", "foot", "mouth", "whole body",
)  # fmt: skip
SYMPTOMS = ("itch", "pain", "burning", "bleeding", "weeping", "spreading", "fever", "none")
MAX_LENGTH = 120  # characters of a field


class HistoryError(UserError):
    """A field that cannot be used; the message says which and why."""


@dataclass(frozen=True)
class History:
    """What is known of a case; None and () mean not stated.

    `site`, `duration` and `medication` are short texts, `symptoms` several; `age_band` is one of AGE_BANDS and
    `fitzpatrick` 1 to 6. Use `from_fields` for text that people entered.

    Raises:
        HistoryError: a text that is too long or has several lines or a template's markers; an unknown band or type.
    """

    site: str | None = None
    duration: str | None = None
    symptoms: tuple[str, ...] = ()
    age_band: str | None = None
    fitzpatrick: int | None = None
    medication: str | None = None

    def __post_init__(self) -> None:
        for name in ("site", "duration", "medication"):
            _require_text(name, getattr(self, name))
        for symptom in self.symptoms:
            _require_text("symptoms", symptom)
        if self.age_band is not None and self.age_band not in AGE_BANDS:
            raise HistoryError(f"age_band: is one of {', '.join(AGE_BANDS)}, not {self.age_band!r}")
        if self.fitzpatrick is not None and self.fitzpatrick not in range(1, 7):
            raise HistoryError(f"fitzpatrick: is 1 to 6, not {self.fitzpatrick!r}")

    def __bool__(self) -> bool:
        return any(value not in (None, ()) for value in vars(self).values())

    def to_dict(self) -> dict[str, Any]:
        """JSON-able values; `from_fields` reads them back."""
        return asdict(self) | {"symptoms": list(self.symptoms)}


def _require_text(name: str, text: str | None) -> None:
    if text is None:
        return
    if not isinstance(text, str) or not text or text != text.strip() or not text.isprintable():
        raise HistoryError(f"{name}: is one line of words, not {text!r}")
    if len(text) > MAX_LENGTH:
        raise HistoryError(f"{name}: has {len(text)} characters; at most {MAX_LENGTH} are allowed")
    if IMAGE in text or re.search(r"<\|?[^<>]*\|?>|###", text):  # of turns and images in some template
        raise HistoryError(f"{name}: cannot contain a prompt template's markers; leave out <...> and ###")


def from_fields(
    site: str | None = None,
    duration: str | None = None,
    symptoms: str | Sequence[str] | None = None,
    age_band: str | None = None,
    fitzpatrick: str | int | None = None,
    medication: str | None = None,
) -> History:
    """A history from the fields of a form: empty means not stated, and runs of white space become one blank.

    Args:
        site: any words, or one of SITES.
        duration: any words, e.g. "2 weeks".
        symptoms: several, or one text with commas.
        age_band: one of AGE_BANDS.
        fitzpatrick: 1 to 6, or I to VI.
        medication: any words.

    Raises:
        HistoryError: a field that cannot be used.
    """
    several = symptoms.split(",") if isinstance(symptoms, str) else symptoms or ()
    skin_type: str | int | None = fitzpatrick
    if isinstance(skin_type, str):
        text = skin_type.strip().upper()
        skin_type = (
            SKIN_TYPES.index(text) + 1 if text in SKIN_TYPES else int(text) if text.isdecimal() else text
        )
    return History(
        _tidy(site), _tidy(duration), tuple(filter(None, map(_tidy, several))), _tidy(age_band),
        skin_type or None, _tidy(medication),  # type: ignore[arg-type]
    )  # fmt: skip


def _tidy(text: str | None) -> str | None:
    return " ".join(str(text).split()) or None if text is not None else None


def render(history: History) -> str:
    """The history in plain words, one sentence per stated field; empty if none is stated."""
    fields = {
        "Age": history.age_band and f"{history.age_band.replace('-', ' to ').replace('+', ' or more')} years",
        "Fitzpatrick skin type": history.fitzpatrick and SKIN_TYPES[history.fitzpatrick - 1],
        "Body site": history.site,
        "Since": history.duration,
        "Symptoms": ", ".join(history.symptoms),
        "Medication": history.medication,
    }
    return " ".join(f"{name}: {value.rstrip('.')}." for name, value in fields.items() if value)


def before(history: str, question: str) -> str:
    """A first question with a rendered history before it, if there is one."""
    return f"{history.strip()} {question}" if history.strip() else question


def trained(config: Config) -> bool:
    """Whether training put histories before first questions, as `prompt.histories` claims."""
    return config.prompt.histories
