"""Throughput over batch, length, records and processes, as a table and a plot: python -m benchmarks scaling.

Training steps of the product on cached features (random ones: speed does not depend on their values), with compiled
layers if a long run compiles them. Records are not measured here: `python -m benchmarks records-start` measures
start-up and memory of 1 thousand to 1 million, and its figures are plotted with the commit they were measured at.
Processes are started as users start them, by torchrun; they share the machine's cores and the batch.

Research software, not a medical device.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from tqdm import tqdm

from benchmarks.harness import counts, hardware, options, shapes, workload
from benchmarks.harness.results import RESULTS
from benchmarks.speed.train import compile_in_time
from skingpt4.model.network import SkinGPT4
from skingpt4.model.prompts import Turn, encode_turns, get_template
from skingpt4.support.errors import reported
from skingpt4.support.threads import num_cores
from skingpt4.training import compiled, loop
from skingpt4.training.batches import make_collate
from skingpt4.training.optim.optimizer import make_optimizer

QUESTION = "What is wrong with my skin?"
BATCHES, LENGTHS, PROCESSES = (1, 2, 4, 8, 16), (20, 80, 160, 320), (1, 2)
LENGTH_BATCH, PROCESS_BATCH = 4, 8


class Steps:
    """Training steps on samples with answers of chosen lengths; the network has no encoder."""

    def __init__(self, setting: options.Setting) -> None:
        self.device = setting.device
        self.config = shapes.configuration(setting.shape)
        self.model: SkinGPT4 = shapes.network(
            setting.shape, self.config, self.device, setting.dtype, with_encoder=False
        )
        self.model.train()
        self.accelerator = Accelerator(mixed_precision="no", cpu=self.device.type == "cpu")
        self.optimizer = make_optimizer(self.model, self.config.optim)
        iterations = 0 if setting.small else compiled.PAYS_AFTER  # as a long run does
        language_model = self.model.language_model
        if compiled.should_compile(self.config.language.compile, language_model, iterations):
            compile_in_time(language_model)
        self.collate = make_collate(self.config, language_model)

    def measure(self, lengths: Sequence[int], repeats: int) -> dict[str, Any]:
        """Seconds of a step over one batch of answers of these lengths, the fastest of `repeats`, and its peak."""
        config, tokenizer = self.config, self.model.tokenizer
        template, count = get_template(config.prompt.template), config.qformer.num_query_tokens
        samples: list[dict[str, Any]] = []
        for seed, length in enumerate(lengths):
            answer = workload.answer_of(tokenizer, template, length, seed)
            encoded = encode_turns(template, [Turn(QUESTION, answer, 1)], tokenizer, count)
            samples.append({"encoded": encoded, "queries": torch.randn(count, config.qformer.width)})
        groups = self.collate(samples)

        def step() -> float:
            hardware.synchronize(self.device)
            began = time.perf_counter()
            loop.train_step(self.model, self.optimizer, groups, self.accelerator, 1.0)
            hardware.synchronize(self.device)
            return time.perf_counter() - began

        step()
        with hardware.PeakMemory(self.device) as peak:
            step()
        took = [step() for _ in range(repeats)]
        tokens = sum(len(sample["encoded"].input_ids) for sample in samples)
        supervised = sum(int((group["labels"][:, 1:] >= 0).sum()) for group in groups)
        counted = counts.Step(sum(group["input_ids"].numel() for group in groups), supervised, 0)
        return {
            "batch": len(samples), "tokens": tokens, "seconds_a_step": min(took), "each": took,
            "samples_per_second": len(samples) / min(took), "tokens_per_second": tokens / min(took),
            "peak_bytes_above_weights": peak.peak_bytes, "counted": counted.to_dict(),
        }  # fmt: skip


@dataclass
class Size:
    """The rows of the tables, and how often each is timed."""

    repeats: int
    batches: Sequence[int]
    lengths: Sequence[int]
    processes: Sequence[int]
    length_batch: int
    process_batch: int


def processes(setting: options.Setting, size: Size, count: int) -> dict[str, Any]:
    """The same global batch by `count` processes, which share the cores."""
    threads = max(1, num_cores() // count)
    # Not `accelerate launch`: without several GPUs it starts one process, whatever it was asked for.
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    command += [
        "-m", "benchmarks", "scaling", "--child", str(size.process_batch // count), "--shape", setting.shape.name,
        "--threads", str(threads), "--repeats", str(size.repeats), "--dtype", setting.dtype_name,
    ]  # fmt: skip
    command += ["--device", setting.device.type] if setting.device.type == "cpu" else []
    command += ["--small"] if setting.small else []
    env = os.environ | {"PYTHONPATH": ".", "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode:
        raise shapes.ShapeError(
            f"{count} processes failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}"
        )
    figures = json.loads(done.stdout.strip().splitlines()[-1])
    if figures["world"] != count:
        raise shapes.ShapeError(f"{figures['world']} processes were measured in place of {count}")
    rate = size.process_batch / figures["seconds_a_step"]
    return {"processes": count, "threads_each": threads, "samples_per_second": rate, **figures}


def child(setting: options.Setting, batch: int, repeats: int) -> None:
    """One process of several: its part of the batch; the first one prints."""
    steps = Steps(setting)
    rank, world = steps.accelerator.process_index, steps.accelerator.num_processes
    lengths = workload.answer_lengths(batch * world)[rank::world]
    figures = steps.measure(lengths, repeats)
    if steps.accelerator.is_main_process:
        print(
            json.dumps({"seconds_a_step": figures["seconds_a_step"], "each": figures["each"], "world": world})
        )
    steps.accelerator.end_training()


def records() -> dict[str, Any]:
    """The result of `python -m benchmarks records-start`, with the commit it was measured at."""
    path = RESULTS / "records.json"
    if not path.is_file():
        return {"missing": "run python -m benchmarks records-start"}
    result = json.loads(path.read_text(encoding="utf-8"))
    commit = result.get("commit", result.get("git_revision"))  # its name in older results
    return {"commit": commit, "hardware": result["hardware"], "rows": result["rows"]}


def measure(setting: options.Setting, size: Size) -> dict[str, Any]:
    """All tables."""
    top = setting.ceiling()
    steps = Steps(setting)
    by_batch = [
        steps.measure(workload.answer_lengths(batch) if batch > 1 else [90], size.repeats)
        for batch in tqdm(size.batches, desc="batches", disable=None)
    ]
    by_length = [
        {"answer_tokens": length, **steps.measure([length] * size.length_batch, size.repeats)}
        for length in tqdm(size.lengths, desc="lengths", disable=None)
    ]
    del steps
    by_processes = [processes(setting, size, n) for n in tqdm(size.processes, desc="processes", disable=None)]
    result = {
        "what": "training on cached features; seconds of the fastest step", "ceiling": top.to_dict(),
        "batch": by_batch, "length": by_length, "processes": by_processes, "records": records(),
    }  # fmt: skip
    print(table(result))
    return result


def table(result: dict[str, Any]) -> str:
    """Markdown, one table for each question."""
    tables = [batch_table(result), length_table(result), processes_table(result)]
    return "\n\n".join(tables + ([records_table(result["records"])] if result["records"].get("rows") else []))


def batch_table(result: dict[str, Any]) -> str:
    """Markdown: by batch."""
    lines = ["| batch | samples/s | tokens/s | peak MiB above the weights |", "|---|---|---|---|"]
    return "\n".join(lines + [_line(row["batch"], row) for row in result["batch"]])


def length_table(result: dict[str, Any]) -> str:
    """Markdown: by the answers' length."""
    batch = result["length"][0]["batch"]
    lines = [f"| answer's tokens (batch {batch}) | samples/s | tokens/s | peak MiB |", "|---|---|---|---|"]
    return "\n".join(lines + [_line(row["answer_tokens"], row) for row in result["length"]])


def processes_table(result: dict[str, Any]) -> str:
    """Markdown: by processes."""
    lines = ["| processes | threads each | samples/s |", "|---|---|---|"]
    return "\n".join(
        lines
        + [
            f"| {row['processes']} | {row['threads_each']} | {row['samples_per_second']:.2f} |"
            for row in result["processes"]
        ]
    )


def records_table(result: dict[str, Any]) -> str:
    """Markdown: by records, of `python -m benchmarks records-start`."""
    lines = ["| records | start | start s | ms a sample | private MiB |", "|---|---|---|---|---|"]
    return "\n".join(
        lines
        + [
            f"| {row['records']} | {'first' if 'first' in row['way'] else 'later'} | {row['start_seconds']:.2f} | "
            f"{row['ms_per_sample']:.2f} | {row['private_mib']:.0f} |"
            for row in result["rows"]
            if row["way"] != "list"
        ]
    )


def _line(first: Any, row: dict[str, Any]) -> str:
    peak = row["peak_bytes_above_weights"]
    mib = "-" if peak is None else f"{peak / 2**20:.0f}"
    return f"| {first} | {row['samples_per_second']:.2f} | {row['tokens_per_second']:.0f} | {mib} |"


def plot(result: dict[str, Any], path: Path) -> None:
    """Four panels as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    (batch, length), (process, record) = figure.subplots(2, 2)
    for axes, rows, key, title in (
        (batch, result["batch"], "batch", "batch size"),
        (
            length,
            result["length"],
            "answer_tokens",
            f"tokens of the answer, batch {result['length'][0]['batch']}",
        ),
    ):
        places, rates = [row[key] for row in rows], [row["tokens_per_second"] for row in rows]
        axes.plot(places, rates, "o-", label="tokens/s")
        axes.set(xlabel=title, ylabel="tokens/s", xticks=places, ylim=(0, 1.1 * max(rates)))
        peaks = [row["peak_bytes_above_weights"] for row in rows]
        if None not in peaks:
            other = axes.twinx()
            other.plot(places, [peak / 2**20 for peak in peaks], "s--", color="C1", label="peak")
            other.set(ylabel="peak MiB above the weights (dashed)", ylim=(0, 1.1 * max(peaks) / 2**20))
    counts = [row["processes"] for row in result["processes"]]
    process.bar(
        [str(n) for n in counts], [row["samples_per_second"] for row in result["processes"]], width=0.5
    )
    process.set(xlabel="processes, which share the cores and the batch", ylabel="samples/s")
    for way, mark in (("map, first", "o-"), ("map", "s-")):
        rows = [row for row in result["records"].get("rows", ()) if row["way"] == way]
        label = "first start" if "first" in way else "later starts"
        record.plot([r["records"] for r in rows], [r["start_seconds"] for r in rows], mark, label=label)
    record.axhline(10, color="0.6", linewidth=0.8, label="10 s")
    record.set(xlabel="records", ylabel="start-up, s", xscale="log", yscale="log")
    record.legend()
    figure.savefig(path, dpi=100)
    print(f"written: {path}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = options.parser("scaling", __doc__)
    parser.add_argument("--repeats", type=int, default=2, help="timed steps a row (default: %(default)s)")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES, help="sizes of a batch")
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, help="tokens of an answer")
    parser.add_argument("--processes", type=int, nargs="+", default=PROCESSES, help="how many, by torchrun")
    parser.add_argument(
        "--length-batch", type=int, default=LENGTH_BATCH, help="samples where lengths are compared"
    )
    parser.add_argument(
        "--process-batch", type=int, default=PROCESS_BATCH, help="samples where processes are"
    )
    parser.add_argument("--child", type=int, metavar="BATCH", help=argparse.SUPPRESS)
    with reported() as status:
        setting, args = options.settle("scaling", parser, argv)
        size = Size(
            args.repeats, args.batches, args.lengths, args.processes, args.length_batch, args.process_batch
        )
        if setting.small:
            size = Size(1, [1, 2], [20, 40], args.processes, 1, 2)
        if args.child:
            child(setting, args.child, size.repeats)
        else:
            result = measure(setting, size)
            setting.save(result)
            plot(result, setting.out.with_suffix(".png"))
    return status.code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
