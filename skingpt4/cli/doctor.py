"""Check everything a run needs without loading it: skingpt4 doctor --config ... [key=value ...].

Only headers, `config.json` and the tokenizer are read; no network is loaded and nothing is downloaded.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from skingpt4.support.cli import DISCLAIMER, make_parser
from skingpt4.support.errors import reported


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = make_parser(
        "Check everything a run needs without loading large files, and print the command that fixes each problem:\n"
        "language model, tokenizer, template, weights, checkpoint, data, memory, disk.",
        "examples:\n  skingpt4 doctor --config configs/tiny/step1.yaml optim.batch_size=16\n"
        "  skingpt4 doctor --after-training runs/quickstart/step2",
    )
    what = result.add_mutually_exclusive_group(required=True)
    what.add_argument("--config", help="a YAML file under configs/")
    what.add_argument(
        "--after-training",
        metavar="RUN",
        help="a run's folder or a checkpoint: show where it loses what its vision encoder saw (minutes on a CPU)",
    )
    result.add_argument("--json", action="store_true", help="print one JSON object")
    result.add_argument(
        "--online",
        action="store_true",
        help="ask the model hub for the size of what is not here (else: no call)",
    )
    result.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the configuration")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and print the findings; the status is 1 if something would stop the run."""
    args = parser().parse_intermixed_args(argv)
    with reported() as status:
        if args.after_training:
            _after_training(args.after_training, args.json)
            return status.code
        from skingpt4.config.load import load_config
        from skingpt4.doctor.examine import examine, stopped, table, verdict
        from skingpt4.doctor.findings import Facts

        findings = examine(Facts(load_config(args.config, args.overrides), args.online))
        stops = stopped(findings)
        if args.json:
            report = {"config": str(Path(args.config)), "ok": not stops, "verdict": verdict(findings)}
            report["findings"] = [asdict(finding) for finding in findings]
            print(json.dumps({**report, "disclaimer": DISCLAIMER}, indent=1))
        else:
            print(table(args.config, findings, min(118, shutil.get_terminal_size((110, 24)).columns)))
        status.code = int(stops)
    return status.code


def _after_training(run: str, as_json: bool) -> None:
    """Print the probes of a trained model's stages."""
    from tqdm import tqdm

    from skingpt4.doctor.after_training import after_training, table, to_dict
    from skingpt4.support.cli import setup_logging

    setup_logging()
    with tqdm(desc="images", unit="image") as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        lost = after_training(run, show)
    print(json.dumps(to_dict(run, lost), indent=1) if as_json else table(run, lost))
