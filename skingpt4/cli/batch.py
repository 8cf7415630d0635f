"""Ask about many pictures, each with fresh state.

skingpt4 batch --images FOLDER --output answers.jsonl

One JSON object a line, in the order of the pictures, written as soon as it is there; the same command goes on where a
stopped run was. A picture that cannot be used gets a line with its reason, and the others are answered.

    {"image": "a.jpg", "sha256": "9f86...", "class": "acne_and_rosacea", "confident": false,
     "probabilities": {"acne_and_rosacea": 0.31, ...}, "concepts": {"Papule": 0.8, ...}, "quality": {...},
     "text": "...", "seconds": 1.9}
    {"image": "b.jpg", "error": "damaged", "message": "b.jpg: the picture is damaged (...)"}

`OUTPUT.meta.json` says which model answered which question how; a run with other settings does not mix with it.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from skingpt4.records.archives import StoreError, TooLarge, read_bytes
from skingpt4.records.images import MAX_BYTES, ImageError, open_image
from skingpt4.records.manifest import read_manifest
from skingpt4.support.errors import UserError, reported
from skingpt4.support.files import mend, write_text

SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".webp", ".heic", ".heif", ".avif", ".gif", ".bmp", ".tif", ".tiff", ".jp2", ".ppm")
)  # fmt: skip


class BatchError(UserError):
    """Pictures or an output that cannot be used; the message says why."""


@dataclass(frozen=True)
class Picture:
    """A picture by the name that its line has, and where it stands."""

    name: str
    path: Path


def find_pictures(source: str | Path) -> list[Picture]:
    """The pictures of a folder and its sub-folders by name, or of a manifest in its order.

    Raises:
        BatchError: neither, or no picture.
        RecordError: a manifest with a line that is no record.
    """
    source = Path(source)
    if source.is_dir():
        paths = sorted(p for p in source.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        found = [Picture(path.relative_to(source).as_posix(), path) for path in paths]
        if not found:
            raise BatchError(f"{source}: holds no pictures ({', '.join(sorted(SUFFIXES))})")
        return found
    if not source.is_file():
        raise BatchError(f"{source}: is neither a folder with pictures nor a manifest")
    if source.suffix.lower() in SUFFIXES:
        return [Picture(source.name, source)]
    paths = [record.image_path for record in read_manifest(source)]
    unique = dict.fromkeys(paths)
    return [Picture(path.relative_to(source.parent).as_posix(), path) for path in unique]


def done_names(output: Path) -> set[str]:
    """The pictures that a stopped run has answered; a line that a kill has torn is taken away.

    Raises:
        BatchError: a line is none of ours.
    """
    mend(output)
    names = set()
    with output.open(encoding="utf-8", newline="\n") as file:
        for number, line in enumerate(file, 1):
            try:
                names.add(json.loads(line)["image"])
            except (ValueError, KeyError, TypeError):
                where = f"{output}, line {number}"
                raise BatchError(f"{where}: is no answer of this program; name another --output") from None
    return names


def describe(picture: Picture, answer: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    """A picture's line: what `answer` says of it, or why it cannot be used."""
    try:
        data = read_bytes(picture.path, MAX_BYTES)
    except FileNotFoundError:
        return _failed(picture, "missing", "no such picture")
    except TooLarge as error:
        return _failed(picture, "too_large", str(error))
    except (StoreError, OSError, ValueError) as error:
        return _failed(picture, "unreadable", str(getattr(error, "strerror", None) or error))
    began = time.perf_counter()
    named = {"image": picture.name, "sha256": hashlib.sha256(data).hexdigest()}
    try:
        said = answer(open_image(data, picture.name))
    except ImageError as error:
        return _failed(picture, error.reason, str(error)) | {"sha256": named["sha256"]}
    except UserError as error:
        return _failed(picture, "not_answered", str(error)) | {"sha256": named["sha256"]}
    return named | said | {"seconds": round(time.perf_counter() - began, 3)}


def _failed(picture: Picture, reason: str, message: str) -> dict[str, Any]:
    name = picture.name
    return {
        "image": name,
        "error": reason,
        "message": message if message.startswith(name) else f"{name}: {message}",
    }


def in_order(
    pictures: Sequence[Picture], describe_one: Callable[[Picture], dict[str, Any]], jobs: int
) -> Iterator[dict[str, Any]]:
    """Lines in the order of the pictures, `jobs` of them under way at once."""
    waiting: deque[Future[dict[str, Any]]] = deque()
    with ThreadPoolExecutor(jobs) as pool:
        try:
            for picture in pictures:
                waiting.append(pool.submit(describe_one, picture))
                if len(waiting) >= 2 * jobs:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def run(
    pictures: Sequence[Picture],
    output: Path,
    meta: dict[str, Any],
    load: Callable[[], Callable[[Any], dict[str, Any]]],
    jobs: int = 8,
    replace: bool = False,
) -> tuple[int, int]:
    """Answer what `output` does not hold yet.

    Args:
        pictures: in the order of the lines.
        output: the file of lines; appended to.
        meta: what made the lines; kept beside them.
        load: loads the model and gives the function that answers about an RGB picture; only called if needed.
        jobs: pictures under way at once.
        replace: delete earlier lines.

    Returns:
        (lines written now, how many of them are failures).

    Raises:
        BatchError: the output is in use, cannot be written, or was made otherwise.
    """
    note = output.with_name(output.name + ".meta.json")
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
        done = done_names(output)
        if done and (not note.is_file() or json.loads(note.read_text(encoding="utf-8")) != meta):
            raise BatchError(
                f"{output}: its lines were made by another model, question or setting; name another --output, or "
                "begin anew with --replace"
            )
        write_text(note, json.dumps(meta, indent=1, ensure_ascii=False) + "\n")
        todo = [picture for picture in pictures if picture.name not in done]
        failures = 0
        answer = load() if todo else None
        lines = in_order(todo, lambda picture: describe(picture, answer), jobs) if answer else iter(())
        with tqdm(
            total=len(pictures), initial=len(pictures) - len(todo), unit="picture", desc=output.name
        ) as bar:
            for line in lines:
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
                file.flush()
                failures += "error" in line
                bar.update()
    return len(todo), failures


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        description="Ask about many pictures, each with fresh state; one JSON object a line.",
        epilog="The same command goes on where a stopped run was. Research software, not a medical device.",
    )
    add = result.add_argument
    add("--images", required=True, help="a folder, with its sub-folders, or a manifest (JSONL)")
    add("--output", required=True, type=Path, help="the file of lines, e.g. answers.jsonl")
    add("--config", help="a YAML file; its output_dir's newest checkpoint is used")
    add("--checkpoint", help="a checkpoint or a run's folder")
    add(
        "--question",
        action="append",
        help="ask this (default: the first clinical prompt); several are one talk",
    )
    add("--max-new-tokens", type=int, default=160, help="of an answer (default: %(default)s)")
    add("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    add("--beams", type=int, default=1)
    add("--seed", type=int, default=0)
    add("--jobs", type=int, default=8, help="pictures under way at once (default: %(default)s)")
    add("--no-text", action="store_true", help="classes and concepts alone, which is faster")
    add("--replace", action="store_true", help="delete earlier lines of the output and begin anew")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Answer all pictures; returns the exit status, 1 only if none could be answered at all."""
    args = parser().parse_args(argv)
    with reported() as status:
        if args.jobs < 1:
            raise BatchError("--jobs must be at least 1")
        pictures = find_pictures(args.images)

        from skingpt4.chat.session import CLINICAL_PROMPTS
        from skingpt4.checkpoints.identity import model_identity
        from skingpt4.checkpoints.load import config_and_checkpoint
        from skingpt4.generation.sampling import Generation
        from skingpt4.support.cli import DISCLAIMER

        generation = Generation(args.max_new_tokens, args.temperature, num_beams=args.beams, seed=args.seed)
        generation.options()
        config, path = config_and_checkpoint(args.config, args.checkpoint)
        identity = model_identity(config, path)
        questions = [] if args.no_text else args.question or [CLINICAL_PROMPTS[0]]
        meta = {
            "disclaimer": DISCLAIMER, "model": identity, "questions": questions, "generation": asdict(generation),
        }  # fmt: skip
        print(f"{DISCLAIMER} {identity['caution']}".strip(), file=sys.stderr)

        def load() -> Callable[[Any], dict[str, Any]]:
            from skingpt4.chat import calibration
            from skingpt4.chat.one_picture import AboutPicture
            from skingpt4.checkpoints.load import load_with_bar

            found = calibration.load(path)
            return AboutPicture(load_with_bar(config, path), config, found, tuple(questions), generation)

        written, failures = run(pictures, args.output, meta, load, args.jobs, args.replace)
        print(f"{args.output}: {written} lines written, {failures} of them failures", file=sys.stderr)
        if written and failures == written:
            raise BatchError(f"{args.output}: no picture could be answered; each line has its reason")
    return status.code
