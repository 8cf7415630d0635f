"""What the engines read: a language model's folder, its table of embeddings, and a GGUF file; each written once."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness import shapes
from skingpt4.config.schema import LanguageConfig
from skingpt4.model.language import LanguageModel
from skingpt4.model.network import SkinGPT4
from skingpt4.support.errors import UserError
from skingpt4.support.threads import in_own_thread
from skingpt4.weights.gguf_file import write_gguf

BYTES_A_PARAMETER = 20  # of all files of one language model together, rounded up


def model_folder(shape: shapes.Shape, folder: Path, seed: int) -> Path:
    """A folder with the shape's language model and tokenizer; random weights are written at the first call."""
    if shape.language is None:
        return Path(shapes.configuration(shape).language.model)
    target = folder / "model"
    if not target.is_dir():
        family, sizes = shape.language
        torch.manual_seed(seed)
        model = shapes.random_language_model(family, sizes, torch.device("cpu"), torch.float32)
        part = folder / "model.part"
        shutil.rmtree(part, ignore_errors=True)
        model.save_pretrained(part)
        tokenizer = shapes.stand_in_tokenizer(sizes["vocab_size"])
        tokenizer.save_pretrained(part)
        part.rename(target)
    return target


def network(folder: Path, dtype: torch.dtype) -> SkinGPT4:
    """A network whose projection changes nothing, so that image vectors can be embeddings of words."""

    def load() -> SkinGPT4:
        config = LanguageConfig(model=str(folder), dtype=str(dtype).removeprefix("torch."))
        language_model = LanguageModel(config)
        model = SkinGPT4(None, language_model, language_model.get_input_embeddings().weight.shape[1])
        with torch.no_grad():
            torch.nn.init.eye_(model.projection.weight)  # type: ignore[arg-type]
            torch.nn.init.zeros_(model.projection.bias)  # type: ignore[arg-type]
        return model.eval()

    return in_own_thread(load)


def write_files(model: Any, folder: Path) -> None:
    """The table of embeddings and a GGUF file in fp32, unless they are there.

    Args:
        model: transformers' model of the Llama family, in fp32.
        folder: that they go into.

    Raises:
        UserError: the disk has too little room, or the model is of another family.
    """
    table, file = folder / "table.npy", folder / "f32.gguf"
    if table.is_file() and file.is_file():
        return
    needed = BYTES_A_PARAMETER * sum(parameter.numel() for parameter in model.parameters())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(f"{folder}: needs about {needed / 1e9:.0f} GB, and {free / 1e9:.0f} are free")
    write_gguf(model, file)
    part = folder / "table.part.npy"
    np.save(part, model.get_input_embeddings().weight.detach().numpy())
    part.rename(table)
