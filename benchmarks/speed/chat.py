"""A consultation of four turns, ours against the original's: python -m benchmarks chat.

The original reads the whole conversation again at every turn. Ours keeps the conversation's cache and, where a phrase
repeats itself, reads a few tokens ahead. Both run the same weights in the same precision, with the same picture,
questions and prompt, and decode greedily. From the second turn on the prompts' tokens may differ, since the original
tokenises the whole dialogue at once and ours each part as it was trained; each answer's length is told, and whether
the answers are the same.

A pass reads all weights once, of however many tokens it is, so the bytes read a second are counted by passes. Reading
a prompt is a pass too, and takes longer than its bytes do; the share of a copy is the whole consultation's. Random
weights repeat one word, which would make every guess right, so for them ours does not read ahead.

Research software, not a medical device.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.harness import counts, hardware, options, pairs, shapes
from benchmarks.harness.reference import Chat, Original
from data.phantoms.splits import render_phantom
from skingpt4.chat.session import CLINICAL_PROMPTS, ChatSession
from skingpt4.checkpoints.load import load_projection, require_projection_width
from skingpt4.config.schema import Config
from skingpt4.doctor import memory
from skingpt4.generation.decoder import Decoder
from skingpt4.generation.sampling import ChatError, Generation
from skingpt4.model.network import SkinGPT4
from skingpt4.support.errors import reported
from skingpt4.support.threads import in_own_thread

LENGTHS = (60, 100, 160, 120)  # longest answers of the four turns, in tokens
BARS = {"first token of turns 2 to 4": 5.0, "seconds": 1.5}


class Passes:
    """Counts a language model's forward passes while it is open; a part of a prompt that is read is one."""

    def __init__(self, language_model: Any) -> None:
        """Count nothing yet."""
        self.language_model, self.number = language_model, 0

    def __enter__(self) -> Passes:
        """Begin at 0."""
        self.number = 0
        self._hook = self.language_model.model.register_forward_pre_hook(self._count)
        return self

    def __exit__(self, *_: object) -> None:
        """Keep the number."""
        self._hook.remove()

    def _count(self, *_: object) -> None:
        self.number += 1


class _Watched:
    """A language model that notes when its first pass ended."""

    def __init__(self, model: Any) -> None:
        self.model, self.first = model, 0.0

    def __call__(self, *args: Any, **inputs: Any) -> Any:
        out = self.model(*args, **inputs)
        if not self.first:
            hardware.synchronize(self.model.input_device)  # a GPU has only been told to
            self.first = time.perf_counter()
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
        self.passes: dict[str, int] = {}

    def ours(self) -> dict[str, float]:
        """Seconds to the first token of each turn; the answers are kept for comparison."""
        with Passes(self.model.language_model) as passes:
            figures = self._ours()
        self.passes["ours"] = passes.number
        return figures

    def _ours(self) -> dict[str, float]:
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
        with Passes(self.model.language_model) as passes:
            figures = self.decoder.run(self._yardstick)
        self.passes["yardstick"] = passes.number
        return figures

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


def parser(name: str, description: str | None, pairs: int) -> argparse.ArgumentParser:
    """The common options and what `chat` and `serving` share beside them."""
    made = options.parser(name, description, pairs=pairs)
    made.add_argument(
        "--checkpoint", help="a trained projection, of --shape tiny (default: an untrained one)"
    )
    made.add_argument(
        "--max-guessed", type=int, help="tokens read ahead in a pass (default: 8; 0 of random weights)"
    )
    return made


def settle(name: str, made: argparse.ArgumentParser, argv: Sequence[str] | None) -> options.Setting:
    """As `options.settle`, with `max_guessed` filled in."""
    setting = options.settle(name, made, argv)
    if setting.args.max_guessed is None:
        setting.args.max_guessed = 0 if shapes.SHAPES[setting.args.shape].published else 8
    return setting


def network(setting: options.Setting, config: Config, tokens: int) -> SkinGPT4:
    """The shape's network with its encoder.

    Args:
        setting: with `--checkpoint`.
        config: of the shape.
        tokens: of all conversations that are held at once.

    Raises:
        ShapeError: there is no room, or a checkpoint for random weights.
    """
    args, device = setting.args, setting.device
    if args.checkpoint and shapes.SHAPES[args.shape].published:
        raise shapes.ShapeError(
            "--checkpoint: only --shape tiny has weights that a projection was trained for"
        )
    shape, name = shapes.language_shape(args.shape), str(setting.dtype).removeprefix("torch.")
    needed = memory.chat(config, shape, name, memory.encoder_parameters(config), tokens)
    shapes.require_room(args.shape, needed, device)
    if args.checkpoint:
        require_projection_width(config, args.checkpoint)
    model = shapes.network(args.shape, config, device, setting.dtype)
    if args.checkpoint:
        in_own_thread(lambda: load_projection(model, config, args.checkpoint))
    return model


def conversation_tokens(config: Config, lengths: Sequence[int]) -> int:
    """About what a conversation with answers of these lengths comes to: a question has some 30 tokens."""
    return config.qformer.num_query_tokens + 64 + sum(32 + length for length in lengths)


def measure(setting: options.Setting) -> dict[str, Any]:
    """The pairs, and what they say beside times; printed."""
    args = setting.args
    config = shapes.configuration(args.shape)
    config.compat = "minigpt4"  # the original's chat template
    model = network(setting, config, conversation_tokens(config, args.lengths))
    talk = Consultation(model, config, args.lengths, args.max_guessed)
    top, read = setting.ceiling(), counts.decode_bytes(model.language_model)
    found = pairs.compare(talk.ours, talk.yardstick, args.pairs, device=setting.device, what="consultations")
    lines = {
        key: hardware.roofline(top, side.median(), read_bytes=float(read * talk.passes[key]))
        for key, side in (("ours", found.ours), ("yardstick", found.yardstick))
    }
    same = [a == b for a, b in zip(talk.told["ours"], talk.told["yardstick"], strict=True)]
    bars = {
        name: {"bar": bar, "met": found.ratio(name) >= bar}
        for name, bar in BARS.items()
        if name in found.ours.figures
    }
    print("\n".join([*map(found.line, found.ours.figures), found.peak_line()]))
    for key, line in lines.items():
        print(f"{key}: {sum(talk.num_tokens[key])} tokens in {talk.passes[key]} passes; {line['line']}")
    print(f"same answers: {sum(same)} of {len(same)}; bars: {bars}")
    return {
        "what": f"a consultation with answers of up to {', '.join(map(str, args.lengths))} tokens",
        "checkpoint": args.checkpoint, "max_guessed": args.max_guessed, "num_tokens": talk.num_tokens,
        "num_read_tokens_ours": talk.num_read, "same_answers": same, "weights_read_a_pass_bytes": read,
        "passes": talk.passes, "ceiling": top.to_dict(), "roofline": lines, "bars": bars,
        "measured": found.to_dict(),
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    made = parser("chat", __doc__, pairs=5)
    made.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, metavar="TOKENS",
        help="longest answer of each turn (default: %(default)s)")  # fmt: skip
    with reported() as status:
        setting = settle("chat", made, argv)
        args = setting.args
        if args.small:
            args.lengths, args.pairs = (4, 3, 2, 2), 1
        if args.pairs < 1 or not 1 <= len(args.lengths) <= 4 or min(args.lengths) < 1:
            raise ChatError("--pairs must be at least 1, --lengths one to four numbers of at least 1")
        setting.save(measure(setting))
    return status.code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
