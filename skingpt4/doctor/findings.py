"""What the doctor's checks share: a finding, and the facts that they have established."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from skingpt4.config.placement import default_device
from skingpt4.config.schema import Config
from skingpt4.doctor.shapes import LanguageShape
from skingpt4.model.precision import choose_dtype
from skingpt4.training.samples import TrainingSamples

OK, WARNING, MISSING = "ok", "warning", "missing"


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's table.

    `missing` would stop the run; `warning` would not, but deserves a look. `fix` is the command or the key that
    helps, empty where nothing is wrong.
    """

    name: str
    state: str
    text: str
    fix: str = ""


@dataclass
class Facts:
    """A configuration and what the checks have established about it so far."""

    config: Config
    online: bool = False
    language_config: Any = None  # transformers' configuration of the language model
    tokenizer: Any = None
    shape: LanguageShape | None = None
    encoder_parameters: int = 0
    encoding_bytes: int = 0  # while the encoder reads one picture
    encoding_operations: float = 0.0  # for one picture
    training: TrainingSamples | None = None
    num_images: int = 0
    follows: bool = False  # another step is trained before, whose run is `initial_checkpoint`
    download_bytes: int = 0

    @property
    def knows_projector(self) -> bool:
        """Whether the projection's sizes are known: without a Q-Former they are those of the vision encoder."""
        return self.config.projector == "qformer" or self.encoder_parameters > 0

    @property
    def device(self) -> torch.device:
        """The device on which the language model will compute."""
        return torch.device(default_device())

    @property
    def dtype(self) -> str:
        """The precision in which it will compute."""
        return str(choose_dtype(self.config.language.dtype, self.device)).removeprefix("torch.")


def first_line(error: Exception) -> str:
    """The first line of an error, at most 160 characters."""
    return (str(error).splitlines() or [type(error).__name__])[0][:160]
