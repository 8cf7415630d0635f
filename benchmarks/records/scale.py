"""What stays flat as the data grow: python -m benchmarks records-scale.

The three readers that a training on cached features uses, over generated data of 10 thousand to 1 million records,
each in a process of its own: the manifest (start, then random samples), the tar shards as `python -m data.pack` lays
them out (random pictures, as bytes), and the feature store (random pictures' vectors, checked against their
checksums). The features' file is sparse and the shards are in the page cache, so no disk is measured. At the end, one
generated photograph is decoded, resized and normalised again and again.

Seconds are those that the process itself computes, which other programs hardly change; what the kernel does for it,
such as making pages of the sparse file, stands beside them. `private` is the memory that the process has for itself
after its reads (anonymous pages); mapped pages are shared by all processes of a machine.

Research software, not a medical device.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.memory.process import run_fresh, save
from benchmarks.records import start

NAME = "records-scale"
SIZES = (10_000, 100_000, 1_000_000)
READERS = ("manifest", "shards", "features")
PICTURE_BYTES, SHARD_RECORDS = 400, 10_000  # 10,000 photographs of 50 KB are a shard of 500 MB
NUM_QUERIES, WIDTH = 32, 768  # of the paper's Q-Former
READS = 2000


def write_shards(folder: Path, count: int) -> None:
    """Write tar shards of `count` pictures and their records; the pictures are a few hundred bytes each."""
    import tarfile

    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    bodies = {".jpg": rng.bytes(PICTURE_BYTES), ".json": b"{}" + b" " * (PICTURE_BYTES - 2)}
    padded = {suffix: body.ljust(512, b"\0") for suffix, body in bodies.items()}
    for first in tqdm(range(0, count, SHARD_RECORDS), desc="writing shards", unit="shard", disable=None):
        with (folder / f"{first // SHARD_RECORDS:06d}.tar").open("wb") as file:
            for number in range(first, min(count, first + SHARD_RECORDS)):
                for suffix, body in padded.items():
                    header = tarfile.TarInfo(f"{number:09d}{suffix}")
                    header.size = PICTURE_BYTES
                    file.write(header.tobuf(tarfile.USTAR_FORMAT) + body)
            file.write(b"\0" * 1024)


def write_features(folder: Path, count: int) -> None:
    """Write a complete store of zeros: a sparse file, with the real checksums."""
    from skingpt4.records.feature_store import ROWS, FeatureWriter, StoreShape

    shape = StoreShape(count, 1, NUM_QUERIES, WIDTH)
    FeatureWriter.prepare(folder, shape)
    rows = np.zeros(count, shape.row_type)
    rows["picture"] = np.random.default_rng(0).integers(0, 256, (count, 32), np.uint8)
    rows["crc"], rows["done"] = zlib.crc32(bytes(shape.view_bytes)), 1
    rows.tofile(folder / ROWS)
    FeatureWriter.finish(folder, shape)


def measure_shards(folder: Path, count: int) -> dict[str, float]:
    """CPU seconds until each shard's index is there, then milliseconds a picture of READS anywhere."""
    from skingpt4.records.archives import read_bytes

    def path(number: int) -> Path:
        return folder / f"{number // SHARD_RECORDS:06d}.tar" / f"{number:09d}.jpg"

    before, began = start.private_mib(), own_seconds()
    for first in range(0, count, SHARD_RECORDS):
        read_bytes(path(first))
    ready, kernel = own_seconds(), os.times().system
    for number in np.random.default_rng(1).integers(0, count, READS).tolist():
        if len(read_bytes(path(number))) != PICTURE_BYTES:
            raise RuntimeError(f"{path(number)}: has another size")
    return _figures(began, ready, kernel, before)


def measure_features(folder: Path, count: int) -> dict[str, float]:
    """CPU seconds until the store is open, then milliseconds a picture of READS anywhere."""
    from skingpt4.records.feature_store import FeatureStore

    before, began = start.private_mib(), own_seconds()
    store = FeatureStore(folder)
    ready, kernel = own_seconds(), os.times().system
    for row in np.random.default_rng(1).integers(0, count, READS).tolist():
        store.view(row, 0)
    return _figures(began, ready, kernel, before)


def own_seconds() -> float:
    """CPU seconds of this process so far, without those that the kernel worked for it."""
    return os.times().user


def _figures(began: float, ready: float, kernel: float, before: float) -> dict[str, float]:
    done = own_seconds()
    return {
        "start_seconds": ready - began,
        "ms_per_read": (done - ready) * 1000 / READS,
        "kernel_ms_per_read": (os.times().system - kernel) * 1000 / READS,
        "private_mib": start.private_mib() - before,
    }


def measure_decoding() -> dict[str, float]:
    """CPU milliseconds in which one thread makes an encoder's input of a generated photograph, and its bytes."""
    import io

    import torch
    from PIL import Image

    from skingpt4.records.images import open_image, to_tensor

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).resize(
        (720, 480), Image.Resampling.BICUBIC
    )
    noisy = np.asarray(smooth, np.float32) + rng.normal(0, 4, (480, 720, 3))
    file = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    count, began = 100, own_seconds()  # many between two readings: the system counts processor time in steps
    for _ in range(count):
        to_tensor(open_image(file.getvalue()), 224, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    return {"ms_per_picture": 1000 * (own_seconds() - began) / count, "bytes": len(file.getvalue())}


def measure(reader: str, folder: Path, count: int) -> dict[str, float]:
    """One reader over one size, in this process, which must be fresh."""
    if reader == "shards":
        return measure_shards(folder / "shards", count)
    if reader == "features":
        return measure_features(folder / "features", count)
    figures = start.measure(folder / "train.jsonl", "map", own_seconds)
    return {
        "start_seconds": figures["start_seconds"],
        "ms_per_read": figures["ms_per_sample"],
        "private_mib": figures["private_mib"],
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown, a line for each reader and size."""
    lines = [
        "| reader | records | first start, s | later start, s | ms a read | private MiB |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        first, later = row["first"], row["later"]
        lines.append(
            f"| {row['reader']} | {row['records']} | {first['start_seconds']:.2f} | {later['start_seconds']:.2f} | "
            f"{later['ms_per_read']:.3f} | {later['private_mib']:.0f} |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print a table; write the figures as JSON."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks {NAME}",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="records (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/records_scale.json"))
    parser.add_argument("--one", nargs=3, metavar=("READER", "FOLDER", "COUNT"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.one:
        reader, folder, count = args.one
        print(json.dumps(measure(reader, Path(folder), int(count))))
        return 0
    what = (
        "readers of a training on cached features, by number of records, without disk; decoding; CPU seconds"
    )
    result: dict[str, Any] = {"what": what, "reads": READS, "decoding": measure_decoding(), "rows": []}
    for size in args.sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            start.write_manifest(folder / "train.jsonl", size)
            write_shards(folder / "shards", size)
            write_features(folder / "features", size)
            for reader in READERS:
                first = json.loads(run_fresh(NAME, "--one", reader, name, str(size)))
                later = first  # a store is opened in the same way again
                if reader != "features":
                    later = json.loads(run_fresh(NAME, "--one", reader, name, str(size)))
                result["rows"].append({"reader": reader, "records": size, "first": first, "later": later})
        print(table(result["rows"]))
        save(result, [NAME, *(argv or [])], args.out)
    print("decoding: {ms_per_picture:.1f} ms a picture of {bytes} bytes".format(**result["decoding"]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
