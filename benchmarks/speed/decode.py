"""Decoding, ours against the original's loop: python -m benchmarks decode.

Tokens per second for one conversation, and for several at once, which ours decodes together and the original one
after another. The end token is ignored, so all answers have the same length; both ways run in the same thread. A
token reads all weights once, so the bytes read per second are compared with a copy's, measured in the same run.

Research software, not a medical device.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch

from benchmarks.harness import counts, hardware, options, pairs, reference, shapes
from skingpt4.config.schema import Config
from skingpt4.doctor import memory
from skingpt4.generation.decoder import Decoder
from skingpt4.generation.sampling import Generation
from skingpt4.model.network import SkinGPT4
from skingpt4.model.prompts import Turn, encode_turns, get_template
from skingpt4.support.errors import reported

QUESTIONS = ("What is wrong with my skin?", "Could you describe the skin disease in this image for me?")


class Sides:
    """The same conversations answered both ways, greedily, up to `tokens` tokens each; see `Decoder.max_guessed`."""

    def __init__(
        self,
        model: SkinGPT4,
        queries: torch.Tensor,
        template: str,
        rows: int,
        tokens: int,
        max_guessed: int = 8,
    ) -> None:
        model.end_tokens = lambda stop: {}  # type: ignore[method-assign]
        self.model, self.queries, self.tokens = model, queries, tokens
        self.prompts = [  # they differ in length
            encode_turns(
                get_template(template), [Turn(QUESTIONS[n % 2], None, 1)], model.tokenizer, queries.shape[1]
            )
            for n in range(rows)
        ]
        self.decoder = Decoder(model, max_rows=rows, max_guessed=max_guessed)
        self.generation = Generation(max_new_tokens=tokens)
        endless: Any = SimpleNamespace(eos_token_id=None)
        self.original = reference.Original(
            lambda queries: queries, model.projection, model.language_model, endless
        )
        self.answers: dict[str, list[list[int]]] = {}
        self.step_seconds: list[float] = []  # of ours, after the first token

    def ours(self) -> None:
        """The product's decoder, all conversations at once."""
        streams = [self.decoder.submit(p, self.queries, self.generation) for p in self.prompts]
        for stream in streams:
            stream.result()
        self.answers["ours"] = [stream.ids for stream in streams]
        first = max(s.timing.seconds_to_first_token for s in streams if s.timing)
        total = max(s.timing.seconds for s in streams if s.timing)
        steps = max(len(stream.ids) for stream in streams) - 1
        self.step_seconds.append((total - first) / max(1, steps))

    def theirs(self) -> None:
        """The original's loop, one conversation after another."""
        self.decoder.run(self._theirs)

    def _theirs(self) -> None:
        self.answers[pairs.BASELINE] = [
            reference.generate(
                self.original,
                self.model.embed(torch.tensor([p.input_ids]), self.queries),
                (),
                False,
                self.tokens,
            )
            for p in self.prompts
        ]

    def num_tokens(self, side: str) -> int:
        """Of the last run."""
        return sum(map(len, self.answers[side]))


def random_queries(config: Config, device: torch.device) -> torch.Tensor:
    """(1, q, d) of one image; speed does not depend on their values."""
    generator = torch.Generator().manual_seed(0)
    shape = (1, config.qformer.num_query_tokens, config.qformer.width)
    return torch.randn(shape, generator=generator).to(device)


def measure(setting: options.Setting, num_conversations: Sequence[int], tokens: int) -> dict[str, Any]:
    """Each number of conversations in pairs."""
    device, config = setting.device, shapes.configuration(setting.shape)
    shape = shapes.language_shape(setting.shape)
    needed = memory.chat(config, shape, setting.dtype_name, 0, 512 * max(num_conversations))
    shapes.require_room(setting.shape, needed, device)
    model = shapes.network(setting.shape, config, device, setting.dtype, with_encoder=False)
    queries = random_queries(config, device)
    top, read = setting.ceiling(), counts.decode_bytes(model.language_model)
    results = []
    for rows in num_conversations:
        sides = Sides(model, queries, config.prompt.template, rows, tokens)
        comparison = pairs.compare(
            sides.ours, sides.theirs, setting.pairs, device=device, what=f"{rows} at once"
        )
        step = statistics.median(sides.step_seconds[1:])  # the first was the warm-up
        line = hardware.roofline(top, step, read_bytes=read)
        rates = {
            "ours": sides.num_tokens("ours") / comparison.ours.median(),
            pairs.BASELINE: sides.num_tokens(pairs.BASELINE) / comparison.baseline.median(),
        }
        equal = sum(a == b for a, b in zip(*sides.answers.values(), strict=True))
        results.append({
            "conversations": rows, "tokens": sides.num_tokens("ours"), "tokens_per_second": rates,
            "ours_tokens_per_second_after_the_first": rows / step, "equal_answers": equal, "roofline": line,
            "measured": comparison.to_dict(),
        })  # fmt: skip
        print(
            f"{rows} at once: {rates['ours']:.1f} tokens/s ({rows / step:.1f} after the first) against "
            f"{rates[pairs.BASELINE]:.1f}; {equal} of {rows} answers equal; {line['line']}\n"
            f"{comparison.line()}\n{comparison.peak_line()}"
        )
    return {
        "what": f"greedy decoding of up to {tokens} tokens, prompts included in the time",
        "weights_read_a_token_bytes": read, "ceiling": top.to_dict(), "rows": results,
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = options.parser("decode", __doc__, pairs=3)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8], help="conversations at once")
    parser.add_argument("--tokens", type=int, default=48, help="of an answer (default: %(default)s)")
    with reported() as status:
        setting, args = options.settle("decode", parser, argv)
        rows, tokens = ([1, 2], 4) if setting.small else (args.rows, args.tokens)
        setting.save(measure(setting, rows, tokens))
    return status.code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
