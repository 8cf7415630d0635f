"""Looks at a configuration before anything heavy: python -m skingpt4.doctor --config ... [key=value ...].

Headers, `config.json` and the tokenizer are all that is read; no network is loaded and nothing is downloaded.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from skingpt4.config import Config, load_config
from skingpt4.doctor_findings import MISSING, OK, WARNING, Finding, Patient
from skingpt4.doctor_language import language_model, tokenizer
from skingpt4.doctor_machine import machine
from skingpt4.doctor_parts import data, encoder, parent
from skingpt4.errors import reported

DISCLAIMER = "Research software, no medical device."
_MARKS = {OK: "ok", WARNING: "warning", MISSING: "MISSING"}


def examine(config: Config, online: bool = False) -> list[Finding]:
    """Everything that would stop a run of this configuration, or that somebody should look at first.

    Args:
        config: of a training run, or of a chat (`step: none`), which needs no data.
        online: ask the model hub about a language model that is not here; else nothing leaves this machine.
    """
    patient = Patient(config, online)
    training = config.step != "none"
    return [
        *language_model(patient),
        *tokenizer(patient),
        *encoder(patient),
        *parent(patient),
        *(data(patient) if training else ()),
        *machine(patient),
    ]


def table(config_path: str, findings: Sequence[Finding], width: int = 110) -> str:
    """The findings for people: one line each, wrapped, and under it the command that mends it."""
    name_width = max(len(f.name) for f in findings) + 2
    lines = [f"{config_path}, looked at without loading it"]
    for finding in findings:
        head = f"{_MARKS[finding.state]:8} {finding.name:{name_width}}"
        blank = " " * len(head)
        lines += textwrap.wrap(
            finding.text, width, initial_indent=head, subsequent_indent=blank, break_on_hyphens=False
        )
        if finding.mend:
            lines += textwrap.wrap(
                f"-> {finding.mend}", width, initial_indent=blank, subsequent_indent=blank + "   ",
                break_on_hyphens=False, break_long_words=False,
            )  # fmt: skip
    return "\n".join([*lines, verdict(findings), DISCLAIMER])


def verdict(findings: Sequence[Finding]) -> str:
    """One sentence: whether the run can start."""
    stops, warnings = (sum(f.state == state for f in findings) for state in (MISSING, WARNING))
    watch = f"; {warnings} to look at" if warnings else ""
    if stops:
        return f"This run cannot start: {stops} missing{watch}."
    return f"Nothing stops this run{watch}."


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and print the findings; the status is 1 if something would stop the run."""
    parser = argparse.ArgumentParser(
        description="Check a configuration before anything is loaded or downloaded: language model, tokenizer, "
        f"template, weights, checkpoint, data, memory, disk. {DISCLAIMER}",
        epilog="example: python -m skingpt4.doctor --config configs/tiny/step1.yaml optim.batch_size=16",
    )
    parser.add_argument("--config", required=True, help="a YAML file under configs/")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--online",
        action="store_true",
        help="ask the model hub for the size of what is not here (else: no call)",
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the configuration")
    args = parser.parse_intermixed_args(argv)
    with reported() as status:
        findings = examine(load_config(args.config, args.overrides), args.online)
        stopped = any(f.state == MISSING for f in findings)
        if args.json:
            told = {"config": str(Path(args.config)), "ok": not stopped, "verdict": verdict(findings)}
            told["findings"] = [asdict(f) for f in findings]
            print(json.dumps({**told, "disclaimer": DISCLAIMER}, indent=1))
        else:
            print(table(args.config, findings, min(118, shutil.get_terminal_size((110, 24)).columns)))
        status.code = int(stopped)
    return status.code


if __name__ == "__main__":
    sys.exit(main())
