"""A consultation as a record: what was shown, asked and answered, by which model, and when.

Nothing here is kept on disk. The page fills the record while it talks; `skingpt4/chat/export.py` writes it as
HTML, PDF or JSON when the user asks for it. Pictures live in memory; an export carries one only on request.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from PIL import Image

from skingpt4 import __version__
from skingpt4.checkpoints import checkpoint
from skingpt4.records.images import open_image, to_rgb
from skingpt4.support.cli import DISCLAIMER
from skingpt4.support.errors import UserError
from skingpt4.support.files import now

FORMAT = "skingpt4.chat.record/1"
SHOWN_SIDE = 1200  # pixels of the longer side of a picture inside an export


class ConsultationError(UserError):
    """A record that cannot be read; the message says why."""


@functools.cache
def software_version() -> str:
    """Version of this package, with the git revision where there is one."""
    commit, changed, _ = (checkpoint.git_revision() or "").partition("+")
    return f"{__version__} ({commit[:12]}{' with changes' if changed else ''})" if commit else __version__


@dataclass
class ShownPicture:
    """One picture of the case.

    `sha256` is of the file as it was given, so that whoever has the file finds it again; of a picture that was no
    file it is that of its size and RGB pixels, and `hash_of` says "pixels". `overridden` says that the user went on
    although `quality` had problems.
    """

    sha256: str
    width: int
    height: int
    view: str | None = None
    quality: dict[str, Any] | None = None
    overridden: bool = False
    hash_of: str = "file"
    picture: Image.Image | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(
        cls,
        source: Image.Image | bytes,
        view: str | None = None,
        quality: Mapping[str, Any] | None = None,
        overridden: bool = False,
    ) -> ShownPicture:
        """Describe a picture, given as a file's bytes or as pixels; metadata such as EXIF is not kept.

        Raises:
            ImageError: the bytes are no picture.
        """
        if isinstance(source, bytes):
            picture, data, kind = open_image(source), source, "file"
        else:
            picture = to_rgb(source)
            data, kind = repr(picture.size).encode() + picture.tobytes(), "pixels"
        return cls(
            hashlib.sha256(data).hexdigest(), *picture.size, view,
            dict(quality) if quality is not None else None, overridden, kind, picture,
        )  # fmt: skip

    def to_dict(self, with_picture: bool = False) -> dict[str, Any]:
        """As JSON-able values; with `with_picture` the picture too, as a `data:` address."""
        facts = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "picture"}
        if with_picture and self.picture is not None:
            facts["picture"] = data_url(self.picture)
        return facts


def smaller(picture: Image.Image, side: int = SHOWN_SIDE) -> Image.Image:
    """A copy whose longer side has at most so many pixels."""
    copy = picture.copy()
    copy.thumbnail((side, side))
    return copy


def jpeg_bytes(picture: Image.Image) -> bytes:
    """An RGB picture as a JPEG file without metadata, no larger than an export shows it."""
    out = io.BytesIO()
    smaller(picture).save(out, "JPEG", quality=90)
    return out.getvalue()


def data_url(picture: Image.Image) -> str:
    """A picture as a `data:` address."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg_bytes(picture)).decode()


@dataclass
class Exchange:
    """A question and its answer. `prompt` is the question as the model read it, where that is another text."""

    question: str
    answer: str
    stopped: bool = False
    generation: dict[str, Any] = field(default_factory=dict)
    seconds: float | None = None
    num_tokens: int | None = None
    prompt: str | None = None


@dataclass
class Consultation:
    """Everything that an export shows.

    `model` is what `model_identity` says; `history`, `differential` and each picture's `quality` are the `to_dict()`
    of their own modules, so this record needs none of them.
    """

    model: dict[str, Any]
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    created: str = field(default_factory=now)
    software: str = field(default_factory=software_version)
    language: str = "en"
    pictures: list[ShownPicture] = field(default_factory=list)
    history: dict[str, Any] | None = None
    turns: list[Exchange] = field(default_factory=list)
    differential: dict[str, Any] | None = None
    disclaimer: str = DISCLAIMER

    def to_dict(self, with_pictures: bool = False) -> dict[str, Any]:
        """As JSON-able values; pictures by their hash, and themselves only with `with_pictures`."""
        return {
            "format": FORMAT,
            "disclaimer": self.disclaimer,
            "not_a_diagnosis": True,
            "id": self.id,
            "created": self.created,
            "software": self.software,
            "language": self.language,
            "model": self.model,
            "pictures": [picture.to_dict(with_pictures) for picture in self.pictures],
            "history": self.history,
            "turns": [asdict(turn) for turn in self.turns],
            "differential": self.differential,
        }

    def to_json(self, with_pictures: bool = False) -> str:
        """The record as JSON text that people can read too."""
        return json.dumps(self.to_dict(with_pictures), indent=1, ensure_ascii=False) + "\n"


def from_json(text: str, where: str = "the consultation") -> Consultation:
    """The inverse of `Consultation.to_json`; pictures that the text carries come back.

    Raises:
        ConsultationError: it is no such record.
    """
    try:
        row = json.loads(text)
        if row["format"] != FORMAT:
            raise ConsultationError(f"{where}: is of format {row['format']!r}, this version reads {FORMAT!r}")
        pictures = []
        for item in row["pictures"]:
            sent = item.pop("picture", None)
            shown = ShownPicture(**item)
            if sent is not None:
                shown.picture = open_image(base64.b64decode(sent.split(",", 1)[1]))
            pictures.append(shown)
        return Consultation(
            row["model"], row["id"], row["created"], row["software"], row["language"], pictures,
            row["history"], [Exchange(**turn) for turn in row["turns"]], row["differential"], row["disclaimer"],
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise ConsultationError(
            f"{where}: is no consultation as JSON ({type(error).__name__}: {error})"
        ) from None
