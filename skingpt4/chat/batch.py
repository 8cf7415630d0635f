"""Answers about many images, each with fresh state, as lines of JSON.

Lines are written in the order of the images, each as soon as it and those before it are ready, so a stopped run
continues where it was. An image that cannot be used gets a line with the reason, and the others are answered. If it
was away and is back when the same command runs again, its answer takes the place of that line, at the end.
`OUTPUT.meta.json` says which model answered which questions how; a run with other settings is refused, so that lines
do not mix.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from PIL import Image
from tqdm import tqdm

from skingpt4.chat.checks import flags
from skingpt4.chat.checks.quality import assess
from skingpt4.chat.differential import Ranker
from skingpt4.chat.session import ChatSession
from skingpt4.config.schema import Config
from skingpt4.generation.sampling import Generation
from skingpt4.model.network import SkinGPT4
from skingpt4.records.archives import StoreError, TooLarge, read_bytes
from skingpt4.records.folders import NamedImage
from skingpt4.records.images import MAX_BYTES, PASSING, ImageError, open_image, remarks
from skingpt4.records.naming import hint, readable
from skingpt4.support.errors import UserError, reason_of
from skingpt4.support.files import drop_truncated_line, write_text
from skingpt4.support.locks import lock
from skingpt4.support.parse import read_json_object
from skingpt4.support.remote.http import RemoteError

Line = dict[str, Any]  # one JSON object


class BatchError(UserError):
    """Images or an output that cannot be used; the message says why."""


class Result(NamedTuple):
    """Lines written by a run, how many of them are failures, and failures of earlier runs that are still there."""

    num_lines: int
    num_failures: int
    num_earlier_failures: int


@dataclass(frozen=True)
class ImageAnswerer:
    """Says everything a model has to say about one RGB image, with fresh state.

    It may be called from several threads, whose answers are then decoded together.
    """

    model: SkinGPT4
    config: Config
    ranker: Ranker
    questions: tuple[str, ...]
    generation: Generation

    def __call__(self, image: Image.Image) -> Line:
        """JSON-able values.

        Returns:
            class (the likeliest of the 15), confident, probabilities, concepts (those with a probability), diseases
            (the likeliest, where the checkpoint says what it was taught), quality,
            and with questions: text, flags (see `checks.flags`), and turns where there are several.

        Raises:
            ChatError, DifferentialError: what they say.
        """
        session = ChatSession(self.model, self.config)
        try:
            session.add_image(image)
            ranking = self.ranker.rank(session.queries).to_dict()
            line: Line = {
                "class": ranking["ranked"][0]["class_name"],
                "confident": ranking["confident"],
                "probabilities": {row["class_name"]: row["probability"] for row in ranking["ranked"]},
                "concepts": {row["name"]: row["probability"] for row in ranking["concepts"]},
                **({"diseases": _named(ranking["diseases"])} if "diseases" in ranking else {}),
                "calibration": ranking["calibration"],
                "quality": assess(image).to_dict(),
            }
            answers = [session.ask(question, self.generation) for question in self.questions]
            if answers:
                line["text"] = "\n".join(answers)
                line["flags"] = [row for answer in answers for row in flags.to_rows(answer)]
            if len(answers) > 1:
                pairs = zip(self.questions, answers, strict=True)
                line["turns"] = [{"question": question, "answer": answer} for question, answer in pairs]
            return line
        finally:
            session.close()


def _named(diseases: Sequence[dict[str, Any]]) -> dict[str, float]:
    return {row["name"]: row["probability"] for row in diseases}


@dataclass(frozen=True)
class _Written:
    """A line of an earlier run: the image's name, why it failed (None: it did not), and the text."""

    name: str
    error: str | None
    text: str


def _read_lines(output: Path) -> list[_Written]:
    """What a stopped run has written; a truncated last line is removed.

    Raises:
        BatchError: a line was not written by this program.
    """
    drop_truncated_line(output)
    lines = []
    if output.is_file():
        with output.open(encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            for number, text in enumerate(file, 1):
                try:
                    row = json.loads(text)
                    lines.append(_Written(str(row["image"]), row.get("error"), text))
                except (ValueError, KeyError, TypeError, AttributeError):
                    where = f"{output}, line {number}"
                    raise BatchError(
                        f"{where}: was not written by this program; name another --output"
                    ) from None
    return lines


def _came_back(line: _Written, paths: dict[str, Path]) -> bool:
    """Whether an image could not be read in an earlier run and can be now."""
    if line.error not in PASSING or line.name not in paths:
        return False
    try:
        read_bytes(paths[line.name], MAX_BYTES)
    except (OSError, ValueError, StoreError):
        return False
    return True


def _describe(image: NamedImage, answer: Callable[[Image.Image], Line]) -> Line:
    """An image's line: what `answer` says of it, or why it cannot be used."""
    try:
        data = read_bytes(image.path, MAX_BYTES)
    except FileNotFoundError:
        return _failed(image, "missing", f"no such picture{hint(image.path)}")
    except TooLarge as error:
        return _failed(image, "too_large", str(error).removeprefix(f"{image.path}: "))
    except (StoreError, OSError, ValueError) as error:
        return _failed(image, "unreadable", reason_of(error))
    began = time.perf_counter()
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        opened, known = open_image(data, readable(image.name)), remarks(data)
        line = answer(opened) | ({"remarks": list(known)} if known else {})
    except ImageError as error:
        return _failed(image, error.reason, str(error)) | {"sha256": sha256}
    except RemoteError:  # the engine is gone: no fault of this image, and no line about it
        raise
    except UserError as error:
        return _failed(image, "not_answered", str(error)) | {"sha256": sha256}
    seconds = round(time.perf_counter() - began, 3)
    return {"image": image.name, "sha256": sha256, **line, "seconds": seconds}


def _failed(image: NamedImage, reason: str, message: str) -> Line:
    name = readable(image.name)
    if not message.startswith(name):
        message = f"{name}: {message}"
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
) -> Result:
    """Answer what `output` does not hold yet, and what could not be read in an earlier run and can be read now.

    Other failures stay in the output with their reason.

    Args:
        images: in the order of the lines.
        output: the file of lines; appended to.
        meta: what made the lines; written beside them.
        load: loads the model and returns the function that answers about an RGB image; only called if needed.
        jobs: images under way at once.
        replace: delete earlier lines.

    Raises:
        BatchError: the output is in use, cannot be written, or was made with other settings.
        RemoteError: the engine does not answer; the lines up to there are written.
    """
    with _opened(images, output, meta, replace) as (file, lines):
        finished = {line.name for line in lines}
        earlier = sum(line.error is not None for line in lines)
        todo = [image for image in images if image.name not in finished]
        if not todo:
            return Result(0, 0, earlier)
        answer, num_failures = load(), 0
        bar = tqdm(total=len(images), initial=len(images) - len(todo), unit="picture", desc=output.name)
        with bar:
            for line in in_order(todo, lambda image: _describe(image, answer), jobs):
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
                file.flush()
                num_failures += "error" in line
                bar.update()
    return Result(len(todo), num_failures, earlier)


@contextmanager
def _opened(
    images: Sequence[NamedImage], output: Path, meta: dict[str, Any], replace: bool
) -> Iterator[tuple[TextIO, list[_Written]]]:
    """The output, locked and open for appending, and the lines in it that stay; raises as `run`."""
    with ExitStack() as stack:
        try:
            lock(stack.enter_context(output.with_name(f".{output.name}.lock").open("a")), str(output))
            if replace:
                output.unlink(missing_ok=True)
            lines = _read_lines(output)
            meta_path = output.with_name(f"{output.name}.meta.json")
            if lines and not _holds(meta_path, meta):
                raise BatchError(
                    f"{output}: its lines were made by another model, question or setting; name another --output, "
                    "or start again with --replace"
                )
            paths = {image.name: image.path for image in images}
            staying = [line for line in lines if not _came_back(line, paths)]
            if len(staying) < len(lines):
                write_text(output, "".join(line.text for line in staying))
            write_text(meta_path, json.dumps(meta, indent=1, ensure_ascii=False) + "\n")
            # A file name that is not UTF-8 becomes an escape of JSON, which is read back as that name.
            file = stack.enter_context(output.open("a", encoding="utf-8", errors="backslashreplace"))
        except BlockingIOError:
            raise BatchError(f"{output}: another run is writing it; wait for that one") from None
        except OSError as error:
            raise BatchError(f"{output}: cannot be written ({error.strerror})") from None
        yield file, staying


def _holds(meta_path: Path, meta: dict[str, Any]) -> bool:
    """Whether the file says that its lines were made in this way."""
    try:
        return bool(read_json_object(meta_path) == meta)
    except (OSError, ValueError):
        return False
