"""How often the quality gate detects faults of known strength, and how often it refuses clean images, on phantoms.

    python -m benchmarks quality

Phantoms are drawings: they show that the gate measures what it should, on all six skin types, not how often it is
right on photographs. `benchmarks.records.degraded` makes images and faults. The thresholds were set on seed 11
(`--calibrate --per-type 16` prints the values they are set by); the results are of other images.

Research software, not a medical device.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest
from tqdm import tqdm

from benchmarks.harness.results import about, write
from benchmarks.records.degraded import FAULTS, NO_SKIN, SKIN_TYPES, clean_phantoms, photograph
from skingpt4.chat.checks.quality import KINDS, assess, limits
from skingpt4.support.errors import UserError, reported

CALIBRATION_SEED, SEED = 11, 31
GRAIN = 0.02  # standard deviation, two and a half times that of the other pictures


def rate(count: int, n: int) -> dict[str, float | int]:
    """A fraction with its Wilson 95 % interval."""
    interval = binomtest(count, n).proportion_ci(method="wilson")
    return {
        "value": count / n, "low": round(float(interval.low), 4), "high": round(float(interval.high), 4), "n": n,
    }  # fmt: skip


def measure(seed: int, per_type: int) -> dict[str, Any]:
    """Detection rates by fault, strength and skin type, false alarms by skin type, and detection of other objects."""
    rng = np.random.default_rng(seed)
    alarms: dict[int, Counter[str]] = {tone: Counter() for tone in SKIN_TYPES}
    refused: Counter[int] = Counter()
    grainy = 0
    detected: dict[tuple[str, str], dict[int, int]] = defaultdict(lambda: dict.fromkeys(SKIN_TYPES, 0))
    phantoms = tqdm(clean_phantoms(seed, per_type), total=6 * per_type, desc="phantoms", unit="picture")
    for tone, values in phantoms:
        kinds = [problem.kind for problem in assess(photograph(values, rng)).problems]
        alarms[tone].update(kinds)
        refused[tone] += bool(kinds)
        grainy += not assess(photograph(values, rng, GRAIN)).acceptable
        for fault in FAULTS:
            problems = assess(photograph(fault.apply(values), rng)).problems
            detected[fault.kind, fault.strength][tone] += fault.kind in {p.kind for p in problems}
    n = 6 * per_type
    refused_objects = dict.fromkeys(NO_SKIN, 0)
    for name, draw in tqdm(NO_SKIN.items(), desc="no skin", unit="kind"):
        for _ in range(per_type):
            problems = assess(photograph(draw(rng), rng)).problems
            refused_objects[name] += "no_skin" in {p.kind for p in problems}
    return {
        "false_alarms": {
            "any": rate(sum(refused.values()), n),
            "by_skin_type": {str(tone): rate(refused[tone], per_type) for tone in SKIN_TYPES},
            f"with noise of {GRAIN}": rate(grainy, n),
            "by_kind": {kind: sum(alarms[tone][kind] for tone in SKIN_TYPES) for kind in KINDS},
        },
        "detection": [
            {
                "kind": fault.kind, "strength": fault.strength,
                "rate": rate(sum(detected[fault.kind, fault.strength].values()), n),
                "by_skin_type": {str(t): detected[fault.kind, fault.strength][t] / per_type for t in SKIN_TYPES},
            }
            for fault in FAULTS
        ],
        "no_skin": {name: rate(count, per_type) for name, count in refused_objects.items()},
    }  # fmt: skip


def extremes(seed: int, per_type: int) -> dict[str, dict[str, float]]:
    """The values that thresholds are set by: the worst of clean phantoms, 5 % beyond it, and the worst 2 %."""
    rng = np.random.default_rng(seed)
    phantoms = tqdm(clean_phantoms(seed, per_type), total=6 * per_type, desc="phantoms", unit="picture")
    all_measures = [assess(photograph(values, rng)).measures for _, values in phantoms]
    rows = {}
    for kind, limit in limits()["kinds"].items():
        values = [measures[limit["measure"]] for measures in all_measures]
        worst = min(values) if "below" in limit else max(values)
        beyond = worst * (0.95 if "below" in limit else 1.05)
        edge = float(np.percentile(values, 2 if "below" in limit else 98))
        rows[kind] = {
            "worst": worst,
            "beyond": beyond,
            "edge": edge,
            "set": limit.get("below", limit.get("above")),
        }
    return rows


def milliseconds(width: int = 4000, height: int = 3000, rounds: int = 9) -> dict[str, float]:
    """Median and minimum time to assess an image of twelve megapixels."""
    from PIL import Image

    image = Image.effect_noise((width, height), 40).convert("RGB")
    spent = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        assess(image)
        spent.append(1000 * (time.perf_counter() - began))
    return {"median": round(float(np.median(spent[1:])), 1), "least": round(min(spent[1:]), 1)}


def describe(result: dict[str, Any]) -> str:
    """The results as a table."""

    def text(row: dict[str, Any]) -> str:
        return f"{row['value']:7.1%} ({row['low']:.1%} to {row['high']:.1%}, n = {row['n']})"

    alarms = result["false_alarms"]
    lines = ["clean pictures refused", f"  {'all':28}{text(alarms['any'])}"]
    lines.append(f"  {'all, grainy':28}{text(alarms[f'with noise of {GRAIN}'])}")
    for tone, row in alarms["by_skin_type"].items():
        lines.append(f"  {'skin type ' + tone:28}{text(row)}")
    lines.append(f"detected{'':46}by skin type 1 to 6")
    for row in result["detection"]:
        by_type = " ".join(f"{value:4.0%}" for value in row["by_skin_type"].values())
        lines.append(f"  {row['kind']:13} {row['strength']:18}{text(row['rate']):40} {by_type}")
    lines.append("refused as not skin")
    lines += [f"  {name:28}{text(row)}" for name, row in result["no_skin"].items()]
    lines.append(f"12 megapixels: {result['milliseconds']['median']} ms (median)")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write, or print the values that thresholds are set by; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks quality", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument(
        "--per-type", type=int, default=20, help="phantoms a skin type (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=SEED, help="of the phantoms (default: %(default)s)")
    parser.add_argument(
        "--calibrate", action="store_true", help="print the extremes of clean pictures, write nothing"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/quality.json"))
    args = parser.parse_args(argv)
    with reported() as status:
        if args.per_type < 1:
            raise UserError("--per-type must be 1 or more")
        if args.calibrate:
            for kind, row in extremes(CALIBRATION_SEED, args.per_type).items():
                print(f"{kind:13}" + "".join(f"  {name} {value:.4f}" for name, value in row.items()))
            return 0
        if args.seed == CALIBRATION_SEED:
            raise UserError(f"--seed {CALIBRATION_SEED} is the calibration's; results are of other pictures")
        result = measure(args.seed, args.per_type) | {"milliseconds": milliseconds()}
        words = ["quality", "--per-type", str(args.per_type), "--seed", str(args.seed)]
        write({**about(words), **result}, args.out)
        print(describe(result))
    return status.code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
