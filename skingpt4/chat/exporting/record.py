"""A consultation as a record: what was shown, asked and answered, by which model, and when.

The record is only in memory. The page fills it during the conversation, and writes it as JSON, HTML or PDF
(`export.py`) when the user asks for it; images are included only on request.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import json
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from PIL import Image

from skingpt4 import __version__
from skingpt4.chat.checks.flags import to_rows
from skingpt4.checkpoints import checkpoint
from skingpt4.records.images import clean_rgb, num_pixels, open_image, remarks
from skingpt4.support.cli import DISCLAIMER
from skingpt4.support.errors import UserError
from skingpt4.support.files import now
from skingpt4.support.parse import parse_json

FORMAT = "skingpt4.consultation/1"
MAX_SIDE = 1200  # pixels of an image's longer side inside an export
# Of a record that is read, which anybody may have written: what it stands for in memory is bounded before it is made.
MAX_PICTURES = 24
MAX_VALUES = 20_000  # of JSON, with the commas in its texts
MAX_WORDS = 250_000  # characters beside the pictures
MAX_ROWS = 500  # of a list or an object in it: turns, classes, diseases of a training set, settings
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")  # it becomes a part of a file's name


class ConsultationError(UserError):
    """A record that cannot be read; the message says why."""


@functools.cache
def software_version() -> str:
    """Version of this package, with the git revision if there is one."""
    commit, changed, _ = (checkpoint.git_revision() or "").partition("+")
    return f"{__version__} ({commit[:12]}{' with changes' if changed else ''})" if commit else __version__


@dataclass
class ShownPicture:
    """One image of the case, of which `picture` is a reduced copy: all that a page or an export shows.

    `sha256` identifies the original file. An image that did not come as a file has the hash of its size and RGB
    pixels, and `hash_of` is "pixels". `overridden` says that the user used the image although `quality` had problems.
    `remarks` are keys of `records.images.REMARKS`. `part_of` names the picture that a part was cut from by its
    `sha256`, with the `box` (left, top, right, bottom, in pixels) in its reduced copy of this `size`. `asked` is
    False for a picture of which the model read only a part.
    """

    sha256: str
    width: int
    height: int
    view: str | None = None
    quality: dict[str, Any] | None = None
    overridden: bool = False
    hash_of: str = "file"
    remarks: list[str] = field(default_factory=list)
    part_of: dict[str, Any] | None = None
    asked: bool = True
    picture: Image.Image | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(
        cls,
        source: Image.Image | bytes,
        view: str | None = None,
        quality: Mapping[str, Any] | None = None,
        overridden: bool = False,
        image: Image.Image | None = None,
        known: Sequence[str] | None = None,
    ) -> ShownPicture:
        """Describe an image, given as a file's bytes or as pixels, without its metadata such as EXIF.

        Args:
            source: the file's bytes, or an image.
            view: far, middle or close.
            quality: `Quality.to_dict()`.
            overridden: it is used although `quality` has problems.
            image: what `open_image` returned for these bytes, if they were decoded already.
            known: what `remarks` returned for them, likewise.

        Raises:
            ImageError: the bytes are not an image.
        """
        if isinstance(source, bytes):
            image, kind = image or open_image(source), "file"
            known = remarks(source) if known is None else known
            digest = hashlib.sha256(source)
        else:
            image, kind, known = clean_rgb(source), "pixels", ()
            digest = hashlib.sha256(repr(image.size).encode())
            digest.update(image.tobytes())
        return cls(
            digest.hexdigest(), *image.size, view,
            dict(quality) if quality is not None else None, overridden, kind, list(known),
            picture=reduced_copy(image),
        )  # fmt: skip

    def to_dict(self, with_picture: bool = False) -> dict[str, Any]:
        """JSON-able values; with `with_picture` including the image as a `data:` URL."""
        facts = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "picture"}
        if with_picture and self.picture is not None:
            facts["picture"] = data_url(self.picture)
        return facts


def reduced_copy(image: Image.Image) -> Image.Image:
    """A copy of at most MAX_SIDE pixels a side; of a copy, another one with the same pixels."""
    copy = image.copy()
    copy.thumbnail((MAX_SIDE, MAX_SIDE))
    return copy


def jpeg_bytes(image: Image.Image) -> bytes:
    """An RGB image as a JPEG file without metadata, reduced to at most MAX_SIDE."""
    out = io.BytesIO()
    reduced_copy(image).save(out, "JPEG", quality=90)
    return out.getvalue()


def data_url(image: Image.Image) -> str:
    """An image as a `data:` URL, reduced like `jpeg_bytes`."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg_bytes(image)).decode()


@dataclass
class Exchange:
    """A question and its answer. `prompt` is the question as the model read it, if that is a different text."""

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

    `model` is the result of `model_identity`; `history`, `differential` and each image's `quality` are `to_dict()` of
    their own classes, so that this module needs none of them.
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
        """JSON-able values; images by their hash, and themselves only with `with_pictures`."""
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
            "turns": [asdict(turn) | {"flags": to_rows(turn.answer)} for turn in self.turns],
            "differential": self.differential,
        }

    def to_json(self, with_pictures: bool = False) -> str:
        """The record as readable JSON text."""
        return json.dumps(self.to_dict(with_pictures), indent=1, ensure_ascii=False) + "\n"


def from_json(
    text: str,
    where: str = "the consultation",
    size_of: Callable[[bytes], int] = num_pixels,
    opened: Callable[[bytes], Image.Image] = open_image,
) -> Consultation:
    """The inverse of `Consultation.to_json`, including the images that the text carries.

    Args:
        text: the record.
        where: what to call it in an error.
        size_of: counts the pixels of an image; a server does it in another process.
        opened: decodes an image, likewise.

    Raises:
        ConsultationError: it is not such a record.
    """
    if sum(map(text.count, ",[{")) > MAX_VALUES:
        raise ConsultationError(f"{where}: holds more than {MAX_VALUES} values")
    try:
        row = dict(parse_json(text))
    except (TypeError, ValueError):
        row = {}
    if row.get("format") != FORMAT:
        raise ConsultationError(f"{where}: is not a consultation as JSON in the format {FORMAT!r}")
    try:
        _check(row, len(text))
        return Consultation(
            row["model"], row["id"], row["created"], row["software"], row["language"],
            [_picture_from_json(item, size_of, opened) for item in row["pictures"]],
            row["history"], [_exchange_from_json(turn) for turn in row["turns"]], row["differential"],
            row["disclaimer"],
        )  # fmt: skip
    except ConsultationError as error:
        raise ConsultationError(f"{where}: {error}") from None
    except (KeyError, TypeError, ValueError):
        raise ConsultationError(
            f"{where}: is damaged or was changed by hand: a value is missing, or is of another kind"
        ) from None


def _check(row: dict[str, Any], num_characters: int) -> None:
    """What every reader relies on.

    Raises:
        ConsultationError: says what is wrong.
        KeyError, TypeError, ValueError: a value is missing, or of another kind.
    """
    json.dumps(row, allow_nan=False)  # NaN is no JSON, and the exports would pass it on
    for name in ("id", "created", "software", "language", "disclaimer"):
        if not isinstance(row[name], str):
            raise ConsultationError(f"is damaged: its {name} is not a text")
    if not _ID.fullmatch(row["id"]):
        raise ConsultationError("is damaged: its id is none that this software gives")
    if len(row["pictures"]) > MAX_PICTURES:
        raise ConsultationError(f"holds more than {MAX_PICTURES} pictures")
    urls = [dict(item).get("picture") for item in row["pictures"]]
    if num_characters - sum(len(url) for url in urls if isinstance(url, str)) > MAX_WORDS:
        raise ConsultationError(f"holds more than {MAX_WORDS} characters beside the pictures")
    if _most_rows(row) > MAX_ROWS:
        raise ConsultationError(f"holds a list of more than {MAX_ROWS} values")


def _most_rows(value: Any) -> int:
    """How many values the longest list or object in a value holds."""
    if not isinstance(value, dict | list):
        return 0
    inner = value.values() if isinstance(value, dict) else value
    return max(len(value), *map(_most_rows, inner), 0)


def _exchange_from_json(item: dict[str, Any]) -> Exchange:
    return Exchange(
        **{key: value for key, value in dict(item).items() if key != "flags"}
    )  # they follow from the answer


def _picture_from_json(
    item: dict[str, Any], size_of: Callable[[bytes], int], opened: Callable[[bytes], Image.Image]
) -> ShownPicture:
    facts = dict(item)
    url = facts.pop("picture", None)
    shown = ShownPicture(**facts)
    if url is not None:
        data = base64.b64decode(str(url).partition(",")[2])
        if size_of(data) > MAX_SIDE**2:
            raise ConsultationError("holds a picture that is larger than in any export")
        shown.picture = opened(data)
    return shown
