"""A consultation about pictures of skin in the browser: python demo.py --config configs/tiny/step2.yaml."""

from __future__ import annotations

import argparse
import getpass
import os
import secrets
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from skingpt4.server import gradio_app
from skingpt4.server.address import Address, stay_local
from skingpt4.support.errors import UserError, reported

if TYPE_CHECKING:
    import gradio as gr

    from skingpt4.server.page.visit import Tools

PASSWORD = "SKINGPT4_PASSWORD"
EXAMPLES = f"""examples:
  python demo.py --config configs/tiny/step2.yaml
  python demo.py --checkpoint runs/quickstart/step2 --port 8000 --language de
  {PASSWORD}=... python demo.py --config configs/tiny/step2.yaml --password

The page is for this machine alone: without --share it has no public link, and it asks nothing of other machines.
Research software, not a medical device."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        description="A consultation about pictures of skin in the browser.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = result.add_argument
    add("--config", help="a YAML file; its output_dir's newest checkpoint is used")
    add("--checkpoint", help="a checkpoint or a run's folder")
    add("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    add("--port", type=int, default=7860, help="default: 7860")
    add(
        "--language",
        default="en",
        help="of the page at /; the others are at /CODE (default: en; there is de)",
    )
    add("--max-upload-mb", type=int, default=20, help="largest picture file (default: 20)")
    add(
        "--password", action="store_true",
        help=f"the page asks for a password: that of the environment's {PASSWORD}, else one typed now",
    )  # fmt: skip
    add(
        "--share", action="store_true",
        help="open a public link through Gradio's servers: pictures LEAVE THIS MACHINE; needs --password",
    )  # fmt: skip
    add(
        "--audit-log",
        metavar="FILE",
        help="append who did what and when to this SQLite file; no pictures, no texts",
    )
    add("--audit-text", action="store_true", help="with --audit-log: also keep questions and answers")
    return result


def ask_password(wanted: bool) -> str | None:
    """The password from the environment, or typed; None where none is wanted.

    Raises:
        UserError: it is empty.
    """
    if not wanted:
        return None
    word = os.environ.get(PASSWORD) or getpass.getpass("password for the page: ")
    if not word:
        raise UserError(f"the password is empty; type one, or set {PASSWORD}")
    return word


def launch(tools: Tools, address: Address, language: str = "en", password: str | None = None) -> gr.Blocks:
    """Build the page and serve it from a thread of its own; `close()` ends it."""
    from skingpt4.chat import texts as page_texts
    from skingpt4.server.page import layout

    place = layout.Place(address.local, address.share, address.max_upload_mb)
    blocks = layout.build(tools, language, place)
    extra: dict[str, object] = {"css": layout.CSS}
    if password is not None:
        extra["auth"] = lambda name, word: secrets.compare_digest(word.encode(), password.encode())
        texts = page_texts.load(language)
        extra["auth_message"] = f"{texts['not_a_diagnosis']} {texts['login']}"
    health = {"status": "ok", "checkpoint": tools.model["checkpoint"]}
    return gradio_app.launch(blocks, address, health, **extra)


def load(
    config_path: str | None, checkpoint_path: str | None, log: Callable[..., object] | None = None
) -> Tools:
    """Load the model, with a progress bar, and gather what the page offers with it.

    Raises:
        ChatError, ConfigError, CheckpointError, LanguageModelError: what they say.
    """
    from skingpt4.server.page import tools as page_tools

    return page_tools.load(config_path, checkpoint_path, log)


def main(argv: list[str] | None = None) -> int:
    """Parse, load the model, then serve the page until Ctrl-C; returns the exit status."""
    args = parser().parse_args(argv)
    stay_local()

    with reported() as status:
        address = Address(args.host, args.port, args.max_upload_mb, args.share)
        if args.share and not args.password:
            raise UserError("--share opens the page to whoever learns its link; add --password")
        password = ask_password(args.password)
        address.check(password is not None)

        from skingpt4.chat import texts as page_texts

        page_texts.load(args.language)
        log = None
        if args.audit_text and not args.audit_log:
            raise UserError("--audit-text says what goes into the audit log; add --audit-log FILE")
        if args.audit_log:
            from skingpt4.server.audit import AuditLog

            log = AuditLog(args.audit_log, args.audit_text).append
        tools = load(args.config, args.checkpoint, log)
        gradio_app.until_ended(lambda: launch(tools, address, args.language, password))
    return status.code


if __name__ == "__main__":
    sys.exit(main())
