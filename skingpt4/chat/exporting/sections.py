"""What an export of a consultation says: sections of paragraphs, tables and images, in the page's languages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from skingpt4.chat.checks.alarm import MALIGNANT
from skingpt4.chat.exporting.record import Consultation, ShownPicture
from skingpt4.chat.history import SKIN_TYPES
from skingpt4.chat.texts import FIRST, Texts, cautions, languages, load
from skingpt4.checkpoints.identity import DEMONSTRATION, UNKNOWN, UNTRAINED


@dataclass(frozen=True)
class Paragraph:
    """Text. `kind` is plain, soft, warn, label, verbatim (line breaks stay) or answer (the same, marked)."""

    text: str
    kind: str = "plain"


@dataclass(frozen=True)
class Table:
    """A table under its caption; with `headed` the first row is its head."""

    rows: list[list[str]]
    caption: str = ""
    headed: bool = False


@dataclass(frozen=True)
class Figure:
    """An image under its caption."""

    image: Image.Image
    caption: str


Part = Paragraph | Table | Figure
Section = tuple[str, list[Part]]  # heading and parts


def export_texts(language: str) -> Texts:
    """The texts of a language; English if the page does not have it. What people and models wrote stays as it is."""
    return load(language if language in languages() else FIRST)


def sections(consultation: Consultation, with_pictures: bool = True) -> list[Section]:
    """Everything that an export shows."""
    texts = export_texts(consultation.language)
    all_sections: list[Section] = [
        (texts["record.pictures"], list(_pictures(consultation, texts, with_pictures))),
        (texts["record.history"], list(_history(consultation.history, texts))),
        (texts["record.conversation"], list(_conversation(consultation, texts))),
        (texts["record.differential"], list(_differential(consultation.differential, texts))),
        (texts["record.model"], list(_model(consultation, texts))),
    ]
    return [(heading, parts) for heading, parts in all_sections if parts]


def _pictures(consultation: Consultation, texts: Texts, with_pictures: bool) -> Iterator[Part]:
    for number, shown in enumerate(consultation.pictures, 1):
        view = _named(texts, "pictures", shown.view) if shown.view else ""
        name = f"{texts['record.picture']} {number}" + (f" ({view})" if view else "")
        if with_pictures and shown.picture is not None:
            yield Figure(shown.picture, name)
        yield Table(_picture_rows(shown, texts), name)
        if shown.part_of is not None:
            yield Paragraph(
                texts("part.cut_from", sha256=shown.part_of.get("sha256"), box=shown.part_of.get("box"))
            )
        if not shown.asked:
            yield Paragraph(texts["part.set_aside"])
        for known in shown.remarks:
            yield Paragraph(_named(texts, "pictures.remarks", known), "warn")
        if shown.overridden:
            yield Paragraph(texts["record.overridden"], "warn")
    if consultation.pictures and not with_pictures:
        yield Paragraph(texts["record.not_included"], "soft")


def _picture_rows(shown: ShownPicture, texts: Texts) -> list[list[str]]:
    rows = [
        *([[texts["record.size"], f"{shown.width} × {shown.height}"]] if shown.width else []),
        [texts[f"record.sha256_{shown.hash_of}"], shown.sha256],
    ]
    if shown.quality is None:
        return [*rows, [texts["record.quality"], texts["record.not_assessed"]]]
    problems = [
        texts(
            "record.measure",
            problem=_named(texts, "quality", f"{p['kind']}.problem", p["kind"]),
            measure=_number(p["measure"]),
            threshold=_number(p["threshold"]),
        )
        for p in shown.quality.get("problems", [])
    ]
    rows.append([texts["record.quality"], _number(shown.quality.get("score"))])
    return [*rows, [texts["record.problems"], "\n".join(problems) or texts["record.none"]]]


def _history(history: dict[str, Any] | None, texts: Texts) -> Iterator[Part]:
    given = {k: v for k, v in (history or {}).items() if v not in (None, "", [], ()) and k != "trained"}
    if not given:
        return
    rows = []
    for key, value in given.items():
        if key == "site":
            value = _named(texts, "history.sites", value, value)
        elif key == "symptoms":
            value = [_named(texts, "history.symptoms_named", symptom, symptom) for symptom in value]
        elif key == "fitzpatrick" and value in range(1, 7):
            value = SKIN_TYPES[value - 1]
        group = "record" if key == "read_by_the_model" else "history"
        rows.append([_named(texts, group, key), _flat(value, texts)])
    yield Table(rows)
    if not (history or {}).get("trained", False):
        yield Paragraph(texts["record.untrained_history"], "soft")


def _conversation(consultation: Consultation, texts: Texts) -> Iterator[Part]:
    for number, turn in enumerate(consultation.turns, 1):
        yield Paragraph(f"{texts['record.question']} {number}", "label")
        yield Paragraph(turn.question, "verbatim")
        if turn.prompt and turn.prompt != turn.question:
            yield Paragraph(texts["record.prompt"], "label")
            yield Paragraph(turn.prompt, "verbatim")
        yield Paragraph(texts["record.answer"], "label")
        yield Paragraph(turn.answer or texts["record.no_answer"], "answer")
        for caution in cautions(turn.answer, texts):
            yield Paragraph(caution, "warn")
        facts = [
            f"{key} {_flat(value, texts)}" for key, value in turn.generation.items() if value is not None
        ]
        if turn.num_tokens is not None:
            facts.append(texts("record.tokens", count=turn.num_tokens))
        if turn.seconds is not None:
            facts.append(texts("record.seconds", seconds=f"{turn.seconds:.1f}"))
        if turn.stopped:
            facts.append(texts["record.stopped"])
        if facts:
            yield Paragraph(" · ".join(facts), "soft")
    if not consultation.turns:
        yield Paragraph(texts["record.no_turns"], "soft")


def _differential(ranking: dict[str, Any] | None, texts: Texts) -> Iterator[Part]:
    if not ranking:
        return
    yield Paragraph(texts["record.standing"], "warn")
    confident = bool(ranking.get("confident"))
    yield Paragraph(
        texts["record.confident" if confident else "record.not_confident"], "plain" if confident else "warn"
    )
    diseases = ranking.get("diseases") or []
    of_class = texts["record.likeliest" if diseases else "record.disease"]
    head = [texts["record.class"], of_class, texts["record.probability"]]
    rows = []
    for row in ranking.get("ranked", []):
        name = _named(texts, "classes", row["class_name"])
        rows.append([name, str(row.get("disease") or ""), _percent(row["probability"])])
    if rows:
        yield Table([head, *rows], headed=True)
    if ranking.get("threshold") is not None:
        yield Paragraph(texts("record.threshold", threshold=_percent(ranking["threshold"])), "soft")
    if (data := ranking.get("calibration")) in (None, "", "none"):
        yield Paragraph(texts["record.uncalibrated"], "soft")
    else:
        yield Paragraph(texts("record.calibration", name=data), "soft")
    if diseases:
        head = [texts["record.named"], texts["record.probability"]]
        names = [[str(row["name"]), _percent(row["probability"])] for row in diseases]
        yield Table([head, *names], texts["record.diseases"], headed=True)
    concepts = [
        [_named(texts, "concepts", row["name"]), _percent(row["probability"])]
        for row in ranking.get("concepts", [])
    ]
    if concepts:
        head = [texts["record.concept"], texts["record.probability"]]
        yield Table([head, *concepts], texts["record.concepts"], headed=True)
    yield from _advice(ranking, texts)


def _advice(ranking: dict[str, Any], texts: Texts) -> Iterator[Part]:
    """Warning signs, what that of skin cancer is worth, and next steps."""
    for key, kind in (("red_flags", "warn"), ("next_steps", "plain")):
        if ranking.get(key):
            yield Paragraph(texts[f"record.{key}"], "label")
            for text in ranking[key]:
                yield Paragraph(_flat(text, texts), kind)
        if key == "red_flags":
            for text in alarm_sentences(ranking.get("alarms") or [], texts):
                yield Paragraph(text, "soft")


def alarm_sentences(readings: Sequence[Mapping[str, Any]], texts: Texts) -> list[str]:
    """Whether the warning of skin cancer is shown, why, and how often it is right, in plain words.

    Args:
        readings: `AlarmReading.to_dict()` of each.
        texts: in the language of the reader.
    """
    sentences = []
    for reading in readings:
        kind, measured = reading["kind"], reading["measured"]
        what = texts["alarm.malignant"]
        if kind != MALIGNANT:
            what = texts("alarm.class", name=_named(texts, "classes", kind))
        shown = {"probability": _percent(reading["probability"]), "threshold": _percent(reading["threshold"])}
        first = texts(f"alarm.{'raised' if reading['raised'] else 'not_raised'}", what=what, **shown)
        second = texts["alarm.not_measured"]
        if measured is not None:
            counts = {key: measured[key] for key in ("caught", "malignant", "false_alarms", "others")}
            rates = {
                f"{name}_{part}": _percent(measured[name][part])
                for name in ("sensitivity", "false_alarm_rate")
                for part in ("value", "low", "high")
            }
            second = texts("alarm.measured", **counts, **rates)
        sentences.append(f"{first} {second}")
    return sentences


def _model(consultation: Consultation, texts: Texts) -> Iterator[Part]:
    caution = str(consultation.model.get("caution") or "")
    if caution:
        known = {DEMONSTRATION: "demonstration", UNTRAINED: "untrained", UNKNOWN: "unknown"}
        yield Paragraph(_named(texts, "banner", known.get(caution, ""), caution), "warn")
    rows = [
        [texts["record.id"], consultation.id],
        [texts["record.created"], consultation.created],
        [texts["record.software"], consultation.software],
    ]
    facts = {k: v for k, v in consultation.model.items() if v not in (None, "", []) and k != "caution"}
    yield Table(
        [*rows, *([_named(texts, "record.facts", key), _flat(value, texts)] for key, value in facts.items())]
    )


def _named(texts: Texts, group: str, name: str, otherwise: str | None = None) -> str:
    """The text for a name that records use; without one `otherwise`, or the name itself."""
    key = f"{group}.{name}"
    if texts.has(key):
        return texts[key]
    return name.replace("_", " ") if otherwise is None else otherwise


def _flat(value: Any, texts: Texts) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{key.replace('_', ' ')}: {_flat(inner, texts)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_flat(inner, texts) for inner in value)
    if isinstance(value, bool):
        return texts["record.yes" if value else "record.no"]
    return f"{value:g}" if isinstance(value, float) else str(value)


def _number(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "–" if value is None else str(value)


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"
