"""A consultation of four turns, ours against the original's: python -m benchmarks chat.

The original reads the complete conversation again at every turn. Ours keeps the conversation's cache and, if a phrase
repeats itself, reads a few tokens ahead. Both run the same weights in the same precision, with the same image,
questions and prompt, and decode greedily. From the second turn on the prompts' tokens may differ, since the original
tokenises the complete dialogue at once and ours tokenises each part as in training; the length of each answer is
reported, and whether the answers are equal.

A pass reads all weights once, whatever its number of tokens, so the bytes read per second are counted by passes.
Reading a prompt is a pass too, and takes longer than reading its bytes; the fraction of a copy is that of the
complete consultation. Random weights repeat one word, which would make every guess right, so for them ours does not
read ahead.

Research software, not a medical device.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.harness import counts, hardware, options, pairs, shapes, workload
from benchmarks.harness.reference import Chat, Original
from skingpt4.chat.session import ChatSession
from skingpt4.checkpoints.load import load_projection, require_projection_width
from skingpt4.config.schema import Config
from skingpt4.doctor import memory
from skingpt4.generation.decoder import Decoder
from skingpt4.generation.questions import CLINICAL_PROMPTS
from skingpt4.generation.sampling import ChatError, Generation
from skingpt4.model.network import SkinGPT4
from skingpt4.support.errors import reported
from skingpt4.support.threads import in_own_thread

LENGTHS = (60, 100, 160, 120)  # longest answers of the four turns, in tokens
BARS = {"first token of turns 2 to 4": 5.0, "seconds": 1.5}


class Passes:
    """Counts a language model's forward passes while it is open; reading a part of a prompt is one."""

    def __init__(self, language_model: Any) -> None:
        self.language_model, self.number = language_model, 0

    def __enter__(self) -> Passes:
        self.number = 0
        self._hook = self.language_model.model.register_forward_pre_hook(self._count)
        return self

    def __exit__(self, *_: object) -> None:
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
            hardware.synchronize(self.model.input_device)  # a GPU has only queued it
            self.first = time.perf_counter()
        return out

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)


class Consultation:
    """The same four questions about the same image, asked either way.

    Args:
        model: the network.
        config: its configuration; `compat` must be ``minigpt4``, whose chat prompt both ways then use.
        lengths: the longest answer of each turn.
        max_guessed: of our decoder.
    """

    def __init__(self, model: SkinGPT4, config: Config, lengths: Sequence[int], max_guessed: int = 8) -> None:
        self.model, self.config, self.lengths = model, config, lengths
        self.decoder = Decoder(model, max_guessed=max_guessed)
        session = ChatSession(model, config, self.decoder)
        session.add_image(workload.drawn_image(0, "test", seed=7))
        self.queries = session.queries  # both ways encode the image once, when it is shown
        self.answers: dict[str, list[str]] = {}
        self.num_tokens: dict[str, list[int]] = {}
        self.num_read: list[int] = []
        self.passes: dict[str, int] = {}

    def ours(self) -> dict[str, float]:
        """Seconds to the first token of each turn; the answers are saved for comparison."""
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
        self.answers["ours"] = [turn.answer or "" for turn in session.turns]
        self.num_tokens["ours"] = counts
        session.close()
        return _figures(firsts)

    def baseline(self) -> dict[str, float]:
        """The same by the original's loop, in the same thread."""
        with Passes(self.model.language_model) as passes:
            figures = self.decoder.run(self._baseline)
        self.passes[pairs.BASELINE] = passes.number
        return figures

    def _baseline(self) -> dict[str, float]:
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
        self.answers[pairs.BASELINE], self.num_tokens[pairs.BASELINE] = answers, counts
        return _figures(firsts)


def _figures(firsts: Sequence[float]) -> dict[str, float]:
    later = firsts[1:]
    each = {f"first token of turn {number}": value for number, value in enumerate(firsts, 1)}
    return each | ({"first token of turns 2 to 4": sum(later) / len(later)} if later else {})


def parser(name: str, description: str | None, pairs: int) -> argparse.ArgumentParser:
    """The shared options, and those that `chat` and `serving` have in common."""
    made = options.parser(name, description, pairs=pairs)
    made.add_argument(
        "--checkpoint", help="a trained projection, of --shape tiny (default: an untrained one)"
    )
    made.add_argument(
        "--max-guessed", type=int, help="tokens read ahead in a pass (default: 8; 0 of random weights)"
    )
    return made


def settle(
    name: str, made: argparse.ArgumentParser, argv: Sequence[str] | None
) -> tuple[options.Setting, argparse.Namespace]:
    """As `options.settle`, with `max_guessed` filled in."""
    setting, args = options.settle(name, made, argv)
    if args.max_guessed is None:
        args.max_guessed = 0 if setting.shape.language else 8
    return setting, args


def network(setting: options.Setting, config: Config, tokens: int, checkpoint: str | None) -> SkinGPT4:
    """The shape's network with its encoder.

    Args:
        setting: of the benchmark.
        config: of the shape.
        tokens: of all conversations that are held at once.
        checkpoint: a trained projection, or None.

    Raises:
        ShapeError: it does not fit, or a checkpoint for random weights.
    """
    shape, device = setting.shape, setting.device
    if checkpoint and shape.language:
        raise shapes.ShapeError(
            "--checkpoint: only --shape tiny has weights that a projection was trained for"
        )
    needed = memory.chat(
        config, shapes.language_shape(shape), setting.dtype_name, memory.encoder_parameters(config), tokens
    )
    shapes.require_room(shape, needed, device)
    if checkpoint:
        require_projection_width(config, checkpoint)
    model = shapes.network(shape, config, device, setting.dtype)
    if checkpoint:
        in_own_thread(lambda: load_projection(model, config, checkpoint))
    return model


def conversation_tokens(config: Config, lengths: Sequence[int]) -> int:
    """About how many tokens a conversation with answers of these lengths has: a question has some 30."""
    return config.qformer.num_query_tokens + 64 + sum(32 + length for length in lengths)


def measure(
    setting: options.Setting, lengths: Sequence[int], checkpoint: str | None, max_guessed: int
) -> dict[str, Any]:
    """The pairs, their rooflines, and whether the answers are equal; printed."""
    config = shapes.configuration(setting.shape)
    config.compat = "minigpt4"  # the original's chat template
    model = network(setting, config, conversation_tokens(config, lengths), checkpoint)
    talk = Consultation(model, config, lengths, max_guessed)
    top, read = setting.ceiling(), counts.decode_bytes(model.language_model)
    comparison = pairs.compare(
        talk.ours, talk.baseline, setting.pairs, device=setting.device, what="consultations"
    )
    lines = {
        key: hardware.roofline(top, side.median(), read_bytes=float(read * talk.passes[key]))
        for key, side in (("ours", comparison.ours), (pairs.BASELINE, comparison.baseline))
    }
    same = [a == b for a, b in zip(talk.answers["ours"], talk.answers[pairs.BASELINE], strict=True)]
    bars = {
        name: {"bar": bar, "met": comparison.ratio(name) >= bar}
        for name, bar in BARS.items()
        if name in comparison.ours.figures
    }
    print("\n".join([*map(comparison.line, comparison.ours.figures), comparison.peak_line()]))
    for key, line in lines.items():
        print(f"{key}: {sum(talk.num_tokens[key])} tokens in {talk.passes[key]} passes; {line['line']}")
    print(f"same answers: {sum(same)} of {len(same)}; bars: {bars}")
    return {
        "what": f"a consultation with answers of up to {', '.join(map(str, lengths))} tokens",
        "checkpoint": checkpoint, "max_guessed": max_guessed, "num_tokens": talk.num_tokens,
        "num_read_tokens_ours": talk.num_read, "same_answers": same, "weights_read_a_pass_bytes": read,
        "passes": talk.passes, "ceiling": top.to_dict(), "roofline": lines, "bars": bars,
        "measured": comparison.to_dict(),
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    made = parser("chat", __doc__, pairs=5)
    made.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, metavar="TOKENS",
        help="longest answer of each turn (default: %(default)s)")  # fmt: skip
    with reported() as status:
        setting, args = settle("chat", made, argv)
        lengths = (4, 3, 2, 2) if setting.small else args.lengths
        if setting.pairs < 1 or not 1 <= len(lengths) <= 4 or min(lengths) < 1:
            raise ChatError("--pairs must be at least 1, --lengths one to four numbers of at least 1")
        setting.save(measure(setting, lengths, args.checkpoint, args.max_guessed))
    return status.code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
