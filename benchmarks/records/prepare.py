"""How fast preparation reads images, and that its memory does not grow with the number of rows.

    python -m benchmarks prepare            # ten minutes of CPU time, 1 GB of disk
    python -m benchmarks prepare --small    # half a minute, to try the script

Speed: `data.prepare notes` on distinct JPEGs of 720 x 480 pixels, with one worker and with one for each core. Memory:
the same command on tables of a thousand to a million rows over small images (hard links of 100 files, all measured;
beyond `--distinct` rows the same images come again). Every run has its own process, which reads the kernel's peak of
resident memory (VmHWM) of itself and of its largest worker.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from skingpt4.support.spreadsheets import csv_line
from skingpt4.support.threads import num_cores

SIZE, SMALL_SIZE = (720, 480), (64, 48)
LINKS = 100  # files that the small images link to
MEASURED = """
import json, resource, sys
from data import prepare
from data.preparing import engine
if __name__ == "__main__":
    engine.SERIAL_BELOW = 0
    status = prepare.main(sys.argv[2:])
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    with open(sys.argv[1], "w") as file:
        json.dump({
            "status": status,
            "peak_main_mib": round(int(peak.split()[1]) / 1024, 1),
            "peak_largest_worker_mib": round(usage[1].ru_maxrss / 1024, 1),
            "cpu_seconds": round(sum(u.ru_utime + u.ru_stime for u in usage), 2),
        }, file)
"""


def write_images(folder: Path, count: int, size: tuple[int, int]) -> None:
    """Write distinct smooth JPEGs 0.jpg, 1.jpg, ..."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (24, 36, 3), dtype=np.uint8))
        coarse.resize(size, Image.Resampling.BICUBIC).save(folder / f"{number}.jpg", quality=88)


def write_links(folder: Path, count: int) -> None:
    """Write `count` small images in folders of a thousand, hard links of LINKS files."""
    write_images(folder / "files", LINKS, SMALL_SIZE)
    for number in range(count):
        part = folder / "links" / str(number // 1000)
        if number % 1000 == 0:
            part.mkdir(parents=True)
        os.link(folder / "files" / f"{number % LINKS}.jpg", part / f"{number}.jpg")


def write_table(path: Path, names: Iterator[str]) -> Path:
    """Write a CSV of image, note and diagnosis."""
    with path.open("w", newline="", encoding="utf-8") as file:
        file.write(csv_line(["image", "note", "diagnosis"]))
        for number, name in enumerate(names):
            file.write(csv_line([name, f"Scaly plaque number {number} on the elbow.", "psoriasis"]))
    return path


def run(table: Path, images: Path, workers: int) -> dict[str, Any]:
    """One preparation in its own process; returns time and memory."""
    folder = Path(tempfile.mkdtemp(dir=table.parent))
    (folder / "measured.py").write_text(MEASURED)
    out = folder / "usage.json"
    command = [
        sys.executable,
        folder / "measured.py",
        out,
        "notes",
        table,
        "--images",
        images,
        "--out-dir",
        folder / "o",
    ]
    env = {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
    start = time.perf_counter()
    subprocess.run(
        [*map(str, command), "--workers", str(workers)], env=env, check=True, stdout=subprocess.DEVNULL
    )
    seconds = time.perf_counter() - start
    return {"workers": workers, "wall_seconds": round(seconds, 2), **json.loads(out.read_text())}


def speed(folder: Path, count: int, cores: int) -> list[dict[str, Any]]:
    """Images per second with one worker and with one for each core, without the start-up."""
    write_images(folder / "pictures", count, SIZE)
    one = write_table(folder / "one.csv", iter(["0.jpg"]))
    table = write_table(folder / "speed.csv", (f"{n}.jpg" for n in range(count)))
    results = []
    for workers in dict.fromkeys((1, cores)):
        start_up = run(one, folder / "pictures", workers)  # interpreters and imports, once in a run
        row = {"pictures": count, **run(table, folder / "pictures", workers)}
        row["start_up_seconds"], row["start_up_cpu_seconds"] = (
            start_up["wall_seconds"],
            start_up["cpu_seconds"],
        )
        wall, cpu = (row[key] - start_up[key] for key in ("wall_seconds", "cpu_seconds"))
        row["pictures_per_second_per_core"] = round(count / wall / workers, 1)
        row["pictures_per_cpu_second"] = round(count / cpu, 1)
        results.append(row)
    return results


def memory(folder: Path, sizes: list[int], distinct: int, cores: int) -> list[dict[str, Any]]:
    """Peak memory by number of rows."""
    write_links(folder / "small", min(distinct, max(sizes)))
    results = []
    for rows in sizes:
        names = (f"{n % distinct // 1000}/{n % distinct}.jpg" for n in range(rows))
        table = write_table(folder / f"{rows}.csv", names)
        results.append({"rows": rows, "distinct_pictures": min(rows, distinct)})
        results[-1] |= run(table, folder / "small" / "links", max(2, cores))
    return results


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks prepare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--small", action="store_true", help="few images, few rows; writes nothing by default"
    )
    parser.add_argument(
        "--distinct", type=int, default=10_000, metavar="N", help="small images (default: 10000)"
    )
    parser.add_argument("--out", type=Path, help="default benchmarks/results/prepare.json")
    args = parser.parse_args(argv)
    cores = num_cores()
    sizes, pictures = ([100, 1000], 100) if args.small else ([1_000, 10_000, 100_000, 1_000_000], 1000)
    load = os.getloadavg()[0]
    Path("runs").mkdir(exist_ok=True)  # on a disk, which a system's temporary folder may not be
    with tempfile.TemporaryDirectory(dir="runs") as folder:
        result: dict[str, Any] = {
            "speed": speed(Path(folder), pictures, cores),
            "memory": memory(Path(folder), sizes, args.distinct, cores),
        }
    from benchmarks.harness.results import about, write  # after the measurement: torch enlarges this process

    result |= {"load_before": round(load, 1), "picture_pixels": {"speed": SIZE, "memory": SMALL_SIZE}}
    out = args.out or (None if args.small else Path("benchmarks/results/prepare.json"))
    result = {**about(["prepare", *(argv or [])]), **result}
    print(json.dumps(result, indent=1))
    if out:
        write(result, out)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
