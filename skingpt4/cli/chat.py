"""Chat about a picture in the terminal: skingpt4 chat."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from skingpt4.support.cli import (
    DISCLAIMER,
    add_generation_arguments,
    add_model_arguments,
    generation_options,
    make_parser,
)
from skingpt4.support.errors import UserError, reported

if TYPE_CHECKING:
    from skingpt4.chat.session import ChatSession
    from skingpt4.generation.sampling import Generation

HELP = (
    "Type a question; /image PATH shows another picture, /condense continues from a summary, /clear starts again, "
    "/quit or Ctrl-D ends."
)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = make_parser("Chat about a picture of skin.", "Many pictures at once: skingpt4 batch --help.")
    add_model_arguments(result)
    result.add_argument("--image", action="append", default=[], help="a picture; may be given several times")
    result.add_argument("--question", action="append", help="ask this and end; may be given several times")
    result.add_argument(
        "--json",
        action="store_true",
        help="answer once and print one JSON object; without --question the first clinical prompt",
    )
    add_generation_arguments(result)
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Chat in the terminal, or answer once with --question or --json; returns the exit status."""
    args = parser().parse_args(argv)
    with reported() as status:
        from skingpt4.chat.session import CLINICAL_PROMPTS, ChatSession
        from skingpt4.checkpoints.load import load_model, model_source
        from skingpt4.generation.sampling import Generation
        from skingpt4.records.images import open_image

        for path in args.image:
            open_image(path)  # a bad picture is reported before the model is loaded
        source = model_source(args.config, args.checkpoint)
        checkpoint_path = source.checkpoint_path
        generation = Generation(**generation_options(args, source.config.data.max_text_tokens))
        generation.options()
        print(f"{DISCLAIMER}\nloading {checkpoint_path or 'an untrained projection'} ...", file=sys.stderr)
        model = load_model(source.loadable, checkpoint_path)
        places = [f"language model: {model.language_model.describe_place()}"]
        places += [f"encoder: {model.encoder.describe_place()}"] if model.encoder else []
        print("; ".join(places), file=sys.stderr)
        session = ChatSession(model, source.config)
        for path in args.image:
            session.add_image(path)
        questions = args.question or ([CLINICAL_PROMPTS[0]] if args.json else [])
        if questions:
            _answer_all(session, questions, generation, args.json, checkpoint_path)
        else:
            _converse(session, generation)
    return status.code


def _answer_all(
    session: ChatSession, questions: Sequence[str], generation: Generation, as_json: bool, name: str | None
) -> None:
    turns = [{"question": q, "answer": session.ask(q, generation)} for q in questions]
    if as_json:
        print(json.dumps({"checkpoint": name, "turns": turns, "disclaimer": DISCLAIMER}))
    else:
        print("\n".join(f"> {t['question']}\n{t['answer']}" for t in turns))


def _converse(session: ChatSession, generation: Generation) -> None:
    from skingpt4.chat.session import ContextFull

    print(HELP)
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            return
        if line == "/quit":
            return
        try:
            _obey(session, line, generation)
        except ContextFull as error:
            print(f"error: {error}; /condense continues from a summary")
        except UserError as error:
            print(f"error: {error}")


def _obey(session: ChatSession, line: str, generation: Generation) -> None:
    if line == "/clear":
        session.reset()
    elif line == "/condense":
        print(f"kept: {session.condense()}")
    elif line.startswith("/image "):
        session.add_image(line.removeprefix("/image ").strip())
    elif line:
        for piece in session.stream(line, generation):
            print(piece, end="", flush=True)
        print()
