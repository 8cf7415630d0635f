"""Throughput over batch, length, records and processes, as a table and a plot: python -m benchmarks scaling.

Training steps of the product on kept features (random ones: speed does not depend on what they say), layers compiled
where a long run has them so. Records are not
measured anew: `python -m benchmarks.records.start` measures start-up and memory of 1 thousand to
1 million, and its figures
stand in the plot beside the commit they were measured at. Processes are started as users do, by accelerate, the
machine's cores shared out among them and the batch too.

Research software, not a medical device.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from tqdm import tqdm

from benchmarks.harness import hardware, options, shapes, workload
from benchmarks.harness.pairs import RESULTS
from benchmarks.speed.train import compile_in_time
from skingpt4.model.network import SkinGPT4
from skingpt4.model.prompts import Turn, encode_turns, get_template
from skingpt4.support.errors import reported
from skingpt4.training import compiled, loop
from skingpt4.training.batches import Collate, choose_batching

QUESTION = "What is wrong with my skin?"
BATCHES, LENGTHS, PROCESSES = (1, 2, 4, 8, 16), (20, 80, 160, 320), (1, 2)
LENGTH_BATCH, PROCESS_BATCH = 4, 8


class Steps:
    """Training steps on samples of chosen answers' lengths."""

    def __init__(self, setting: options.Setting) -> None:
        """Build the network without its encoder."""
        self.setting, self.device = setting, setting.device
        self.config = shapes.configuration(setting.args.shape)
        self.model: SkinGPT4 = shapes.network(
            setting.args.shape, self.config, self.device, setting.dtype, with_encoder=False
        )
        self.model.train()
        self.accelerator = Accelerator(mixed_precision="no", cpu=self.device.type == "cpu")
        self.optimizer = loop.make_optimizer(self.model, self.config.optim)
        iterations = 0 if setting.args.small else compiled.PAYS_AFTER  # as a long run does
        language_model = self.model.language_model
        if compiled.should_compile(self.config.language.compile, language_model, iterations):
            compile_in_time(language_model)
        self.collate = Collate(choose_batching(self.config.data.batching, self.device), 384)

    def measure(self, lengths: Sequence[int], repeats: int) -> dict[str, Any]:
        """Seconds of a step (the fastest of some) over one batch of these answers' lengths; an untimed one's peak."""
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
        return {
            "batch": len(samples), "tokens": tokens, "seconds_a_step": min(took), "each": took,
            "samples_per_second": len(samples) / min(took), "tokens_per_second": tokens / min(took),
            "peak_bytes_above_weights": peak.peak_bytes,
        }  # fmt: skip


def processes(setting: options.Setting, count: int) -> dict[str, Any]:
    """The same global batch by `count` processes, each with its share of the cores."""
    args = setting.args
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
    ]
    command += ["--num_processes", str(count), "--dynamo_backend", "no", "--main_process_port", "0"]
    command += ["--cpu", "--num_cpu_threads_per_process", "1"] if setting.device.type == "cpu" else []
    command += ["--multi_gpu"] if setting.device.type == "cuda" and count > 1 else []
    threads = max(1, len(os.sched_getaffinity(0)) // count)
    command += [
        "-m",
        "benchmarks.speed.scaling",
        "--child",
        str(args.process_batch // count),
        "--shape",
        args.shape,
    ]
    command += ["--threads", str(threads), "--repeats", str(args.repeats), "--dtype", str(setting.dtype)[6:]]
    command += ["--device", setting.device.type] if setting.device.type == "cpu" else []
    command += ["--small"] if args.small else []
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": "."})
    if done.returncode:
        raise shapes.ShapeError(
            f"{count} processes failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}"
        )
    found = json.loads(done.stdout.strip().splitlines()[-1])
    rate = args.process_batch / found["seconds_a_step"]
    return {"processes": count, "threads_each": threads, "samples_per_second": rate, **found}


def child(setting: options.Setting, batch: int) -> None:
    """One process of several: its share of the batch; the first one prints."""
    steps = Steps(setting)
    rank, world = steps.accelerator.process_index, steps.accelerator.num_processes
    lengths = workload.answer_lengths(batch * world)[rank::world]
    found = steps.measure(lengths, setting.args.repeats)
    if steps.accelerator.is_main_process:
        print(json.dumps({"seconds_a_step": found["seconds_a_step"], "each": found["each"], "world": world}))
    steps.accelerator.end_training()


def records() -> dict[str, Any]:
    """What `python -m benchmarks.records.start` found, with the commit it was measured at."""
    path = RESULTS / "records.json"
    if not path.is_file():
        return {"missing": "run python -m benchmarks.records.start"}
    found = json.loads(path.read_text(encoding="utf-8"))
    return {"commit": found["git_revision"], "hardware": found["hardware"], "rows": found["rows"]}


def measure(setting: options.Setting) -> dict[str, Any]:
    """All tables."""
    args = setting.args
    top = setting.ceiling()
    steps = Steps(setting)
    by_batch = [
        steps.measure(workload.answer_lengths(max(2, size))[:size] if size > 1 else [90], args.repeats)
        for size in tqdm(args.batches, desc="batches", disable=None)
    ]
    by_length = [
        {"answer_tokens": length, **steps.measure([length] * args.length_batch, args.repeats)}
        for length in tqdm(args.lengths, desc="lengths", disable=None)
    ]
    del steps
    by_processes = [processes(setting, n) for n in tqdm(args.processes, desc="processes", disable=None)]
    result = {
        "what": "training on kept features; seconds of the fastest step", "ceiling": top.to_dict(),
        "batch": by_batch, "length": by_length, "processes": by_processes, "records": records(),
    }  # fmt: skip
    print(table(result))
    return result


def table(result: dict[str, Any]) -> str:
    """Markdown, one table a question."""
    lines = ["| batch | samples/s | tokens/s | peak MiB above the weights |", "|---|---|---|---|"]
    lines += [_line(row["batch"], row) for row in result["batch"]]
    lines += [
        "",
        f"| answer's tokens (batch {result['length'][0]['batch']}) | samples/s | tokens/s | peak MiB |",
    ]
    lines += ["|---|---|---|---|", *[_line(row["answer_tokens"], row) for row in result["length"]]]
    lines += ["", "| processes | threads each | samples/s |", "|---|---|---|"]
    lines += [
        f"| {row['processes']} | {row['threads_each']} | {row['samples_per_second']:.2f} |"
        for row in result["processes"]
    ]
    rows = [row for row in result["records"].get("rows", ()) if row["way"] != "list"]
    if rows:
        lines += ["", "| records | start | start s | ms a sample | private MiB |", "|---|---|---|---|---|"]
    lines += [
        f"| {row['records']} | {'first' if 'first' in row['way'] else 'later'} | {row['start_seconds']:.2f} | "
        f"{row['ms_per_sample']:.2f} | {row['private_mib']:.0f} |"
        for row in rows
    ]
    return "\n".join(lines)


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
    process.set(xlabel="processes, the cores and the batch shared out", ylabel="samples/s")
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
    parser.add_argument("--processes", type=int, nargs="+", default=PROCESSES, help="how many, by accelerate")
    parser.add_argument(
        "--length-batch", type=int, default=LENGTH_BATCH, help="samples where lengths are compared"
    )
    parser.add_argument(
        "--process-batch", type=int, default=PROCESS_BATCH, help="samples where processes are"
    )
    parser.add_argument("--child", type=int, metavar="BATCH", help="(one of several processes)")
    with reported() as status:
        setting = options.settle("scaling", parser, argv)
        args = setting.args
        if args.small:
            args.repeats, args.batches, args.lengths = 1, [1, 2], [20, 40]
            args.length_batch, args.process_batch = 1, 2
        if args.child:
            child(setting, args.child)
        else:
            result = measure(setting)
            setting.save(result)
            plot(result, setting.out.with_suffix(".png"))
    return status.code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
