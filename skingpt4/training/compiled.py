"""The language model's layers compiled by torch for training: what stands between matrix products in a few loops.

On a CPU norms, rotations, activations and copies take much of a step, in bf16 more than the products; compiled, they
go through memory once. All layers share one compiled form, which takes any length, so the price is paid once: tens of
seconds, less when torch finds it in its cache.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from skingpt4.model.language import LanguageModel

PAYS_AFTER = 200  # iterations; a third of a second is saved in one of eight answers, 20 to 50 s are the price
TRIAL_TOKENS = 24


def wanted(choice: str, model: LanguageModel, iterations: int) -> bool:
    """Whether to compile: as `language.compile` says; auto where it was measured to pay.

    That is bf16 and fp32 on a CPU, over more iterations than the compiler costs, with a compiler here.

    Args:
        choice: auto, always or never.
        model: the language model.
        iterations: of the whole run; a resumed one must be computed as it was begun.
    """
    if choice != "auto":
        return choice == "always"
    on_cpu = model.input_device.type == "cpu" and not model.device_map
    plain = model.quantization == "none"
    found = shutil.which(os.environ.get("CXX", "g++"))
    in_time = iterations >= PAYS_AFTER
    return on_cpu and plain and model.dtype is not torch.float16 and in_time and bool(found)


def layers(model: LanguageModel) -> list[nn.Module]:
    """The repeated blocks of a language model, as its family names them for splitting it over devices."""
    names = set(getattr(model.model, "_no_split_modules", None) or ())
    return [module for module in model.modules() if type(module).__name__ in names]


def compile_layers(model: LanguageModel, backend: str = "inductor") -> str | None:
    """Compile the layers in place, on trial inputs; returns why that cannot be, None if it could.

    Whatever the compiler comes to grief at, the layers then are as they were. A form that is met only later and
    fails is run as written, too.

    Args:
        model: the language model.
        backend: torch's name of what compiles.
    """
    blocks = layers(model)
    if not blocks:
        return f"{model.config.model_type} does not say what its layers are"
    _ = model.has_plain_head  # tried once, in a form that need not be compiled
    torch._dynamo.config.suppress_errors = False
    for block in blocks:
        block.compile(dynamic=True, backend=backend)
    try:
        for rows in (2, 1):  # one row is a form of its own
            _try(model, rows)
    except Exception as error:  # a foreign compiler's, of any kind
        for block in blocks:
            block._compiled_call_impl = None  # torch has no public way back
        lines = [line for line in str(error).splitlines() if "error:" in line] or [str(error).strip() or "?"]
        return f"torch cannot compile the layers here ({lines[0].splitlines()[0][-200:]})"
    torch._dynamo.config.suppress_errors = True
    return None


def _try(model: LanguageModel, rows: int) -> None:
    """A pass there and back over empty embeddings, padded as batches are."""
    table = model.get_input_embeddings().weight
    embeds = torch.zeros(rows, TRIAL_TOKENS, table.shape[1], dtype=table.dtype, device=model.input_device)
    mask = torch.ones(rows, TRIAL_TOKENS, dtype=torch.long, device=embeds.device)
    mask[0, -1] = 0
    hidden = model.hidden_states(embeds.requires_grad_(), mask)
    hidden.float().sum().backward()
    model.zero_grad()


@contextmanager
def as_written() -> Iterator[None]:
    """Run compiled layers as they are written: for work without gradients, which would be compiled anew."""
    with torch.compiler.set_stance("force_eager"):
        yield
