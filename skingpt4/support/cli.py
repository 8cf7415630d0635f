"""What all command lines share: the disclaimer, arguments that several commands take, and messages on stderr."""

from __future__ import annotations

import argparse
import getpass
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from skingpt4.support.errors import UserError, reason_of

NOT_A_DEVICE = "Research software, not a medical device."
DISCLAIMER = f"{NOT_A_DEVICE} Its answers are not a diagnosis; ask a doctor."
PACKAGES = ("skingpt4", "eval", "data", "benchmarks")


def make_parser(description: str, epilog: str = "", **options: Any) -> argparse.ArgumentParser:
    """A parser whose help keeps its line breaks and ends with the disclaimer."""
    end = f"{epilog}\n\n{NOT_A_DEVICE}" if epilog else NOT_A_DEVICE
    return argparse.ArgumentParser(
        description=description, epilog=end, formatter_class=argparse.RawDescriptionHelpFormatter, **options
    )


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """--config and --checkpoint, of which either may be left out."""
    parser.add_argument("--config", help="a YAML file; its output_dir's newest checkpoint is used")
    parser.add_argument("--checkpoint", help="a checkpoint or a run's folder")


def add_engine_argument(parser: argparse.ArgumentParser) -> None:
    """--engine, in the place of the configuration's group."""
    parser.add_argument(
        "--engine",
        metavar="FILE",
        help="the engine.yaml of skingpt4 export: vLLM or llama.cpp writes the answers (see docs/engines.md)",
    )


def add_generation_arguments(parser: argparse.ArgumentParser) -> None:
    """How an answer is generated: length, temperature, beams, seed."""
    add_answer_length(parser)
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    parser.add_argument("--beams", type=int, default=1, help="beam search above 1 (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of drawn answers (default: %(default)s)")


def add_answer_length(parser: argparse.ArgumentParser) -> None:
    """--max-new-tokens, by default None: as long as the answers that the model was trained on."""
    parser.add_argument(
        "--max-new-tokens", type=int, help="of an answer (default: data.max_text_tokens, as in training)"
    )


def generation_options(args: argparse.Namespace, max_text_tokens: int) -> dict[str, Any]:
    """The keyword arguments of `generation.sampling.Generation` that `add_generation_arguments` parsed.

    Args:
        args: what was parsed.
        max_text_tokens: the configuration's, in place of an answer length that was not given.
    """
    return {
        "max_new_tokens": max_text_tokens if args.max_new_tokens is None else args.max_new_tokens,
        "temperature": args.temperature,
        "num_beams": args.beams,
        "seed": args.seed,
    }


def read_password(name: str) -> str:
    """A password that is new: typed twice at a terminal, or one line of a pipe.

    Raises:
        UserError: the two differ.
    """
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    password = getpass.getpass(f"password for {name}: ")
    if password != getpass.getpass("again: "):
        raise UserError("the two passwords differ; nothing was changed")
    return password


def require_writable(out: Path, option: str = "--out") -> None:
    """Find out before the work whether its result can be written; makes the folder.

    Raises:
        UserError: names the option and the reason.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):
            pass
        if out.is_dir() or (out.exists() and not os.access(out, os.W_OK)):
            raise PermissionError("a folder of that name, or a file that may not be replaced, is there")
    except OSError as error:
        raise UserError(
            f"{option} {out}: cannot be written ({reason_of(error)}); name another file"
        ) from None


class _StderrHandler(logging.Handler):
    """Writes to what `sys.stderr` is now, not to what it was when logging was set up."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


def setup_logging() -> None:
    """Show what the packages report, from level INFO, as plain lines on stderr; calling it again changes nothing."""
    for name in PACKAGES:
        logger = logging.getLogger(name)
        if not any(isinstance(handler, _StderrHandler) for handler in logger.handlers):
            logger.addHandler(_StderrHandler())
            logger.setLevel(logging.INFO)
