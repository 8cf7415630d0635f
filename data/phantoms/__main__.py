"""Draw phantoms: python -m data.phantoms render|sheet --help."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from data.phantoms import WARNING


def _parser() -> argparse.ArgumentParser:
    text = f"Render skin phantoms, the bundled default data. {WARNING}"
    parser = argparse.ArgumentParser(prog="python -m data.phantoms", description=text)
    commands = parser.add_subparsers(dest="command", required=True)
    render = commands.add_parser("render", help="write a split with manifest.jsonl", description=text)
    render.add_argument("--out-dir", type=Path, required=True, help="folder that gets SPLIT/manifest.jsonl")
    render.add_argument("--split", required=True, help="name of the split, for example train")
    render.add_argument("--count", type=int, required=True, help="number of phantoms")
    render.add_argument("--seed", type=int, default=0, help="seed of the data set (default 0)")
    render.add_argument("--size", type=int, default=224, help="width and height in pixels (default 224)")
    render.add_argument(
        "--known-concepts", type=float, default=1.0, help="fraction of records with concepts, 0..1"
    )
    render.add_argument(
        "--known-notes", type=float, default=1.0, help="fraction of records with a note, 0..1"
    )
    render.add_argument(
        "--captions", action="store_true", help="write what each drawing shows (for step: align)"
    )
    render.add_argument(
        "--dialogues", action="store_true", help="write questions about each drawing, with answers"
    )
    render.add_argument("--masks", action="store_true", help="save lesion masks too")
    sheet = commands.add_parser(
        "sheet", help="save a picture grid", description=f"Save a picture grid. {WARNING}"
    )
    sheet.add_argument("--by", choices=("concept", "class"), required=True, help="what the rows are")
    sheet.add_argument("--out", type=Path, required=True, help="picture file, .png or .jpg")
    sheet.add_argument("--seed", type=int, default=0, help="seed of the phantoms (default 0)")
    sheet.add_argument("--only", nargs="+", metavar="NAME", help="only these concepts or classes")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    args = _parser().parse_args(argv)
    # After parsing, so that --help is instant.
    from data.phantoms.sheet import contact_sheet
    from data.phantoms.splits import write_split

    try:
        if args.command == "render":
            path = write_split(
                args.out_dir, args.split, args.count, args.seed, args.size, args.known_concepts, args.known_notes,
                args.masks, args.captions, args.dialogues,
            )  # fmt: skip
        else:
            path = contact_sheet(args.by, args.out, args.seed, only=args.only)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{path}  ({WARNING})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
