"""Training on 1 to 64 GPUs, calculated: memory a card, communication a step, throughput: python -m benchmarks scale.

Arithmetic on the language models' shapes and on inputs.yaml (data sheets and assumptions, marked as such); nothing is
loaded or measured. Where `python -m benchmarks gpu` has left its JSON, its rates replace the assumed efficiency for
the card and the models that it measured. docs/scale.md prints the tables.

Research software, not a medical device.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.harness.results import RESULTS, about, write
from benchmarks.harness.shapes import ROOT, SHAPES, language_shape
from benchmarks.scale.estimate import (
    WAYS,
    Load,
    data_side,
    step_memory,
    step_speed,
    step_traffic,
)
from benchmarks.scale.inputs import DEFAULT, Inputs, InputsError, Measured, read_inputs, read_measured
from skingpt4.config.load import load_config
from skingpt4.doctor.memory import GIB
from skingpt4.model.build import empty_encoder
from skingpt4.model.network import num_parameters
from skingpt4.model.projection import picture_shape
from skingpt4.records.feature_store import StoreShape
from skingpt4.support.errors import reported

NAME = "scale"
RECORDS = (1_000_000, 100_000_000)
SHARD_BYTES = 500_000_000  # the default of python -m data.pack
TITLES = {
    "ddp": "a copy on every card",
    "fsdp": "FSDP2",
    "fsdp_ckpt": "FSDP2, checkpointing",
    "offload": "the same, CPU offload",
}


def rows(inputs: Inputs, measured: Mapping[str, Measured]) -> Iterator[dict[str, Any]]:
    """One row a model, way, number of GPUs and batch, on the inputs' card."""
    card = inputs.cards[inputs.card]
    shapes = {title: language_shape(SHAPES[name]) for title, name in inputs.models.items()}
    for title, batch, way, gpus in product(shapes, inputs.batches, WAYS, inputs.gpus):
        if gpus == 1 and way.startswith("fsdp"):
            continue
        step = measured.get(title)
        if step is not None and card.torch_name not in step.gpu:
            step = None
        load = Load(shapes[title], batch, card.dtype)
        memory = step_memory(load, way, gpus)
        traffic = step_traffic(load, way, gpus, inputs, card)
        speed = step_speed(load, way, traffic, inputs, card, step)
        yield {
            "model": title, "way": way, "gpus": gpus, "batch": batch, "memory": asdict(memory),
            "card_bytes": memory.card, "fits": memory.card <= card.memory_gb * 1e9, "traffic": asdict(traffic),
            "speed": asdict(speed), "samples_per_second": speed.samples_per_second(batch, gpus),
        }  # fmt: skip


def data_rows(inputs: Inputs) -> list[dict[str, Any]]:
    """The data side, on the tables' card."""
    config = load_config(ROOT / "configs/paper/step1_vicuna13b.yaml")
    vision, _ = empty_encoder(config)
    operations = 2.0 * num_parameters(vision) * vision.num_tokens
    picture = picture_shape(config)
    store = StoreShape(1, 1, picture.num_vectors, picture.width)
    return [
        asdict(data_side(count, inputs, inputs.cards[inputs.card], operations, SHARD_BYTES, store.num_bytes))
        for count in RECORDS
    ]


def calculate(inputs: Inputs, measured: Mapping[str, Measured]) -> dict[str, Any]:
    """Everything that the JSON holds beside its provenance."""
    return {
        "what": "calculated from shapes, data sheets and assumptions; nothing here was measured but `measured`",
        "inputs": asdict(inputs),
        "measured": {title: asdict(step) for title, step in measured.items()},
        "rows": list(rows(inputs, measured)),
        "data": data_rows(inputs),
    }


def _of(result: Mapping[str, Any], **keys: Any) -> dict[str, Any] | None:
    """The row with these values, or None."""
    return next(
        (row for row in result["rows"] if all(row[key] == value for key, value in keys.items())), None
    )


def _table(result: Mapping[str, Any], gpus: Sequence[int], cell: Any) -> list[str]:
    heads = " | ".join(f"{count} GPU{'s' * (count > 1)}" for count in gpus)
    lines = [f"| language model | placed | {heads} |", "|---|---|" + "---|" * len(gpus)]
    for model in result["inputs"]["models"]:
        for way in WAYS:
            cells = " | ".join(cell(model, way, count) for count in gpus)
            lines.append(f"| {model} | {TITLES[way]} | {cells} |")
    return lines


def memory_table(result: Mapping[str, Any]) -> str:
    """GiB a card for each batch; what the card does not hold is in italics."""
    batches = result["inputs"]["batches"]

    def cell(model: str, way: str, count: int) -> str:
        found = [_of(result, model=model, way=way, gpus=count, batch=batch) for batch in batches]
        texts = [f"{row['card_bytes'] / GIB:.1f}" if row["fits"] else f"*{row['card_bytes'] / GIB:.1f}*"
                 for row in found if row]  # fmt: skip
        return " / ".join(texts)

    return "\n".join(_table(result, result["inputs"]["gpus"], cell))


def traffic_table(result: Mapping[str, Any]) -> str:
    """What a card receives in a step: parts of the language model in GB, gradients in MB."""

    def cell(model: str, way: str, count: int) -> str:
        row = _of(result, model=model, way=way, gpus=count, batch=result["inputs"]["batches"][0])
        if row is None:
            return ""
        traffic = row["traffic"]
        text = f"{traffic['gathered'] / 1e9:.1f} GB + {traffic['reduced'] / 1e6:.0f} MB"
        return text + (f", {traffic['from_host'] / 1e9:.1f} GB from the host" if traffic["from_host"] else "")

    return "\n".join(_table(result, [count for count in result["inputs"]["gpus"] if count > 1], cell))


def speed_table(result: Mapping[str, Any], batch: int) -> str:
    """Samples a second of all cards together: nothing hidden to everything hidden; empty where it does not fit."""

    def cell(model: str, way: str, count: int) -> str:
        row = _of(result, model=model, way=way, gpus=count, batch=batch)
        if row is None or not row["fits"]:
            return ""
        low, high = (
            f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in row["samples_per_second"]
        )
        return low if low == high else f"{low} to {high}"

    return "\n".join(_table(result, result["inputs"]["gpus"], cell))


def data_table(result: Mapping[str, Any]) -> str:
    """Sizes of the data, and the encoder's hours."""
    card = result["inputs"]["card"]
    lines = [
        f"| records | manifests | pictures | shards | cached features | hours of encoding, one {card} | 64 of them |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["data"]:
        lines.append(
            f"| {row['records']:,} | {row['manifest_bytes'] / 1e9:.1f} GB | {row['shards_bytes'] / 1e9:,.0f} GB | "
            f"{row['shards']:,} | {row['features_bytes'] / 1e9:,.0f} GB | {row['encoder_gpu_hours']:.1f} | "
            f"{row['encoder_gpu_hours'] / 64:.2f} |"
        )
    return "\n".join(lines)


def tables(result: Mapping[str, Any]) -> dict[str, str]:
    """The tables of docs/scale.md by their titles."""
    batches = result["inputs"]["batches"]
    return {
        f"GiB a card, batch {' / '.join(map(str, batches))}": memory_table(result),
        "what a card receives in a step": traffic_table(result),
        **{f"samples a second, batch {batch} a card": speed_table(result, batch) for batch in batches},
        "data": data_table(result),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks {NAME}",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--inputs", type=Path, default=DEFAULT, help="data sheets and assumptions (default: own)"
    )
    parser.add_argument("--card", help="whose tables are printed (default: the inputs' own)")
    parser.add_argument(
        "--gpu-results", type=Path, default=RESULTS / "gpu.json",
        help="of python -m benchmarks gpu; used if it is there (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=RESULTS / "scale.json", help="(default: %(default)s)")
    args = parser.parse_args(argv)
    with reported() as status:
        inputs = read_inputs(args.inputs)
        if args.card:
            if args.card not in inputs.cards:
                raise InputsError(f"--card {args.card}: is none of {', '.join(inputs.cards)}")
            inputs = replace(inputs, card=args.card)
        measured = read_measured(args.gpu_results, inputs.models)
        for title, step in measured.items():
            known = [name for name, card in inputs.cards.items() if card.torch_name in step.gpu]
            used = (
                f"used for {known[0]}" if known else "which is none of the inputs' cards, so it is not used"
            )
            peak = step.peak_bytes_above_weights
            memory = "" if peak is None else f", at most {peak / GIB:.1f} GiB above the weights"
            print(
                f"measured: {title}, batch {step.batch}, {step.tflops:.0f} TFLOP/s{memory} on {step.gpu}, {used}"
            )
        result = calculate(inputs, measured)
        for title, text in tables(result).items():
            print(f"\n{title} ({inputs.card})\n\n{text}")
        write({**about([NAME, *(argv or [])]), **result}, args.out)
    return status.code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
