"""Everything a run needs, examined without loading it, and the table of what was found."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from skingpt4.config.schema import Config
from skingpt4.doctor.findings import MISSING, OK, WARNING, Finding, Patient
from skingpt4.doctor.language_model import language_model, tokenizer
from skingpt4.doctor.machine import machine
from skingpt4.doctor.parts import data, encoder, parent
from skingpt4.support.cli import DISCLAIMER

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
