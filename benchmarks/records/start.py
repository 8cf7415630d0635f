"""Start-up time and memory of a training's records, 1 thousand to 1 million: python -m benchmarks records-start.

Three ways over the same generated manifest, each in its own process: `list` parses it into a list of records and
draws a permutation for every sample, as early versions did; `map, first` checks it and writes the map; `map` is every
later start. `private` is the memory that a process has for itself (anonymous pages); mapped pages are shared by all
workers and can be dropped when memory is short, though they count in the peak.

Research software, not a medical device.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from skingpt4.support.memory import peak_bytes

SIZES = (1_000, 10_000, 100_000, 1_000_000)
WAYS = ("list", "map, first", "map")
SAMPLES = 1000
MIB = 2.0**20


def write_manifest(path: Path, count: int) -> None:
    """Write a manifest of `count` records of about 600 bytes, without their images."""
    from skingpt4.taxonomy.taxonomy import CLASSES, CONCEPTS

    rng = np.random.default_rng(0)
    triples = rng.permuted(np.tile(np.arange(48), (1000, 1)), axis=1)[:, :3].tolist()
    with path.open("w", encoding="utf-8") as file:
        for number in tqdm(range(count), desc=f"writing {count} records", unit="record", disable=None):
            row = {
                "image": f"images/{number % 1000:03d}/{number:08d}.jpg", "sha256": rng.bytes(32).hex(),
                "phash": rng.bytes(8).hex(), "width": 720, "height": 480, "source": "generated", "split": "train",
                "concepts": [CONCEPTS[k] for k in triples[number % 1000]], "disease": "psoriasis",
                "class": CLASSES[number % 15], "fitzpatrick": number % 6 + 1,
                "note": "Silvery plaques on the forearm, for some weeks. " * 3, "case_id": f"c{number}",
                "patient_id": f"p{number // 3}", "licence": "none",
            }  # fmt: skip
            file.write(json.dumps(row) + "\n")


class _Words:
    """A tokenizer with one token for each word: the benchmark is about records."""

    bos_token_id, eos_token, all_special_tokens = 1, "</s>", ("</s>",)

    def __init__(self) -> None:
        self.added_tokens_decoder: dict[int, str] = {}

    def __call__(self, text: str, add_special_tokens: bool = False) -> dict[str, list[int]]:
        return {"input_ids": [hash(word) % 1000 for word in text.split()]}


def private_mib() -> float:
    """Anonymous pages of this process, MiB."""
    rows = dict(line.split(":", 1) for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    return int(rows["Anonymous"].split()[0]) / 1024


def measure(manifest: Path, way: str, clock: Callable[[], float] = time.perf_counter) -> dict[str, float]:
    """Open the records one way and draw SAMPLES samples from everywhere; returns seconds and MiB."""
    from skingpt4.config.schema import PromptConfig
    from skingpt4.records.manifest import manifest_lines, read_manifest
    from skingpt4.records.record import parse_line, record_of
    from skingpt4.training.samples import SampleEncoder, TrainingSamples

    class DrawnForEverySample(TrainingSamples):
        def row_of(self, index: int) -> int:
            number, place = divmod(index, len(self.rows))
            order = np.random.default_rng((self.seed, 1, number)).permutation(len(self.rows))
            return int(self.rows[order[place]])

    encoder = SampleEncoder(PromptConfig(), _Words(), num_query_tokens=32, max_text_tokens=160)
    before = private_mib()
    began = clock()
    if way == "list":
        records: Any = [record_of(parse_line(b, ""), manifest.parent) for _, b, _ in manifest_lines(manifest)]
    else:
        records = read_manifest(manifest)
    kind = DrawnForEverySample if way == "list" else TrainingSamples
    samples = kind(records, encoder, lambda row, rng: {}, seed=0)
    ready = clock()
    for index in range(SAMPLES):
        samples[index * 997]
    done = clock()
    return {
        "start_seconds": ready - began,
        "ms_per_sample": (done - ready) * 1000 / SAMPLES,
        "peak_mib": peak_bytes() / 2**20,
        "private_mib": private_mib() - before,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print a table; write the figures as JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks records-start",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="records in a manifest")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/records.json"))
    parser.add_argument("--one", nargs=2, metavar=("MANIFEST", "WAY"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.one:
        print(json.dumps(measure(Path(args.one[0]), args.one[1])))
        return 0
    from benchmarks.harness.results import (  # large imports, which measured processes must not make
        about,
        write,
    )

    rows = []
    print(
        f"{'records':>9}  {'way':<10} {'start s':>8} {'ms a sample':>11} {'peak MiB':>9} {'private MiB':>11}"
    )
    with tempfile.TemporaryDirectory() as folder:
        for size in args.sizes:
            manifest = Path(folder) / f"{size}.jsonl"
            write_manifest(manifest, size)
            for way in WAYS:
                command = [sys.executable, "-m", "benchmarks", "records-start", "--one", str(manifest), way]
                line = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                row = {key: round(value, 3) for key, value in json.loads(line).items()}
                rows.append(
                    {"records": size, "way": way, "manifest_mib": manifest.stat().st_size / MIB, **row}
                )
                print(
                    f"{size:>9}  {way:<10} {row['start_seconds']:>8.2f} {row['ms_per_sample']:>11.3f} "
                    f"{row['peak_mib']:>9.0f} {row['private_mib']:>11.1f}",
                    flush=True,
                )
    what = "start-up and memory of a training's records"
    write({**about(["records-start", *(argv or [])]), "what": what, "rows": rows}, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
