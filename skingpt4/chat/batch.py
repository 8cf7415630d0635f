"""Answers about many images, each with fresh state, as lines of JSON.

Lines are written in the order of the images, each as soon as it and those before it are ready, so a stopped run
continues where it was. An image that cannot be used gets a line with the reason, and the others are answered.
`OUTPUT.meta.json` says which model answered which questions how; a run with other settings is refused, so that lines
do not mix.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from skingpt4.chat.calibration import Calibration
from skingpt4.chat.differential import differential
from skingpt4.chat.quality import assess
from skingpt4.chat.session import ChatSession
from skingpt4.config.schema import Config
from skingpt4.generation.sampling import Generation
from skingpt4.model.network import SkinGPT4
from skingpt4.records.archives import StoreError, TooLarge, read_bytes
from skingpt4.records.images import MAX_BYTES, ImageError, open_image
from skingpt4.records.manifest import read_manifest
from skingpt4.support.errors import UserError, reason_of
from skingpt4.support.files import drop_truncated_line, write_text

SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".webp", ".heic", ".heif", ".avif", ".gif", ".bmp", ".tif", ".tiff", ".jp2", ".ppm")
)  # fmt: skip


Line = dict[str, Any]  # one JSON object


class BatchError(UserError):
    """Images or an output that cannot be used; the message says why."""


@dataclass(frozen=True)
class NamedImage:
    """An image file, and the name of the image in its line."""

    name: str
    path: Path


@dataclass(frozen=True)
class ImageAnswerer:
    """Says everything a model has to say about one RGB image, with fresh state.

    It may be called from several threads, whose answers are then decoded together.
    """

    model: SkinGPT4
    config: Config
    calibration: Calibration | None
    questions: tuple[str, ...]
    generation: Generation

    def __call__(self, image: Image.Image) -> Line:
        """JSON-able values.

        Returns:
            class (the likeliest of the 15), confident, probabilities, concepts (those with a probability), quality,
            and with questions: text, and turns where there are several.

        Raises:
            ChatError, DifferentialError: what they say.
        """
        session = ChatSession(self.model, self.config)
        try:
            session.add_image(image)
            ranking = differential(self.model, self.config, session.queries, self.calibration).to_dict()
            line: Line = {
                "class": ranking["ranked"][0]["class_name"],
                "confident": ranking["confident"],
                "probabilities": {row["class_name"]: row["probability"] for row in ranking["ranked"]},
                "concepts": {row["name"]: row["probability"] for row in ranking["concepts"]},
                "calibration": ranking["calibration"],
                "quality": assess(image).to_dict(),
            }
            answers = [session.ask(question, self.generation) for question in self.questions]
            if answers:
                line["text"] = "\n".join(answers)
            if len(answers) > 1:
                pairs = zip(self.questions, answers, strict=True)
                line["turns"] = [{"question": question, "answer": answer} for question, answer in pairs]
            return line
        finally:
            session.close()


def find_images(source: str | Path) -> list[NamedImage]:
    """The images of a folder and its subfolders by name, or of a manifest in its order, or a single image.

    Raises:
        BatchError: none of these, or a folder without images.
        RecordError: a manifest with a line that is not a record.
    """
    source = Path(source)
    if source.is_dir():
        paths = sorted(p for p in source.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        if not paths:
            raise BatchError(f"{source}: holds no pictures ({', '.join(sorted(SUFFIXES))})")
        return [NamedImage(path.relative_to(source).as_posix(), path) for path in paths]
    if not source.is_file():
        raise BatchError(f"{source}: is neither a folder with pictures nor a manifest")
    if source.suffix.lower() in SUFFIXES:
        return [NamedImage(source.name, source)]
    unique = dict.fromkeys(record.image_path for record in read_manifest(source))
    return [NamedImage(path.relative_to(source.parent).as_posix(), path) for path in unique]


def _finished_names(output: Path) -> set[str]:
    """The images that a stopped run has answered; a truncated last line is removed.

    Raises:
        BatchError: a line was not written by this program.
    """
    drop_truncated_line(output)
    names = set()
    with output.open(encoding="utf-8", newline="\n") as file:
        for number, line in enumerate(file, 1):
            try:
                names.add(json.loads(line)["image"])
            except (ValueError, KeyError, TypeError):
                where = f"{output}, line {number}"
                raise BatchError(f"{where}: was not written by this program; name another --output") from None
    return names


def _describe(image: NamedImage, answer: Callable[[Image.Image], Line]) -> Line:
    """An image's line: what `answer` says of it, or why it cannot be used."""
    try:
        data = read_bytes(image.path, MAX_BYTES)
    except FileNotFoundError:
        return _failed(image, "missing", "no such picture")
    except TooLarge as error:
        return _failed(image, "too_large", str(error))
    except (StoreError, OSError, ValueError) as error:
        return _failed(image, "unreadable", reason_of(error))
    began = time.perf_counter()
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        line = answer(open_image(data, image.name))
    except ImageError as error:
        return _failed(image, error.reason, str(error)) | {"sha256": sha256}
    except UserError as error:
        return _failed(image, "not_answered", str(error)) | {"sha256": sha256}
    seconds = round(time.perf_counter() - began, 3)
    return {"image": image.name, "sha256": sha256, **line, "seconds": seconds}


def _failed(image: NamedImage, reason: str, message: str) -> Line:
    if not message.startswith(image.name):
        message = f"{image.name}: {message}"
    return {"image": image.name, "error": reason, "message": message}


def in_order(
    images: Sequence[NamedImage], describe_one: Callable[[NamedImage], Line], jobs: int
) -> Iterator[Line]:
    """Lines in the order of the images, `jobs` of them under way at once."""
    waiting: deque[Future[Line]] = deque()
    with ThreadPoolExecutor(jobs) as pool:
        try:
            for image in images:
                waiting.append(pool.submit(describe_one, image))
                if len(waiting) >= 2 * jobs:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def run(
    images: Sequence[NamedImage],
    output: Path,
    meta: dict[str, Any],
    load: Callable[[], Callable[[Image.Image], Line]],
    jobs: int = 8,
    replace: bool = False,
) -> tuple[int, int]:
    """Answer what `output` does not hold yet.

    Args:
        images: in the order of the lines.
        output: the file of lines; appended to.
        meta: what made the lines; written beside them.
        load: loads the model and returns the function that answers about an RGB image; only called if needed.
        jobs: images under way at once.
        replace: delete earlier lines.

    Returns:
        (lines written now, how many of them are failures).

    Raises:
        BatchError: the output is in use, cannot be written, or was made with other settings.
    """
    meta_path = output.with_name(output.name + ".meta.json")
    try:
        file = output.open("a", encoding="utf-8")
    except OSError as error:
        raise BatchError(f"{output}: cannot be written ({error.strerror})") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BatchError(f"{output}: another run is writing it; wait for that one") from None
        if replace:
            file.truncate(0)
        finished = _finished_names(output)
        if finished and not (
            meta_path.is_file() and json.loads(meta_path.read_text(encoding="utf-8")) == meta
        ):
            raise BatchError(
                f"{output}: its lines were made by another model, question or setting; name another --output, or "
                "start again with --replace"
            )
        write_text(meta_path, json.dumps(meta, indent=1, ensure_ascii=False) + "\n")
        todo = [image for image in images if image.name not in finished]
        if not todo:
            return 0, 0
        answer, num_failures = load(), 0
        bar = tqdm(total=len(images), initial=len(images) - len(todo), unit="picture", desc=output.name)
        with bar:
            for line in in_order(todo, lambda image: _describe(image, answer), jobs):
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
                file.flush()
                num_failures += "error" in line
                bar.update()
    return len(todo), num_failures
