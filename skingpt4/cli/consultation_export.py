"""Make HTML or PDF of a consultation that was saved as JSON: skingpt4 consultation-export."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from skingpt4.support.cli import make_parser
from skingpt4.support.errors import reason_of, reported
from skingpt4.support.regular import read_regular_text


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = make_parser("Make a page or a PDF of a consultation that was saved as JSON. Not a diagnosis.")
    result.add_argument("consultation", type=Path, help="the JSON export")
    result.add_argument("--html", type=Path, help="write this page")
    result.add_argument("--pdf", type=Path, help="write this PDF")
    result.add_argument(
        "--without-pictures", action="store_true", help="leave pictures out that the JSON carries"
    )
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


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page, the PDF or both; returns the exit status."""
    args = parser().parse_args(argv)
    with reported() as status:
        from skingpt4.chat.exporting.export import to_html, to_pdf
        from skingpt4.chat.exporting.record import ConsultationError, from_json

        if not args.html and not args.pdf:
            raise ConsultationError("give --html or --pdf, e.g. --pdf consultation.pdf")
        try:
            record = from_json(read_regular_text(args.consultation), str(args.consultation))
            make: dict[Path, Callable[[], bytes]] = {}
            if args.html:
                make[args.html] = lambda: to_html(record, not args.without_pictures).encode()
            if args.pdf:
                make[args.pdf] = lambda: to_pdf(record, not args.without_pictures)
            for path, content in make.items():
                data = _made(content, args.consultation)
                part = path.with_name(f".{path.name}.part")
                part.write_bytes(data)
                part.replace(path)
                print(path)
        except (OSError, UnicodeDecodeError) as error:
            path = getattr(error, "filename", None) or args.consultation
            raise ConsultationError(f"{path}: cannot be read or written ({reason_of(error)})") from None
    return status.code
