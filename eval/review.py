"""Rate a run's answers in a local form: python -m eval.review --run-dir RUN.

Each rater logs in with a password and sees the cases under all arms in an order of their own, without any model's
name. The rater writes their own diagnosis before the text is shown, then answers the seven published items. Each form
is saved in RUN/ratings.sqlite at once; a rater who comes back continues where they stopped. Several may rate at once.
"""

from __future__ import annotations

import argparse
import getpass
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from eval.asking import answers
from eval.rating import ratings
from eval.rating.desk import Desk, ReviewError, select
from eval.rating.store import FILE, Store
from skingpt4.server.address import Address, add_name_argument, stay_local
from skingpt4.support.cli import make_parser, setup_logging
from skingpt4.support.errors import reported
from skingpt4.support.files import move_into_place

if TYPE_CHECKING:
    import gradio as gr


EXAMPLES = """examples:
  python -m eval.review add-rater anna --run-dir runs/quickstart
  python -m eval.review --run-dir runs/quickstart --cases runs/phantoms/cases/manifest.jsonl
  python -m eval.review --run-dir runs/quickstart --status
  python -m eval.review --run-dir runs/quickstart --export ratings.csv

The form is reachable from this machine only, unless --host is given."""


def add_rater(store: Store, name: str, replace: bool) -> None:
    """Ask for a password (twice at a terminal, one line of a pipe) and save the rater."""
    if sys.stdin.isatty():
        password = getpass.getpass(f"password for {name}: ")
        if password != getpass.getpass("again: "):
            raise ReviewError("the two passwords differ; nothing was changed")
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    store.add_rater(name, password, replace)
    print(f"{name} can log in")


def export(store: Store, path: Path) -> int:
    """Write the newest answers as long CSV, completely or not at all; returns how many.

    Raises:
        ReviewError: there are none, or the file cannot be written.
    """
    rows = store.current()
    if not rows:
        raise ReviewError(f"{store.path}: holds no ratings yet")
    part = path.with_name(f".{path.name}.part")
    try:
        ratings.write_csv(rows, part)
        move_into_place(part, path)
    except OSError as error:
        raise ReviewError(f"{path}: cannot be written ({error.strerror})") from None
    return len(rows)


def take_over(store: Store, run: answers.Run, path: Path, overwrite: bool) -> tuple[int, int]:
    """Read a long CSV into the store; returns how many answers it holds and how many of them were new.

    Raises:
        RatingsError, ReviewError, StoreError: a wrong line, an arm or case that is not in the run, or a conflict.
    """
    rows = ratings.read_ratings(path)
    for row in rows:
        for kind, name, known in (("arm", row.arm, run.arms), ("case", row.case_id, run.cases)):
            if name not in known:
                raise ReviewError(
                    f"{path}: the run in {run.folder} has no {kind} {name!r}; nothing was imported"
                )
    return len(rows), store.add(rows, overwrite)


def status(desk: Desk) -> str:
    """How many forms each rater has completed."""
    lines = []
    for rater in desk.store.raters():
        view = desk.open(rater)
        lines.append(f"{rater}: {view.num_rated} of {view.n} forms rated")
    return "\n".join(lines) or "no raters yet"


def serve(desk: Desk, address: Address) -> None:
    """Serve the form until SIGINT or SIGTERM."""
    from eval.rating import form
    from skingpt4.chat.texts import load as load_texts
    from skingpt4.server import gradio_app

    def launched() -> gr.Blocks:
        return gradio_app.launch(
            form.build(desk), address, {"status": "ok"}, load_texts(), css=form.CSS, head=form.SCRIPT,
            check_password=desk.store.login, login_message=form.DISCLAIMER,
        )  # fmt: skip

    gradio_app.until_ended(launched, address)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(__doc__ or "", EXAMPLES, prog="python -m eval.review")
    add = parser.add_argument
    add("command", nargs="*", metavar="add-rater NAME", help="add a rater; the password is asked for")
    add("--run-dir", type=Path, required=True, help="the folder that eval.run wrote")
    add("--cases", type=Path, help="the list of cases that eval.run read; its folder holds the pictures "
        "(default: the run's own cases.jsonl)")  # fmt: skip
    add("--arms", nargs="+", metavar="ARM", help="rate only these (default: all of the run)")
    add("--num-cases", type=int, help="rate only this many cases, evenly spaced over the list")
    add(
        "--new-password", action="store_true", help="with add-rater: change the password of an existing rater"
    )
    add("--status", action="store_true", help="print how many forms each rater has completed, and exit")
    add("--export", type=Path, metavar="CSV", help="write all ratings as long CSV, and exit")
    add("--import", type=Path, metavar="CSV", dest="take", help="import ratings from a long CSV, and exit")
    add("--overwrite", action="store_true", help="with --import: its answers replace existing ones")
    add("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    add("--port", type=int, default=7861, help="default: %(default)s")
    add_name_argument(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and do the one thing it asks for; returns the exit status."""
    parser = _parser()
    args = parser.parse_intermixed_args(argv)
    if args.command and (len(args.command) != 2 or args.command[0] != "add-rater"):
        parser.error("the only command is: add-rater NAME")
    setup_logging()
    with reported() as result:
        stay_local()
        run = answers.read_run(args.run_dir)
        store = Store(args.run_dir)
        if args.command:
            add_rater(store, args.command[1], args.new_password)
        elif args.export:
            print(f"{args.export}: {export(store, args.export)} answers")
        elif args.take:
            total, new = take_over(store, run, args.take, args.overwrite)
            print(f"{args.take}: {total} answers, {new} of them new")
        else:
            folder = args.cases.parent if args.cases else args.run_dir
            desk = Desk(store, select(run, folder, args.arms, args.num_cases))
            if args.status:
                print(status(desk))
                return 0
            if not store.raters():
                raise ReviewError(
                    f"{args.run_dir / FILE}: there are no raters yet; add one with "
                    f"python -m eval.review add-rater NAME --run-dir {args.run_dir}"
                )
            address = Address(args.host, args.port, names=tuple(args.name))
            address.check(password=True)
            print(status(desk), flush=True)
            serve(desk, address)
    return result.code


if __name__ == "__main__":
    sys.exit(main())
