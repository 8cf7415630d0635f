"""What each lever of training pays: python -m benchmarks levers.

All levers together, then all but one, and the original's way, in turns in one process over the same samples. A ratio
is the time or the peak memory without the lever over that with it, round by round; the same ratio by the count of
operations stands beside it. Layers are compiled before anything is timed; the seconds are reported. Reading images
from the disk is not counted.

Research software, not a medical device.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.harness import counts, options, pairs, shapes
from benchmarks.speed.train import Bench, Size, attending, command, compile_in_time
from skingpt4.model import loss
from skingpt4.model.language import LanguageModel
from skingpt4.training import compiled
from skingpt4.training.batches import Collate

ALL, ORIGINAL = "all levers", "the original's way"
Batches = Sequence[Sequence[dict[str, torch.Tensor]]]


@dataclass
class Way:
    """All levers but one."""

    run: Callable[[], None]
    step: counts.Step


@contextmanager
def changed(owner: Any, **values: Any) -> Iterator[None]:
    """Other attributes for a while."""
    before = {name: getattr(owner, name) for name in values}
    for name, value in values.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


def ways(bench: Bench, setting: options.Setting, size: Size) -> dict[str, Way]:
    """Every way by what its configuration changes."""
    model, config = bench.model, bench.config
    own = list(bench.groups())
    samples = [
        [bench.samples[step * size.batch + n] for n in range(size.batch)] for step in range(size.steps)
    ]

    def of(
        batches: Batches, *contexts: Callable[[], Any], all_logits: bool = False, encoder: bool = False
    ) -> Way:
        inner = bench.our_run(batches)

        def run() -> None:
            with ExitStack() as stack:
                for context in contexts:
                    stack.enter_context(context())
                inner()

        groups = [group for batch in batches for group in batch]
        tokens = sum(group["input_ids"].numel() for group in groups)
        supervised = sum(int((group["labels"][:, 1:] >= 0).sum()) for group in groups)
        return Way(
            run, counts.Step(tokens, tokens if all_logits else supervised, size.steps * size.batch * encoder)
        )

    def put_together(batching: str) -> Batches:
        return [Collate(batching)(batch) for batch in samples]

    def with_images() -> Batches:
        return [
            bench.collate(
                [
                    {"encoded": s["encoded"], "image": image}
                    for s, image in zip(rows, batch.image, strict=True)
                ]
            )
            for rows, batch in zip(samples, bench.batches, strict=True)
        ]

    attention = model.language_model.config._attn_implementation
    other = "sdpa" if attention == "eager" else "eager"
    ways = {
        ALL: of(own),
        "data.feature_cache=null": of(
            with_images(), lambda: changed(model, encoder=bench.encoder), encoder=True
        ),
        "logits at all positions": of(
            own, lambda: changed(model.language_model, has_plain_head=False), all_logits=True
        ),
        "logits in one chunk": of(own, lambda: changed(loss, LOSS_CHUNK_BYTES=0)),
        "data.batching=padded": of(put_together("padded")),
        f"language.attention={other}": of(own, lambda: attending(model.language_model, other)),
    }
    if bench.compile_seconds is not None:
        ways["language.compile=never"] = of(own, compiled.as_written)
    if setting.dtype is not torch.float32 and setting.shape.language is None:
        config.language.dtype = "float32"
        in_fp32 = LanguageModel(config.language, setting.device)
        if bench.compile_seconds is not None:
            compile_in_time(in_fp32)
        ways["language.dtype=float32"] = of(own, lambda: changed(model, language_model=in_fp32))
    ways[ORIGINAL] = Way(bench.original_run(size.attention), bench.counted()[1])
    return ways


def measure(setting: options.Setting, size: Size, bench: Bench) -> dict[str, Any]:
    """All ways in turns, as a table."""
    torch._dynamo.config.recompile_limit = 64  # each way may be a form of its own
    top = setting.ceiling()
    all_ways = ways(bench, setting, size)
    sides = pairs.in_turns(
        {name: way.run for name, way in all_ways.items()}, setting.pairs, device=setting.device, what="rounds"
    )
    shape, encoder_flops = shapes.language_shape(setting.shape), bench.encoder_flops()
    operations = {name: sum(way.step.flops(shape, encoder_flops).values()) for name, way in all_ways.items()}
    rows = {
        name: pairs.Comparison(sides[ALL], side).to_dict()
        | {"count_ratio": operations[name] / operations[ALL], "counted": all_ways[name].step.to_dict()}
        for name, side in sides.items()
    }
    print(table({"ways": rows}))
    return {
        "what": f"training: {size.steps} steps of batch {size.batch} a run, {setting.pairs} rounds",
        "overrides": size.overrides, "counted": counts.WHAT, "ceiling": top.to_dict(),
        "compile_seconds": bench.compile_seconds, "ways": rows,
    }  # fmt: skip


def table(result: dict[str, Any]) -> str:
    """Markdown, as docs/performance.md shows it: time and peak memory without a lever over those with all."""
    lines = ["| without | time | peak memory | by the count |", "|---|---|---|---|"]
    for name, row in result["ways"].items():
        ratio, peak = row["ratios"]["seconds"], row["peak_ratio"]
        memory = "-" if peak is None else f"{peak:.2f}"
        spread = "" if name == ALL else f" ({ratio['minimum']:.2f} to {ratio['maximum']:.2f})"
        lines.append(f"| {name} | {ratio['median']:.2f}{spread} | {memory} | {row['count_ratio']:.2f} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    return command("levers", __doc__, measure, argv, pairs=3, steps=1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
