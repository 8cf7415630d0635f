"""Checks everything a run needs without loading large files, and prints the findings as a table."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from skingpt4.doctor.data import data
from skingpt4.doctor.findings import MISSING, OK, WARNING, Facts, Finding
from skingpt4.doctor.language_model import language_model, tokenizer
from skingpt4.doctor.machine import machine
from skingpt4.doctor.parts import encoder, parent, trainable
from skingpt4.doctor.work import work
from skingpt4.support.cli import DISCLAIMER

_MARKS = {OK: "ok", WARNING: "warning", MISSING: "MISSING"}


def examine(facts: Facts) -> list[Finding]:
    """Everything that would stop a run of a configuration, or that deserves a look before it starts.

    Args:
        facts: the configuration of a training run, or of a chat (`step: none`), which needs no data; with `online`
            the model hub is asked about a language model that is not here, otherwise nothing leaves this machine.
            The checks fill in the rest.
    """
    training = facts.config.step != "none"
    return [
        *language_model(facts),
        *tokenizer(facts),
        *encoder(facts),
        *([parent(facts)] if facts.knows_projector else ()),
        *(data(facts) if training else ()),
        *(trainable(facts) if training else ()),
        *(work(facts) if training and facts.knows_projector else ()),
        *machine(facts),
    ]


def table(config_path: str, findings: Sequence[Finding], width: int = 110) -> str:
    """The findings for people: each starts a line, is wrapped, and is followed by the command that fixes it."""
    name_width = max(len(f.name) for f in findings) + 2
    lines = [f"{config_path}, checked without loading it"]
    for finding in findings:
        head = f"{_MARKS[finding.state]:8} {finding.name:{name_width}}"
        blank = " " * len(head)
        lines += textwrap.wrap(
            finding.text, width, initial_indent=head, subsequent_indent=blank, break_on_hyphens=False
        )
        if finding.fix:
            lines += textwrap.wrap(
                f"-> {finding.fix}", width, initial_indent=blank, subsequent_indent=blank + "   ",
                break_on_hyphens=False, break_long_words=False,
            )  # fmt: skip
    return "\n".join([*lines, verdict(findings), DISCLAIMER])


def stopped(findings: Sequence[Finding]) -> bool:
    """Whether a finding would stop the run."""
    return any(finding.state == MISSING for finding in findings)


def verdict(findings: Sequence[Finding]) -> str:
    """One sentence: whether the run can start."""
    num_missing, num_warnings = (sum(f.state == state for f in findings) for state in (MISSING, WARNING))
    warnings = f"; {num_warnings} to look at" if num_warnings else ""
    if num_missing:
        return f"This run cannot start: {num_missing} missing{warnings}."
    return f"Nothing stops this run{warnings}."
