"""The language model's layers compiled by torch for training.

On a CPU, norms, rotations, activations and copies take much of a step, in bf16 more than the matrix products.
Compiled, they go through memory once. All layers share one compiled form, which takes any length, so compiling takes
tens of seconds once, or less if the form is in torch's cache.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from skingpt4.model.language import LanguageModel

PAYS_AFTER = 200  # iterations; compiling takes 20 to 50 s and saves 0.3 s in a step of eight answers
TRIAL_TOKENS = 24


def should_compile(choice: str, model: LanguageModel, iterations: int) -> bool:
    """Whether to compile, by `language.compile`; auto compiles where it was measured to pay.

    That is in bf16 and fp32 on a CPU with a C++ compiler, over more iterations than compiling costs.

    Args:
        choice: auto, always or never.
        model: a causal language model.
        iterations: of the complete run; a resumed run must be computed as it was started.
    """
    if choice != "auto":
        return choice == "always"
    on_cpu = model.input_device.type == "cpu" and not model.device_map
    plain = model.quantization == "none" and not model.is_sharded
    has_compiler = bool(shutil.which(os.environ.get("CXX", "g++")))
    pays = iterations >= PAYS_AFTER
    return on_cpu and plain and model.dtype is not torch.float16 and pays and has_compiler


def layers(model: LanguageModel) -> list[nn.Module]:
    """The repeated blocks of a causal language model, as its family names them for splitting it over devices."""
    names = set(getattr(model.model, "_no_split_modules", None) or ())
    return [module for module in model.modules() if type(module).__name__ in names]


def compile_layers(model: LanguageModel, backend: str = "inductor") -> str | None:
    """Compile the layers in place, on trial inputs; returns None, or why torch cannot compile them.

    If the compiler fails, the layers are as they were; so they are for a form that is met later and fails.

    Args:
        model: a causal language model.
        backend: torch's name of the compiler.
    """
    blocks = layers(model)
    if not blocks:
        return f"{model.config.model_type} does not name its layers"
    _ = model.has_plain_head  # tried on the model once, before the layers are compiled
    torch._dynamo.config.suppress_errors = False
    for block in blocks:
        block.compile(dynamic=True, backend=backend)
    try:
        for rows in (2, 1):  # torch compiles another form for a single row
            _try(model, rows)
    except Exception as error:  # a foreign compiler's, of any kind
        for block in blocks:
            block._compiled_call_impl = None  # torch has no public way back
        lines = [line for line in str(error).splitlines() if "error:" in line] or [str(error).strip() or "?"]
        return f"torch cannot compile the layers here ({lines[0].splitlines()[0][-200:]})"
    torch._dynamo.config.suppress_errors = True
    return None


def _try(model: LanguageModel, rows: int) -> None:
    """Forward and backward over empty embeddings, padded as batches are."""
    table = model.get_input_embeddings().weight
    embeds = torch.zeros(rows, TRIAL_TOKENS, table.shape[1], dtype=table.dtype, device=model.input_device)
    mask = torch.ones(rows, TRIAL_TOKENS, dtype=torch.long, device=embeds.device)
    mask[0, -1] = 0
    hidden = model.hidden_states(embeds.requires_grad_(), mask)
    hidden.float().sum().backward()
    model.zero_grad()


@contextmanager
def as_written() -> Iterator[None]:
    """Run compiled layers as they are written: for work without gradients, which would be compiled again."""
    with torch.compiler.set_stance("force_eager"):
        yield
