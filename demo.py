"""A consultation about pictures of skin in the browser: python demo.py."""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

# Gradio and torch take seconds to import, so they are imported only after the command line has been parsed.
from skingpt4.server import gradio_app
from skingpt4.server.access.options import access_of, add_access_arguments, shared_password
from skingpt4.server.address import Address, add_proxy_arguments, stay_local
from skingpt4.support.cli import add_engine_argument, add_model_arguments, make_parser, setup_logging
from skingpt4.support.errors import UserError, reported

if TYPE_CHECKING:
    import gradio as gr

    from skingpt4.chat.texts import Texts
    from skingpt4.server.access.logins import Access
    from skingpt4.server.page.tools import Tools

PASSWORD = "SKINGPT4_PASSWORD"
QUICKSTART, BUNDLED = "runs/quickstart/step2", "skingpt4/weights/bundled/phantoms_tiny"  # trained on drawings
EXAMPLES = f"""examples:
  python demo.py                                       (the quickstart's model, or the one that is bundled)
  python demo.py --checkpoint runs/quickstart/step2 --port 8000 --language de
  {PASSWORD}=... python demo.py --config configs/tiny/step2.yaml --password
  python demo.py --config configs/tiny/step2.yaml --users users.json --audit-log audit.sqlite

The page is for this machine only: without --share it has no public link, and it sends nothing to other machines."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = make_parser("A consultation about pictures of skin in the browser.", EXAMPLES)
    add_model_arguments(result)
    add_engine_argument(result)
    add = result.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    add("--port", type=int, default=7860, help="default: 7860")
    add_proxy_arguments(result)
    add(
        "--language",
        default="en",
        help="language of the page at /: en, de or one of --language-file; the others are at /CODE (default: en)",
    )
    add("--language-file", action="append", default=[], metavar="FILE",
        help="offer one more language: a file such as fr.yaml with all texts of chat/languages/en.yaml")  # fmt: skip
    add("--cover", action="store_true", help="cover pictures until they are clicked")
    add("--max-upload-mb", type=int, default=20, help="largest picture file (default: 20)")
    add(
        "--password", action="store_true",
        help=f"protect the page with a password: from the environment variable {PASSWORD}, or typed now",
    )  # fmt: skip
    add(
        "--share", action="store_true",
        help="open a public link through Gradio's servers: pictures LEAVE THIS MACHINE; needs --password or --users",
    )  # fmt: skip
    add(
        "--audit-log",
        metavar="FILE",
        help="append who did what and when to this SQLite file, without pictures and texts",
    )
    add("--audit-text", action="store_true", help="with --audit-log: also log questions and answers")
    add_access_arguments(result)
    return result


def default_checkpoint() -> str:
    """What is served where no model is named: the quickstart's last checkpoint, or the bundled one."""
    from skingpt4.checkpoints.checkpoint import saved
    from skingpt4.config.bundled import resolve_bundled

    return QUICKSTART if saved(Path(QUICKSTART)) else resolve_bundled(BUNDLED)


def read_password() -> str:
    """The page's password, from the environment or typed.

    Raises:
        UserError: it is empty.
    """
    password = os.environ.get(PASSWORD) or (sys.stdin.isatty() and getpass.getpass("password for the page: "))
    if not password:
        raise UserError(f"the password is empty; type one, or set {PASSWORD}")
    return password


def launch(tools: Tools, address: Address, language: str = "en", access: Access | None = None) -> gr.Blocks:
    """Build the page and serve it from a thread of its own; `close()` ends it."""
    from skingpt4.chat.texts import load as load_texts
    from skingpt4.server.page import layout

    protected = access is not None
    return gradio_app.launch(
        layout.build(tools, language, address, with_users=protected),
        address,
        health={"status": "ok"} | ({} if protected else {"checkpoint": tools.model["checkpoint"]}),
        texts=load_texts(language),
        css=layout.CSS,
        head=layout.SCRIPT,
        access=access,
        takes_uploads=True,
    )


def page_access(args: argparse.Namespace, texts: Texts, log: Callable[..., object] | None) -> Access | None:
    """Who may use the page; None if nobody has to log in.

    Raises:
        UserError: options that do not go together, an empty password, or no users.
    """
    from skingpt4.server.access.users import PAGE_ROLES

    if args.password and (args.users or args.auth_header):
        raise UserError("--password is for a page without users of its own; leave it out, or --users")
    if args.password:
        message = f"{texts['not_a_diagnosis']} {texts['login']}"
        return shared_password(read_password(), message=message, **({"log": log} if log else {}))
    return access_of(args, PAGE_ROLES, f"{texts['not_a_diagnosis']} {texts['login_users']}", log)


def main(argv: list[str] | None = None) -> int:
    """Load the model, then serve the page until Ctrl-C; returns the exit status."""
    args = parser().parse_args(argv)
    stay_local()
    setup_logging()
    with reported() as status:
        address = Address(
            args.host, args.port, args.max_upload_mb, args.share, tuple(args.names), args.root_path,
            tuple(args.trusted_proxy),
        )  # fmt: skip
        if args.share and not (args.password or args.users):
            raise UserError("--share opens the page to whoever learns its link; add --password or --users")
        if args.audit_text and not args.audit_log:
            raise UserError("--audit-text says what goes into the audit log; add --audit-log FILE")

        from skingpt4.chat.texts import add_language
        from skingpt4.chat.texts import load as load_texts
        from skingpt4.server.audit import AuditLog

        for path in args.language_file:
            add_language(path)
        if not (args.config or args.checkpoint):
            args.checkpoint = default_checkpoint()
            print(f"model: {args.checkpoint}, trained on drawings of skin")

        texts = load_texts(args.language)
        log = AuditLog(args.audit_log, args.audit_text).append if args.audit_log else None
        access = page_access(args, texts, log)
        address.check(access is not None)

        from skingpt4.server.page import tools as page_tools

        tools = replace(page_tools.load(args.config, args.checkpoint, log, args.engine), cover=args.cover)
        gradio_app.until_ended(lambda: launch(tools, address, args.language, access), address)
    return status.code


if __name__ == "__main__":
    sys.exit(main())
