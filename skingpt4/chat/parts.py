"""What an export of a consultation says: headed paragraphs, tables and pictures, in the page's languages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from PIL import Image

from skingpt4.chat.history import SKIN_TYPES
from skingpt4.chat.record import Consultation, ShownPicture
from skingpt4.chat.texts import FIRST, Texts, languages, load
from skingpt4.checkpoints.identity import DEMONSTRATION, UNKNOWN, UNTRAINED


@dataclass(frozen=True)
class Words:
    """A paragraph. `kind` is plain, soft, warn, label, said (lines stay) or answer (the same, marked)."""

    text: str
    kind: str = "plain"


@dataclass(frozen=True)
class Rows:
    """A table under its caption; with `headed` the first row is its head."""

    rows: list[list[str]]
    caption: str = ""
    headed: bool = False


@dataclass(frozen=True)
class Figure:
    """A picture with what it shows."""

    picture: Image.Image
    caption: str


Part = Words | Rows | Figure
Section = tuple[str, list[Part]]


def words(language: str) -> Texts:
    """The words of a language that the page has; English where it has not. What was written is never translated."""
    return load(language if language in languages() else FIRST)


def sections(consultation: Consultation, with_pictures: bool = True) -> list[Section]:
    """Everything that an export shows, as (heading, parts)."""
    said = words(consultation.language)
    found: list[Section] = [
        (said["record.pictures"], list(_pictures(consultation, said, with_pictures))),
        (said["record.history"], list(_history(consultation.history, said))),
        (said["record.conversation"], list(_conversation(consultation, said))),
        (said["record.differential"], list(_differential(consultation.differential, said))),
        (said["record.model"], list(_model(consultation, said))),
    ]
    return [(heading, parts) for heading, parts in found if parts]


def _pictures(consultation: Consultation, said: Texts, with_pictures: bool) -> Iterator[Part]:
    for number, shown in enumerate(consultation.pictures, 1):
        view = _named(said, "pictures", shown.view) if shown.view else ""
        name = f"{said['record.picture']} {number}" + (f" ({view})" if view else "")
        if with_pictures and shown.picture is not None:
            yield Figure(shown.picture, name)
        yield Rows(_picture_rows(shown, said), name)
        if shown.overridden:
            yield Words(said["record.overridden"], "warn")
    if consultation.pictures and not with_pictures:
        yield Words(said["record.not_included"], "soft")


def _picture_rows(shown: ShownPicture, said: Texts) -> list[list[str]]:
    rows = [
        [said["record.size"], f"{shown.width} × {shown.height}"],
        [said[f"record.sha256_{shown.hash_of}"], shown.sha256],
    ]
    if shown.quality is None:
        return [*rows, [said["record.quality"], said["record.not_assessed"]]]
    problems = [
        said(
            "record.measure",
            problem=_named(said, "quality", f"{p['kind']}.problem", p["kind"]),
            measure=_number(p["measure"]),
            threshold=_number(p["threshold"]),
        )
        for p in shown.quality.get("problems", [])
    ]
    rows.append([said["record.quality"], _number(shown.quality.get("score"))])
    return [*rows, [said["record.problems"], "\n".join(problems) or said["record.none"]]]


def _history(history: dict[str, Any] | None, said: Texts) -> Iterator[Part]:
    given = {k: v for k, v in (history or {}).items() if v not in (None, "", [], ()) and k != "trained"}
    if not given:
        return
    rows = []
    for key, value in given.items():
        if key == "site":
            value = _named(said, "history.sites", value, value)
        elif key == "symptoms":
            value = [_named(said, "history.symptoms_named", symptom, symptom) for symptom in value]
        elif key == "fitzpatrick" and value in range(1, 7):
            value = SKIN_TYPES[value - 1]
        group = "record" if key == "read_by_the_model" else "history"
        rows.append([_named(said, group, key), _flat(value, said)])
    yield Rows(rows)
    if not (history or {}).get("trained", False):
        yield Words(said["record.untrained_history"], "soft")


def _conversation(consultation: Consultation, said: Texts) -> Iterator[Part]:
    for number, turn in enumerate(consultation.turns, 1):
        yield Words(f"{said['record.question']} {number}", "label")
        yield Words(turn.question, "said")
        if turn.prompt and turn.prompt != turn.question:
            yield Words(said["record.prompt"], "label")
            yield Words(turn.prompt, "said")
        yield Words(said["record.answer"], "label")
        yield Words(turn.answer or said["record.no_answer"], "answer")
        facts = [f"{key} {_flat(value, said)}" for key, value in turn.generation.items() if value is not None]
        if turn.num_tokens is not None:
            facts.append(said("record.tokens", count=turn.num_tokens))
        if turn.seconds is not None:
            facts.append(said("record.seconds", seconds=f"{turn.seconds:.1f}"))
        if turn.stopped:
            facts.append(said["record.stopped"])
        if facts:
            yield Words(" · ".join(facts), "soft")
    if not consultation.turns:
        yield Words(said["record.no_turns"], "soft")


def _differential(found: dict[str, Any] | None, said: Texts) -> Iterator[Part]:
    if not found:
        return
    yield Words(said["record.standing"], "warn")
    confident = bool(found.get("confident"))
    yield Words(
        said["record.confident" if confident else "record.not_confident"], "plain" if confident else "warn"
    )
    head = [said["record.class"], said["record.disease"], said["record.probability"]]
    ranked = [
        [_class(said, row["class_name"]), str(row.get("disease") or ""), _percent(row["probability"])]
        for row in found.get("ranked", [])
    ]
    if ranked:
        yield Rows([head, *ranked], headed=True)
    if found.get("threshold") is not None:
        yield Words(said("record.threshold", threshold=_percent(found["threshold"])), "soft")
    name = found.get("calibration")
    yield Words(
        said["record.uncalibrated"] if name in (None, "", "none") else said("record.calibration", name=name),
        "soft",
    )
    concepts = [
        [_named(said, "concepts", row["name"]), _percent(row["probability"])]
        for row in found.get("concepts", [])
    ]
    if concepts:
        yield Rows(
            [[said["record.concept"], said["record.probability"]], *concepts],
            said["record.concepts"],
            headed=True,
        )
    for key, kind in (("red_flags", "warn"), ("next_steps", "plain")):
        if found.get(key):
            yield Words(said[f"record.{key}"], "label")
            for text in found[key]:
                yield Words(_flat(text, said), kind)


def _model(consultation: Consultation, said: Texts) -> Iterator[Part]:
    caution = str(consultation.model.get("caution") or "")
    if caution:
        known = {DEMONSTRATION: "demonstration", UNTRAINED: "untrained", UNKNOWN: "unknown"}
        yield Words(_named(said, "banner", known.get(caution, ""), caution), "warn")
    rows = [
        [said["record.id"], consultation.id],
        [said["record.created"], consultation.created],
        [said["record.software"], consultation.software],
    ]
    facts = {k: v for k, v in consultation.model.items() if v not in (None, "", []) and k != "caution"}
    yield Rows(
        [*rows, *([_named(said, "record.facts", key), _flat(value, said)] for key, value in facts.items())]
    )


def _named(said: Texts, group: str, name: str, otherwise: str | None = None) -> str:
    """A name of the records in words; where there are none the name itself, or what it is `otherwise`."""
    key = f"{group}.{name}"
    return said[key] if said.has(key) else name.replace("_", " ") if otherwise is None else otherwise


def _flat(value: Any, said: Texts) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{key.replace('_', ' ')}: {_flat(inner, said)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_flat(inner, said) for inner in value)
    if isinstance(value, bool):
        return said["record.yes" if value else "record.no"]
    return f"{value:g}" if isinstance(value, float) else str(value)


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "–" if value is None else str(value)


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _class(said: Texts, name: str) -> str:
    return _named(said, "classes", name)
