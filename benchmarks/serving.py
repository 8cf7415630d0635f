"""Several users at once, decoded together against one after the other: python -m benchmarks.serving.

Every user shows a picture of their own and asks two of the published questions, the second when the first is
answered. Both ways have the same decoder, caches and weights; the yardstick decodes one answer at a time and the
others wait. Times to the first token include the wait.
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from benchmarks import pairs
from benchmarks.pairs import RESULTS, compare
from data.phantoms import render_phantom
from skingpt4.chat import CLINICAL_PROMPTS, ChatError, ChatSession, config_and_checkpoint, load_model
from skingpt4.config import Config
from skingpt4.decoding import Decoder
from skingpt4.errors import reported
from skingpt4.generation import Generation
from skingpt4.language import DTYPES
from skingpt4.model import SkinGPT4
from skingpt4.streams import Timing


class Crowd:
    """Users who ask at the same time."""

    def __init__(
        self, model: SkinGPT4, config: Config, num_users: int, max_new_tokens: int, num_turns: int = 2
    ) -> None:
        """Encode every user's picture: that is the same work either way."""
        self.model, self.config, self.num_turns = model, config, num_turns
        self.generation = Generation(max_new_tokens=max_new_tokens)
        session = ChatSession(model, config)
        for number in range(num_users):
            session.add_image(Image.fromarray(render_phantom(7, "test", number).image))
        self.pictures = session.queries
        self.answers: dict[int, list[list[str]]] = {}  # by rows decoded together
        self.num_tokens = 0

    def serve(self, max_rows: int) -> dict[str, float]:
        """Answer all; returns seconds to the first token."""
        decoder = Decoder(self.model, max_rows=max_rows)
        answers: list[list[str]] = [[] for _ in self.pictures]
        timings: list[Timing] = []
        failures: list[BaseException] = []

        def talk(number: int, queries: Tensor) -> None:
            session = ChatSession(self.model, self.config, decoder)
            session.queries, session.waiting = [queries], 1
            try:
                for question in CLINICAL_PROMPTS[: self.num_turns]:
                    answers[number].append(session.ask(question, self.generation))
                    assert session.last_timing is not None
                    timings.append(session.last_timing)
            except BaseException as error:
                failures.append(error)
            finally:
                session.close()

        threads = [threading.Thread(target=talk, args=pair) for pair in enumerate(self.pictures)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        self.answers[max_rows] = answers
        firsts = [timing.seconds_to_first_token for timing in timings]
        self.num_tokens = sum(timing.num_tokens for timing in timings)
        return {
            "mean seconds to first token": sum(firsts) / len(firsts),
            "longest seconds to first token": max(firsts),
        }


def measure(crowd: Crowd, num_pairs: int, max_rows: int, warm_up: int = 0) -> dict[str, Any]:
    """Pairs for one number of users, printed."""
    found = compare(
        lambda: crowd.serve(max_rows),
        lambda: crowd.serve(1),
        num_pairs,
        warm_up,
        what=f"{len(crowd.pictures)} users",
    )
    tokens = {
        "ours": crowd.num_tokens / found.ours.median(),
        "yardstick": crowd.num_tokens / found.yardstick.median(),
    }
    same = crowd.answers[max_rows] == crowd.answers[1]
    print(f"{len(crowd.pictures)} users: {tokens['ours']:.1f} tokens/s against {tokens['yardstick']:.1f}")
    for name in found.ours.figures:
        print(f"  {found.line(name)}")
    print(f"  same answers: {same}")
    return {
        "num_users": len(crowd.pictures), "num_tokens": crowd.num_tokens, "tokens_per_second": tokens,
        "same_answers": same, **found.to_dict(),
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving",
        description=f"{__doc__}\nResearch software, no medical device.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", default="configs/tiny/step2.yaml", help="(default: %(default)s)")
    parser.add_argument("--checkpoint", help="a projection; by default an untrained one")
    parser.add_argument("--dtype", choices=("auto", *DTYPES), default="auto", help="of the language model")
    parser.add_argument("--users", type=int, nargs="+", default=(1, 4, 16), help="(default: 1 4 16)")
    parser.add_argument("--pairs", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--max-rows", type=int, default=16, help="decoded together (default: %(default)s)")
    parser.add_argument("--max-new-tokens", type=int, default=48, help="of an answer (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS / "serving.json", help="(default: %(default)s)")
    args = parser.parse_args(argv)
    with reported() as status:
        if min(args.pairs, args.max_new_tokens, *args.users) < 1 or args.max_rows < 2:
            raise ChatError("--pairs, --users and --max-new-tokens must be at least 1, --max-rows at least 2")
        config, _ = config_and_checkpoint(args.config, args.checkpoint)
        config.language.dtype = args.dtype
        model = load_model(config, args.checkpoint, torch.device("cpu"))
        found = [
            measure(Crowd(model, config, users, args.max_new_tokens), args.pairs, args.max_rows)
            for users in args.users
        ]
        words = sys.argv[1:] if argv is None else argv
        about = pairs.about(words) | {"command": " ".join(["python -m benchmarks.serving", *words])}
        dtype = str(model.language_model.dtype).removeprefix("torch.")
        options = {key: str(value) for key, value in vars(args).items() if key != "out"}
        pairs.write({**about, "options": options, "dtype": dtype, "users": found}, args.out)
        print(f"written to {args.out}")
    return status.code


if __name__ == "__main__":
    sys.exit(main())
