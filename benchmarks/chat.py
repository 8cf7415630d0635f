"""A consultation of four turns, ours against the original's: python -m benchmarks.chat.

The original reads the whole conversation again at every turn. Ours keeps the conversation's cache and reads a few
tokens ahead where a phrase repeats itself. Both run the same weights in the same precision, with the same picture,
questions and prompt, and decode greedily. From the second turn on the prompts' tokens may differ, since the original
tokenises the whole dialogue at once and ours each part as it was trained; each answer's length is told, and whether
the answers are the same.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import hardware, pairs
from benchmarks.pairs import RESULTS, Comparison, compare
from benchmarks.reference import Chat, Original
from data.phantoms import render_phantom
from skingpt4.chat import CLINICAL_PROMPTS, ChatError, ChatSession, config_and_checkpoint, load_model
from skingpt4.config import Config
from skingpt4.decoding import Decoder
from skingpt4.errors import reported
from skingpt4.generation import Generation
from skingpt4.language import DTYPES
from skingpt4.model import SkinGPT4
from skingpt4.threads import in_own_thread

LENGTHS = (60, 100, 160, 120)  # longest answers of the four turns, in tokens
BARS = {"first token of turns 2 to 4": 5.0, "seconds": 1.5}


class _Watched:
    """A language model that notes when its first pass ended."""

    def __init__(self, model: Any) -> None:
        self.model, self.first = model, 0.0

    def __call__(self, *args: Any, **inputs: Any) -> Any:
        out = self.model(*args, **inputs)
        self.first = self.first or time.perf_counter()
        return out

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)


class Consultation:
    """The same four questions about the same picture, asked either way."""

    def __init__(self, model: SkinGPT4, config: Config, lengths: Sequence[int], max_guessed: int = 8) -> None:
        """Encode the picture: both ways do it once, when it is shown.

        Args:
            model: the network.
            config: its configuration; `compat` must be ``minigpt4``, whose chat both ways then write.
            lengths: the longest answer of each turn.
            max_guessed: of our decoder.
        """
        self.model, self.config, self.lengths = model, config, lengths
        self.decoder = Decoder(model, max_guessed=max_guessed)
        session = ChatSession(model, config, self.decoder)
        session.add_image(render_phantom_image())
        self.queries = session.queries
        self.told: dict[str, list[str]] = {}
        self.num_tokens: dict[str, list[int]] = {}
        self.num_read: list[int] = []

    def ours(self) -> dict[str, float]:
        """Seconds to the first token of each turn; the answers are kept for comparison."""
        session = ChatSession(self.model, self.config, self.decoder)
        session.queries, session.waiting = list(self.queries), 1
        firsts, counts, self.num_read = [], [], []
        for question, length in zip(CLINICAL_PROMPTS, self.lengths, strict=False):
            session.ask(question, Generation(max_new_tokens=length))
            assert session.last_timing is not None
            firsts.append(session.last_timing.seconds_to_first_token)
            counts.append(session.last_timing.num_tokens)
            self.num_read.append(session.last_timing.num_read_tokens)
        self.told["ours"] = [turn.answer or "" for turn in session.turns]
        self.num_tokens["ours"] = counts
        session.close()
        return _figures(firsts)

    def yardstick(self) -> dict[str, float]:
        """The same by the original's loop, in the same thread."""
        return self.decoder.run(self._yardstick)

    def _yardstick(self) -> dict[str, float]:
        watched, tokenizer = _Watched(self.model.language_model), self.model.tokenizer
        parts = Original(lambda queries: queries, self.model.projection, watched, tokenizer)
        chat = Chat(parts, stop_ids=[tokenizer("###", add_special_tokens=False)["input_ids"]])
        chat.show(self.queries[0])
        firsts, counts, answers = [], [], []
        for question, length in zip(CLINICAL_PROMPTS, self.lengths, strict=False):
            began, watched.first = time.perf_counter(), 0.0
            chat.ask(question)
            counts.append(len(chat.answer(sample=False, max_new_tokens=length, max_length=8192)))
            firsts.append(watched.first - began)
            text = chat.messages[-1].removeprefix("Assistant: ")
            answers.append(text.split(tokenizer.eos_token)[0].strip())
        self.told["yardstick"], self.num_tokens["yardstick"] = answers, counts
        return _figures(firsts)


def render_phantom_image() -> Any:
    """The picture that is talked about."""
    from PIL import Image

    return Image.fromarray(render_phantom(7, "test", 0).image)


def _figures(firsts: Sequence[float]) -> dict[str, float]:
    later = firsts[1:]
    each = {f"first token of turn {number}": value for number, value in enumerate(firsts, 1)}
    return each | ({"first token of turns 2 to 4": sum(later) / len(later)} if later else {})


def measure(talk: Consultation, num_pairs: int, warm_up: int = 1) -> tuple[Comparison, dict[str, Any]]:
    """The pairs, and what they say beside times."""
    found = compare(talk.ours, talk.yardstick, num_pairs, warm_up, what="consultations")
    ours, theirs = talk.told["ours"], talk.told["yardstick"]
    weights = sum(p.numel() * p.element_size() for p in talk.model.language_model.parameters())
    dtype = talk.model.language_model.dtype
    top = in_own_thread(lambda: hardware.ceiling("cpu", dtype, small=weights < 2**24))
    passed = {name: found.ratio(name) >= bar for name, bar in BARS.items() if name in found.ours.figures}
    facts = {
        "num_tokens": talk.num_tokens,
        "num_read_tokens_ours": talk.num_read,
        "same_answers": [a == b for a, b in zip(ours, theirs, strict=True)],
        "dtype": str(dtype).removeprefix("torch."),
        "weight_bytes": weights,
        "roofline_decoding_ours": hardware.roofline(
            top, found.ours.median(), read_bytes=weights * float(sum(talk.num_tokens["ours"]))
        ),
        "bars": {name: {"bar": BARS[name], "met": met} for name, met in passed.items()},
    }
    return found, facts


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.chat",
        description=f"{__doc__}\nResearch software, no medical device.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", default="configs/tiny/step2.yaml", help="(default: %(default)s)")
    parser.add_argument("--checkpoint", help="a projection; by default an untrained one")
    parser.add_argument("--dtype", choices=("auto", *DTYPES), default="auto", help="of the language model")
    parser.add_argument("--pairs", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, metavar="TOKENS",
        help="longest answer of each turn (default: %(default)s)")  # fmt: skip
    parser.add_argument("--max-guessed", type=int, default=8, help="tokens read ahead; 0: none (default: 8)")
    parser.add_argument("--out", type=Path, default=RESULTS / "chat.json", help="(default: %(default)s)")
    args = parser.parse_args(argv)
    with reported() as status:
        if args.pairs < 1 or not 1 <= len(args.lengths) <= 4 or min(args.lengths) < 1:
            raise ChatError("--pairs must be at least 1, --lengths one to four numbers of at least 1")
        config, _ = config_and_checkpoint(args.config, args.checkpoint)
        config.language.dtype = args.dtype
        config.compat = "minigpt4"
        model = load_model(config, args.checkpoint, torch.device("cpu"))
        talk = Consultation(model, config, args.lengths, args.max_guessed)
        found, facts = measure(talk, args.pairs)
        for name in found.ours.figures:
            print(found.line(name))
        print(found.peak_line())
        for name, value in facts.items():
            print(f"{name}: {value}")
        options: Mapping[str, Any] = {key: str(value) for key, value in vars(args).items() if key != "out"}
        words = sys.argv[1:] if argv is None else argv
        about = pairs.about(words) | {"command": " ".join(["python -m benchmarks.chat", *words])}
        pairs.write({**about, "options": options, **found.to_dict(), **facts}, args.out)
        print(f"written to {args.out}")
    return status.code


if __name__ == "__main__":
    sys.exit(main())
