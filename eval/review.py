"""Rate a run's answers in a local form: python -m eval.review --run-dir RUN.

Each rater logs in with a password and sees the cases under all arms in an order of their own, without any model's
name. What a rater is asked depends on the role: physicians write their own diagnosis before the text is shown and
answer the seven published items; lay users answer items 3 and 5 in plain words. Each form is saved in
RUN/ratings.sqlite at once; a rater who comes back continues where they stopped. Several may rate at once.
"""

from __future__ import annotations

import argparse
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.asking import answers
from eval.rating import tables
from eval.rating.database import FILE
from eval.rating.desk import Desk, ReviewError, select
from eval.rating.questionnaire import ROLES, UNKNOWN_ROLE
from eval.rating.ratings import numbered_ratings, ratings_csv
from eval.rating.store import Store, check_name
from eval.rating.study import NO_APPROVAL, add_consents, change_study
from skingpt4.server.access.options import access_of, add_access_arguments
from skingpt4.server.address import Address, add_proxy_arguments, stay_local
from skingpt4.support.cli import make_parser, read_password, setup_logging
from skingpt4.support.errors import reason_of, reported
from skingpt4.support.files import write_text
from skingpt4.support.regular import read_regular_text

if TYPE_CHECKING:
    import gradio as gr

    from skingpt4.server.access.logins import Access

EXAMPLES = """examples:
  python -m eval.review add-rater anna --role dermatologist --run-dir runs/quickstart
  python -m eval.review --raters raters.csv --run-dir runs/quickstart
  python -m eval.review --run-dir runs/quickstart --cases runs/phantoms/cases/manifest.jsonl
  python -m eval.review --run-dir runs/quickstart --approval EK-2026-17 --consent consent.txt --urgency --own-answers
  python -m eval.review --run-dir runs/quickstart --status
  python -m eval.review --run-dir runs/quickstart --export ratings.csv
  python -m eval.review --run-dir runs/quickstart --export answers.csv --table own-answers

The form is reachable from this machine only, unless --host is given."""


def add_rater(store: Store, name: str, replace: bool, role: str) -> None:
    """Ask for a password (twice at a terminal, one line of a pipe) and save the rater."""
    store.add_rater(name, read_password(name), replace, role)
    role = store.roles().get(name, UNKNOWN_ROLE)
    print(
        f"{name} can log in; role: {ROLES.get(role, 'not given, so the published form is shown (see --role)')}"
    )


def add_raters(store: Store, path: Path) -> None:
    """Add the raters of a table with new passwords, which are printed; those who can log in get the role alone.

    Raises:
        RatingsError, StoreError: a row that cannot be used; nobody was added.
    """
    roles, there = tables.read_raters(path, store.roles()), set(store.raters())
    for name in roles:
        check_name(name)
    store.set_roles({name: role for name, role in roles.items() if name in there})
    for name, role in roles.items():
        if name in there:
            print(f"{name}: {ROLES[role]}, has a password already")
        else:
            password = secrets.token_hex(8)
            store.add_rater(name, password, role=role)
            print(f"{name}: {ROLES[role]}, password {password}", flush=True)


def export(store: Store, path: Path, table: str) -> int:
    """Write a table as CSV, completely or not at all; returns how many lines.

    Raises:
        ReviewError: there are none, or the file cannot be written.
    """
    if table == "ratings":
        rows = store.current()
        text, count = ratings_csv(rows), len(rows)
    else:
        make = tables.own_answers_csv if table == "own-answers" else tables.consents_csv
        text, count = make(store)
    if not count:
        raise ReviewError(f"{store.path}: holds no {table.replace('-', ' ')} yet")
    try:
        write_text(path, text)
    except OSError as error:
        raise ReviewError(f"{path}: cannot be written ({error.strerror})") from None
    return count


def take_over(store: Store, run: answers.Run, path: Path, overwrite: bool) -> tuple[int, int]:
    """Read a CSV of ratings or consents into the store; returns how many lines it holds and how many were new.

    Raises:
        RatingsError, ReviewError, StoreError: a wrong line, an arm or case that is not in the run, or a conflict.
    """
    roles = store.roles()
    if tables.holds_consents(path):
        consents = tables.read_consents(path, roles)
        store.set_roles({one.rater: one.role for one in consents})
        return len(consents), add_consents(store, consents)
    rows = numbered_ratings(path, roles)
    for number, row in rows:
        for kind, name, known in (("arm", row.arm, run.arms), ("case", row.case_id, run.cases)):
            if name not in known:
                raise ReviewError(
                    f"{path}, row {number}: the run in {run.folder} has no {kind} {name!r}; nothing was imported"
                )
    return len(rows), store.add([row for _, row in rows], overwrite)


def consent_text(path: Path | None) -> str | None:
    """The text of a file that raters agree to.

    Raises:
        ReviewError: it cannot be read, or is empty.
    """
    if path is None:
        return None
    try:
        text = read_regular_text(path).strip()
    except (OSError, ValueError) as error:
        raise ReviewError(f"{path}: the consent text cannot be read ({reason_of(error)})") from None
    if not text:
        raise ReviewError(f"{path}: the consent text is empty")
    return text


def status(desk: Desk) -> str:
    """How many forms each rater has completed."""
    lines, roles = [], desk.store.roles()
    for rater in desk.store.raters():
        num_rated, n = desk.progress(rater)
        role = f" ({ROLES[roles[rater]]})" if rater in roles else ""
        lines.append(f"{rater}{role}: {num_rated} of {n} forms rated")
    return "\n".join(lines) or "no raters yet"


def form_access(args: argparse.Namespace, store: Store) -> Access:
    """Who may rate: the users of --users or of a proxy, else the raters of the store with passwords of their own.

    Raises:
        UserError: options that do not go together, or nobody who could log in.
    """
    from eval.rating.form import DISCLAIMER
    from skingpt4.server.access.logins import Access
    from skingpt4.server.access.users import REVIEW_ROLES
    from skingpt4.server.audit import AuditLog

    log = AuditLog(args.audit_log).append if args.audit_log else None
    access = access_of(args, REVIEW_ROLES, DISCLAIMER, log)
    if access is not None:
        return access
    if not store.raters():
        raise ReviewError(
            f"{args.run_dir / FILE}: there are no raters yet; add one with "
            f"python -m eval.review add-rater NAME --run-dir {args.run_dir}"
        )
    options: dict[str, Any] = {} if log is None else {"log": log}
    return Access(
        store.login, per_name=True, knows=lambda name: name in store.raters(), message=DISCLAIMER, **options
    )


def serve(desk: Desk, address: Address, access: Access) -> None:
    """Serve the form until SIGINT or SIGTERM."""
    from eval.rating import form
    from skingpt4.chat.texts import load as load_texts
    from skingpt4.server import gradio_app

    def launched() -> gr.Blocks:
        return gradio_app.launch(
            form.build(desk), address, {"status": "ok"}, load_texts(), css=form.CSS, head=form.SCRIPT,
            access=access,
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
    add("--num-cases", type=int, help="rate only this many cases, evenly spread over the list")
    add = parser.add_argument_group("raters").add_argument
    add("--role", choices=tuple(ROLES), default=UNKNOWN_ROLE, metavar="ROLE",
        help=f"with add-rater: {', '.join(ROLES)}; it is chosen once")  # fmt: skip
    add("--new-password", action="store_true", help="with add-rater: change an existing rater's password")
    add("--raters", type=Path, metavar="CSV", help="add the raters of a table with the columns rater and role, "
        "print their new passwords, and exit")  # fmt: skip
    add = parser.add_argument_group("the study (given once; stored with the ratings)").add_argument
    add("--approval", metavar="NUMBER", help="of an ethics board; the form shows it before the first case")
    add("--consent", type=Path, metavar="FILE", help="the text that raters agree to before their first case "
        "(default: a general one)")  # fmt: skip
    flag = argparse.BooleanOptionalAction
    add("--urgency", action=flag, help="ask how soon a doctor should be seen, before and after each text")
    add("--own-answers", action=flag, help="dermatologists may answer the prompts themselves before they see "
        "a text")  # fmt: skip
    add("--cover", action=flag, help="cover pictures until they are clicked (default: covered)")
    add = parser.add_argument_group("tables").add_argument
    add("--status", action="store_true", help="print how many forms each rater has completed, and exit")
    add("--export", type=Path, metavar="CSV", help="write all ratings as long CSV, and exit")
    add("--table", choices=("ratings", "own-answers", "consents"), default="ratings",
        help="what --export writes: ratings, the raters' own answers for eval.add import, or who agreed to take "
        "part (default: ratings)")  # fmt: skip
    add("--import", type=Path, metavar="CSV", dest="take", help="import ratings or consents, and exit")
    add("--overwrite", action="store_true", help="with --import: its answers replace existing ones")
    add = parser.add_argument_group("the server").add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    add("--port", type=int, default=7861, help="default: %(default)s")
    add(
        "--audit-log",
        metavar="FILE",
        help="append who logged in and out, and from where, to this SQLite file",
    )
    add_access_arguments(parser)
    add_proxy_arguments(parser)
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
        changes = {name: getattr(args, name) for name in ("approval", "urgency", "own_answers", "cover")}
        study = change_study(store, changes | {"consent": consent_text(args.consent)})
        if args.command:
            add_rater(store, args.command[1], args.new_password, args.role)
        elif args.raters:
            add_raters(store, args.raters)
        elif args.export:
            print(f"{args.export}: {export(store, args.export, args.table)} lines of {args.table}")
        elif args.take:
            total, new = take_over(store, run, args.take, args.overwrite)
            print(f"{args.take}: {total} lines, {new} of them new")
        else:
            folder = args.cases.parent if args.cases else args.run_dir
            desk = Desk(store, select(run, folder, args.arms, args.num_cases, not args.status))
            if args.status:
                print(status(desk))
                return 0
            proxies = tuple(args.trusted_proxy)
            address = Address(
                args.host, args.port, names=tuple(args.names), root_path=args.root_path, proxies=proxies
            )
            access = form_access(args, store)
            address.check(password=True)
            print(status(desk))
            print(
                f"Approval: {study.approval}" if study.approval else f"{NO_APPROVAL} (--approval)", flush=True
            )
            serve(desk, address, access)
    return result.code


if __name__ == "__main__":
    sys.exit(main())
