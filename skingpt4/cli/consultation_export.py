"""Make HTML, PDF or FHIR of a consultation that was saved as JSON: skingpt4 consultation-export."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from skingpt4.support.cli import make_parser
from skingpt4.support.errors import reason_of, reported
from skingpt4.support.regular import read_regular_text

if TYPE_CHECKING:
    from skingpt4.chat.exporting.record import Consultation


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = make_parser(
        "Make a page, a PDF, a FHIR bundle or a letter of a consultation that was saved as JSON; or FHIR bundles of "
        "the lines that `skingpt4 batch` wrote. Nothing is sent anywhere. Not a diagnosis."
    )
    add = result.add_argument
    add("consultation", type=Path, help="the JSON export, or the .jsonl of `skingpt4 batch`")
    add("--html", type=Path, help="write this page")
    add("--pdf", type=Path, help="write this PDF")
    add(
        "--fhir",
        type=Path,
        help="write this FHIR R4B bundle (JSON); of a .jsonl a folder, a bundle a picture",
    )
    add("--letter", type=Path, help="write this letter to the patient in plain words: .txt or .pdf")
    add(
        "--with-pictures",
        action="store_true",
        help="put the pictures into the FHIR bundle, not only their hashes",
    )
    add("--without-pictures", action="store_true", help="leave pictures out that the JSON carries")
    add("--language-file", action="append", default=[], metavar="FILE",
        help="texts of another language that the page was started with, e.g. fr.yaml")  # fmt: skip
    return result


def _made(content: Callable[[], bytes], path: Path) -> bytes:
    """The page or the PDF of a record that anybody may have written.

    Raises:
        ConsultationError: a value in it is not what this software writes, wherever making the page meets it.
    """
    from skingpt4.chat.exporting.record import ConsultationError

    try:
        return content()
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise ConsultationError(
            f"{path}: holds a value that this software does not write ({type(error).__name__}); save it again"
        ) from None


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(data)
    part.replace(path)


def _bundle(record: Consultation, with_pictures: bool) -> bytes:
    """A FHIR bundle, validated where the library for that is installed."""
    from skingpt4.chat.exporting import fhir

    data = fhir.to_fhir(record, with_pictures)
    fhir.validate(data)
    return data


def _export_one(args: argparse.Namespace) -> None:
    from skingpt4.chat.exporting import letter
    from skingpt4.chat.exporting.export import to_html, to_pdf
    from skingpt4.chat.exporting.record import ConsultationError, from_json

    if args.letter and args.letter.suffix.lower() not in (".txt", ".pdf"):
        raise ConsultationError(f"--letter {args.letter}: name a file that ends in .txt or .pdf")
    record = from_json(read_regular_text(args.consultation), str(args.consultation))
    make: dict[Path, Callable[[], bytes]] = {}
    if args.html:
        make[args.html] = lambda: to_html(record, not args.without_pictures).encode()
    if args.pdf:
        make[args.pdf] = lambda: to_pdf(record, not args.without_pictures)
    if args.fhir:
        make[args.fhir] = lambda: _bundle(record, args.with_pictures)
    if args.letter:
        as_pdf = args.letter.suffix.lower() == ".pdf"
        make[args.letter] = lambda: letter.to_pdf(record) if as_pdf else letter.to_text(record).encode()
    for path, content in make.items():
        _write(path, _made(content, args.consultation))
        print(path)


def _export_lines(args: argparse.Namespace) -> None:
    """One bundle for each line of a batch; those that are there already stay, so a stopped command goes on."""
    from tqdm import tqdm

    from skingpt4.chat.exporting.batch_lines import consultations

    args.fhir.mkdir(exist_ok=True)
    written = there = 0
    for record in tqdm(consultations(args.consultation), unit="bundle", desc=args.fhir.name):
        path = args.fhir / f"{record.id}.fhir.json"
        if path.exists():
            there += 1
            continue
        _write(path, _made(lambda record=record: _bundle(record, False), args.consultation))  # type: ignore[misc]
        written += 1
    print(f"{args.fhir}: {written} bundles written" + (f", {there} were there already" if there else ""))


def main(argv: Sequence[str] | None = None) -> int:
    """Write what is asked for; returns the exit status."""
    args = parser().parse_args(argv)
    with reported() as status:
        from importlib.util import find_spec

        from skingpt4.chat.exporting.record import ConsultationError
        from skingpt4.chat.texts import add_language

        for path in args.language_file:
            add_language(path)
        is_batch = args.consultation.suffix.lower() == ".jsonl"
        if not (args.fhir or (not is_batch and (args.html or args.pdf or args.letter))):
            wanted = (
                "--fhir FOLDER"
                if is_batch
                else "--html, --pdf, --fhir or --letter, e.g. --pdf consultation.pdf"
            )
            raise ConsultationError(f"give {wanted}")
        if args.fhir and find_spec("fhir") is None:
            print(
                "note: the bundle is not validated; pip install 'skingpt4[clinic]' does that", file=sys.stderr
            )
        try:
            (_export_lines if is_batch else _export_one)(args)
        except (OSError, UnicodeDecodeError) as error:
            path = getattr(error, "filename", None) or args.consultation
            raise ConsultationError(f"{path}: cannot be read or written ({reason_of(error)})") from None
    return status.code
