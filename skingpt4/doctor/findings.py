"""What the doctor's checks share: a finding, the patient, and the command that mends what is missing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from skingpt4.config.schema import LOCAL, Config
from skingpt4.doctor import memory
from skingpt4.model.language import choose_dtype
from skingpt4.weights.fetch.catalogue import fetch_command

OK, WARNING, MISSING = "ok", "warning", "missing"


@dataclass(frozen=True)
class Finding:
    """One line of the doctor: `mend` is the command or the key that helps, empty where nothing is wrong.

    `missing` would stop the run; `warning` would not, but somebody should look.
    """

    name: str
    state: str
    text: str
    mend: str = ""


@dataclass
class Patient:
    """A configuration and what the checks have found out about it so far."""

    config: Config
    online: bool = False
    language_config: Any = None  # transformers' configuration of the language model
    tokenizer: Any = None
    shape: memory.LanguageShape | None = None
    encoder_parameters: int = 0
    encoder_width: int | None = None
    num_pictures: int = 0
    download_bytes: int = 0

    @property
    def device(self) -> torch.device:
        """Where the language model will compute."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def dtype(self) -> str:
        """In which precision it will."""
        return str(choose_dtype(self.config.language.dtype, self.device)).removeprefix("torch.")


def is_local(name: str) -> bool:
    """Whether a language model's name is a path."""
    return name.startswith(LOCAL) or Path(name).is_dir()


def mend_for(path: str) -> str:
    """The command or the page that helps to get a file that is not there."""
    if command := fetch_command(path):
        return command
    if path.startswith("weights/"):
        return "docs/weights.md says where it comes from; `skingpt4 weights list` what can be fetched"
    if path.startswith("runs/phantoms/"):
        return "make quickstart (renders the phantoms, trains on them and evaluates)"
    if path.startswith("runs/data/"):
        return "python -m data.prepare, then python -m data.split (data/README.md)"
    if path.endswith(".jsonl"):
        return "data/README.md says how to write a manifest"
    return ""


def first_line(error: Exception) -> str:
    """The first line of an error, at most 160 characters."""
    return (str(error).splitlines() or [type(error).__name__])[0][:160]
