"""A consultation as a FHIR R4B bundle (https://hl7.org/fhir/R4B): a file to import, sent nowhere.

The bundle is a collection of a preliminary DiagnosticReport, an Observation for each class, one for the concepts and
one for the diseases, Media for the pictures, and a Device for the model. It names no patient: whoever imports it adds
the subject. Codes are the project's own (`urn:x-skingpt4:...`) beside a text; nothing is mapped to SNOMED CT or ICD.
"""

from __future__ import annotations

import base64
import html
import json
import re
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from skingpt4.chat.exporting.export import to_html
from skingpt4.chat.exporting.record import Consultation, ConsultationError, ShownPicture, jpeg_bytes
from skingpt4.chat.exporting.sections import export_texts
from skingpt4.support.files import now

Resource = dict[str, Any]

URN = "urn:x-skingpt4"
UCUM = "http://unitsofmeasure.org"
URI = "urn:ietf:rfc:3986"  # FHIR's system of identifiers that are URIs
_IDS = uuid.UUID("c9b3b2a4-6f2e-5d0c-9a53-2f6b5d3f7a11")  # namespace of the bundles' own identifiers
_INSTANT = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?(Z|[+-]\d{2}:\d{2})")
_HEX = re.compile(r"[0-9a-f]{64}")


def to_fhir(consultation: Consultation, with_pictures: bool = False) -> bytes:
    """The bundle as JSON; the same consultation always gives the same bytes, but for the bundle's own time.

    Args:
        consultation: the record.
        with_pictures: put the reduced pictures into the Media, not only the hashes of the files.

    Raises:
        ConsultationError: the record's time is not one.
    """
    return (json.dumps(bundle(consultation, with_pictures), indent=1, ensure_ascii=False) + "\n").encode()


def validate(data: bytes) -> bool:
    """Check a bundle against the R4B model of fhir.resources; False if that library is not installed.

    Raises:
        ConsultationError: the bundle is not valid; the message names the elements.
    """
    try:
        from fhir.resources.R4B.bundle import Bundle
    except ImportError:
        return False
    try:
        Bundle.model_validate_json(data)
    except ValueError as error:
        places = sorted({".".join(map(str, each["loc"])) for each in getattr(error, "errors", list)()})
        raise ConsultationError(f"the FHIR bundle is not valid at {', '.join(places[:5]) or error}") from None
    return True


def bundle(consultation: Consultation, with_pictures: bool = False) -> Resource:
    """The bundle as nested values; see `to_fhir`."""
    return _Builder(consultation, with_pictures).bundle()


class _Builder:
    """Makes the resources of one consultation, which refer to one another."""

    def __init__(self, consultation: Consultation, with_pictures: bool) -> None:
        if not _INSTANT.fullmatch(consultation.created):
            raise ConsultationError(f"the time of the consultation, {consultation.created!r}, is not a time")
        self.record, self.with_pictures = consultation, with_pictures
        self.texts = export_texts(consultation.language)
        self.ranking: dict[str, Any] = consultation.differential or {}

    def bundle(self) -> Resource:
        media = [self._media(number, shown) for number, shown in enumerate(self.record.pictures, 1)]
        pictures = [self._reference(f"media/{number}") for number in range(1, len(media) + 1)]
        observations = list(self._observations(pictures))
        named = {"device": self._device(), **{f"media/{n}": each for n, each in enumerate(media, 1)}}
        named |= {f"observation/{n}": each for n, each in enumerate(observations, 1)}
        results = [self._reference(name) for name in named if name.startswith("observation/")]
        entries = {"report": self._report(results, pictures), **named}
        return {
            "resourceType": "Bundle",
            "identifier": {"system": f"{URN}:consultation", "value": self.record.id},
            "type": "collection",
            "timestamp": now(),
            "entry": [{"fullUrl": self._url(name), "resource": each} for name, each in entries.items()],
        }

    def _url(self, name: str) -> str:
        return f"urn:uuid:{uuid.uuid5(_IDS, f'{self.record.id}/{name}')}"

    def _reference(self, name: str) -> Resource:
        return {"reference": self._url(name)}

    def _report(self, results: list[Resource], pictures: list[Resource]) -> Resource:
        page = to_html(self.record, with_pictures=False).encode()
        standing = f"{self.texts['record.disclaimer']} {self._confidence()}".strip()
        report: Resource = {
            "resourceType": "DiagnosticReport",
            "language": self.texts.code,
            "text": _narrative(self.texts["record.title"], [standing, *self._likeliest()]),
            "identifier": [{"system": f"{URN}:consultation", "value": self.record.id}],
            "status": "preliminary",
            "code": {"text": self.texts["record.title"]},
            "effectiveDateTime": self.record.created,
            "issued": self.record.created,
            "conclusion": standing,
            "presentedForm": [
                {
                    "contentType": "text/html",
                    "language": self.texts.code,
                    "data": base64.b64encode(page).decode(),
                    "title": self.texts["record.title"],
                }
            ],
        }
        if results:
            report["result"] = results
        if pictures:
            report["media"] = [{"link": each} for each in pictures]
        return report

    def _confidence(self) -> str:
        if not self.ranking:
            return ""
        return self.texts["record.confident" if self.ranking.get("confident") else "record.not_confident"]

    def _likeliest(self) -> list[str]:
        rows = list(self.ranking.get("ranked", []))[:3]
        return [f"{self._class(row['class_name'])}: {100 * row['probability']:.1f} %" for row in rows]

    def _class(self, name: str) -> str:
        return self.texts[f"classes.{name}"] if self.texts.has(f"classes.{name}") else name

    def _observations(self, pictures: list[Resource]) -> Iterable[Resource]:
        for row in self.ranking.get("ranked", []):
            code = _code("class", row["class_name"], self._class(row["class_name"]))
            yield self._observation(code, pictures) | {"valueQuantity": _quantity(row["probability"])}
        for key, kind in (("concepts", "concept"), ("diseases", "disease")):
            rows = self.ranking.get(key) or []
            if rows:
                parts = [
                    {
                        "code": _code(kind, row["name"], row["name"]),
                        "valueQuantity": _quantity(row["probability"]),
                    }
                    for row in rows
                ]
                title = {"text": self.texts[f"record.{key}"]}
                yield self._observation(title, pictures) | {"component": parts}

    def _observation(self, code: Resource, pictures: list[Resource]) -> Resource:
        data = self.ranking.get("calibration")
        known = data not in (None, "", "none")
        how = self.texts("record.calibration", name=data) if known else self.texts["record.uncalibrated"]
        observation = {
            "resourceType": "Observation",
            "status": "preliminary",
            "code": code,
            "effectiveDateTime": self.record.created,
            "note": [{"text": f"{self.texts['record.disclaimer']} {how}"}],
            "device": self._reference("device"),
        }
        return observation | ({"derivedFrom": pictures} if pictures else {})

    def _media(self, number: int, shown: ShownPicture) -> Resource:
        title = f"{self.texts['record.picture']} {number}"
        content: Resource = {"title": title}
        if self.with_pictures and shown.picture is not None:
            data = base64.b64encode(jpeg_bytes(shown.picture)).decode()
            content |= {"contentType": "image/jpeg", "data": data}
        notes = [self.texts[f"pictures.remarks.{known}"] for known in shown.remarks]
        notes += [] if "data" in content else [self.texts["record.not_included"]]
        media: Resource = {
            "resourceType": "Media",
            "identifier": [_hash(shown.sha256, shown.hash_of)],
            "status": "completed",
            "createdDateTime": self.record.created,
            "content": content,
            "note": [{"text": f"{self.texts[f'record.sha256_{shown.hash_of}']}: {shown.sha256}"}]
            + [{"text": text} for text in notes],
        }
        if shown.view:
            media["view"] = {"text": shown.view}
        if shown.width and shown.height:
            media |= {"width": shown.width, "height": shown.height}
        return media

    def _device(self) -> Resource:
        model = self.record.model
        versions = {
            "software": self.record.software,
            **{key: model.get(key) for key in ("checkpoint", "step")},
        }
        notes = [self.texts["record.disclaimer"], str(model.get("caution") or "")]
        notes += [f"{key}: {_plain(model[key])}" for key in ("trained_on", "iteration") if model.get(key)]
        notes += [
            f"{key.replace('_', ' ')}: {model[key]}"
            for key in ("language_model", "template")
            if model.get(key)
        ]
        sha256 = str(model.get("sha256") or "")
        return {
            "resourceType": "Device",
            **({"identifier": [_hash(sha256, "tensors")]} if sha256 else {}),
            "deviceName": [{"name": self.texts["title"], "type": "model-name"}],
            "type": {"text": self.texts["subtitle"]},
            "version": [
                {"type": {"text": key}, "value": str(value)} for key, value in versions.items() if value
            ],
            "note": [{"text": text} for text in notes if text],
        }


def _code(kind: str, name: str, text: str) -> Resource:
    return {"coding": [{"system": f"{URN}:{kind}", "code": name, "display": text}], "text": text}


def _quantity(probability: float) -> Resource:
    return {"value": probability, "unit": "1", "system": UCUM, "code": "1"}


def _hash(sha256: str, what: str) -> Resource:
    """An identifier: of a file its name as RFC 6920 writes it, of anything else the hex digits."""
    if what == "file" and _HEX.fullmatch(sha256):
        digest = base64.urlsafe_b64encode(bytes.fromhex(sha256)).decode().rstrip("=")
        return {"system": URI, "value": f"ni:///sha-256;{digest}"}
    return {"system": f"{URN}:sha256-of-{what}", "value": sha256}


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {inner}" for key, inner in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _narrative(title: str, lines: list[str]) -> Resource:
    body = "".join(f"<p>{html.escape(line)}</p>" for line in (title, *lines) if line)
    return {"status": "generated", "div": f'<div xmlns="http://www.w3.org/1999/xhtml">{body}</div>'}
