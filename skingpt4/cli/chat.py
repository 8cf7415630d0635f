"""Chat about a picture in the terminal: skingpt4 chat."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from skingpt4.support.cli import (
    DISCLAIMER,
    add_engine_argument,
    add_generation_arguments,
    add_model_arguments,
    generation_options,
    make_parser,
)
from skingpt4.support.errors import UserError, reported

if TYPE_CHECKING:
    from skingpt4.chat.differential import Differential, Ranker
    from skingpt4.chat.session import ChatSession
    from skingpt4.generation.sampling import Generation

NUM_LIKELIEST = 5
HELP = (
    "Type a question; /image PATH shows another picture, /differential ranks classes and diseases, /condense "
    "continues from a summary, /clear starts again, /quit or Ctrl-D ends."
)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = make_parser("Chat about a picture of skin.", "Many pictures at once: skingpt4 batch --help.")
    add_model_arguments(result)
    add_engine_argument(result)
    result.add_argument("--image", action="append", default=[], help="a picture; may be given several times")
    result.add_argument("--question", action="append", help="ask this and end; may be given several times")
    result.add_argument(
        "--json",
        action="store_true",
        help="answer once and print one JSON object; without --question the first clinical prompt",
    )
    result.add_argument(
        "--differential",
        action="store_true",
        help="also rank the classes and diseases that the pictures may show",
    )
    add_generation_arguments(result)
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Chat in the terminal, or answer once with --question or --json; returns the exit status."""
    args = parser().parse_args(argv)
    with reported() as status:
        from skingpt4.chat.differential import DifferentialError, Ranker, Rule
        from skingpt4.chat.session import ChatSession
        from skingpt4.checkpoints.load import load_model, model_source
        from skingpt4.generation.engine.decoder import require_engine
        from skingpt4.generation.questions import CLINICAL_PROMPTS
        from skingpt4.generation.sampling import Generation
        from skingpt4.records.images import open_image

        if args.differential and not args.image:
            raise DifferentialError("--differential: needs a picture; add --image PATH")
        for path in args.image:
            open_image(path)  # a bad picture is reported before the model is loaded
        source = model_source(args.config, args.checkpoint, args.engine)
        checkpoint_path = source.checkpoint_path
        generation = Generation(**generation_options(args, source.config.data.max_text_tokens))
        generation.options()
        rule = Rule.of(checkpoint_path)
        print(f"{DISCLAIMER} {source.identity['caution']}".strip(), file=sys.stderr)
        print(f"loading {checkpoint_path or 'an untrained projection'} ...", file=sys.stderr)
        model = load_model(source.loadable, checkpoint_path)
        require_engine(model, source.config.engine)
        places = [f"language model: {model.language_model.describe_place()}"]
        places += [f"encoder: {model.encoder.describe_place()}"] if model.encoder else []
        print("; ".join(places), file=sys.stderr)
        session, ranker = ChatSession(model, source.config), Ranker(model, source.config, rule)
        quality = [_show(session, path) for path in args.image]
        questions = args.question or ([CLINICAL_PROMPTS[0]] if args.json else [])
        if questions:
            facts: dict[str, Any] = {"checkpoint": checkpoint_path, "quality": quality}
            if args.differential and args.json:
                facts["differential"] = ranker.rank(session.queries).to_dict()
            _answer_all(session, questions, generation, facts if args.json else None)
        if args.differential and not args.json:
            _print_ranking(ranker.rank(session.queries))
        if not questions:
            _converse(session, generation, ranker)
    return status.code


def _answer_all(
    session: ChatSession, questions: Sequence[str], generation: Generation, facts: dict[str, Any] | None
) -> None:
    """Print all answers; as one JSON object with these facts, if there are any."""
    from skingpt4.chat.checks.flags import to_rows

    answers = [session.ask(question, generation) for question in questions]
    pairs = list(zip(questions, answers, strict=True))
    if facts is not None:
        turns = [{"question": q, "answer": answer, "flags": to_rows(answer)} for q, answer in pairs]
        print(json.dumps({**facts, "turns": turns, "disclaimer": DISCLAIMER}))
    else:
        for question, answer in pairs:
            print(f"> {question}\n{answer}")
            _caution(answer)


def _print_ranking(ranking: Differential) -> None:
    """Print the likeliest classes and diseases."""
    from skingpt4.taxonomy.taxonomy import class_title

    groups = {
        "classes": [(class_title(row.class_name), row.probability) for row in ranking.ranked],
        "diseases that the model was trained on": [(row.name, row.probability) for row in ranking.diseases],
    }
    for title, rows in groups.items():
        if rows:
            print(f"likeliest {title}:")
        for name, probability in rows[:NUM_LIKELIEST]:
            print(f"  {100 * probability:5.1f} %  {name}")
    sure = "confident" if ranking.confident else "not confident"
    print(f"{sure}; calibrated on: {ranking.calibration}. {DISCLAIMER}")


def _converse(session: ChatSession, generation: Generation, ranker: Ranker) -> None:
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
            _obey(session, line, generation, ranker)
        except ContextFull as error:
            print(f"error: {error}; /condense continues from a summary")
        except UserError as error:
            print(f"error: {error}")


def _obey(session: ChatSession, line: str, generation: Generation, ranker: Ranker) -> None:
    if line == "/clear":
        session.reset()
    elif line == "/condense":
        print(f"kept: {session.condense()}")
    elif line == "/differential":
        _print_ranking(ranker.rank(session.queries))
    elif line.startswith("/image "):
        _show(session, line.removeprefix("/image ").strip())
    elif line.startswith("/"):
        print(f"{line.split()[0]} is no command. {HELP}")
    elif line:
        answer = ""
        for piece in session.stream(line, generation):
            print(piece, end="", flush=True)
            answer += piece
        print()
        _caution(answer)


def _show(session: ChatSession, path: str) -> dict[str, Any]:
    """Show the model an image, and the user what the quality gate finds, which is also returned."""
    from skingpt4.chat.checks.quality import assess
    from skingpt4.chat.texts import load
    from skingpt4.records.images import open_image, read_picture, remarks

    data, texts = read_picture(path, path), load()
    image = open_image(data, path)
    quality = assess(image)
    for known in remarks(data):
        print(f"warning: {texts[f'pictures.remarks.{known}']}", file=sys.stderr)
    for problem in quality.problems:
        what, advice = (texts[f"quality.{problem.kind}.{part}"] for part in ("problem", "retake"))
        print(f"warning: {what} {advice}", file=sys.stderr)
    session.add_image(image)
    return quality.to_dict()


def _caution(answer: str) -> None:
    """What is to be said beside an answer."""
    from skingpt4.chat.texts import cautions, load

    for caution in cautions(answer, load()):
        print(f"! {caution}", file=sys.stderr)
