"""A frozen language model's matrices in fewer bits: bitsandbytes' int8 and nf4, torchao's weight-only int8."""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import nn
from transformers import BitsAndBytesConfig, TorchAoConfig
from transformers.models.falcon import modeling_falcon

from skingpt4.support.errors import UserError


class QuantisationError(UserError):
    """A language model that cannot be quantised as configured; the message says why and what to do."""


def quantiser(name: str, dtype: torch.dtype) -> Any:
    """A quantisation in transformers' form, None for none; its library is imported only if it is used.

    Args:
        name: none, int8, nf4 (NormalFloat of arXiv 2305.14314, scales quantised too) or torchao_int8.
        dtype: to which nf4 is converted for a product.
    """
    if name == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    if name == "nf4":
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=dtype,
            bnb_4bit_use_double_quant=True,
        )
    if name == "torchao_int8":
        from torchao.quantization import Int8WeightOnlyConfig

        return TorchAoConfig(Int8WeightOnlyConfig())
    return None


def import_bitsandbytes() -> None:
    """Import it, if it is installed, without a call to the model hub; peft and transformers then find it imported.

    On CPUs with bf16 instructions (AVX512) its import would ask the hub for a kernel if the package `kernels` is
    installed, and advise to install that package if it is not.
    """
    if "bitsandbytes" in sys.modules or importlib.util.find_spec("bitsandbytes") is None:
        return
    logger, kernels = logging.getLogger("bitsandbytes.backends.cpu.ops"), sys.modules.get("kernels")
    sys.modules["kernels"] = None  # type: ignore[assignment]  # as if it were not installed
    logger.disabled = True
    try:
        import bitsandbytes  # noqa: F401
    finally:
        logger.disabled = False
        del sys.modules["kernels"]
        if kernels:
            sys.modules["kernels"] = kernels


@contextmanager
def plain_linears(quantisation: str) -> Iterator[None]:
    """While a model is built, give it linear layers that can be quantised and that pass gradients on.

    Falcon's own class is replaced by torch's, which computes the same: bitsandbytes' integration replaces torch's
    only and would silently leave a Falcon unquantised, and torchao's tensors cannot be transposed as Falcon's class
    does. On CPUs with bf16 instructions (AVX512) bitsandbytes' nf4 layers would pack their matrices for a kernel
    without a backward pass, and the projection's gradient would be zero; so these instructions are hidden from them.
    """
    if quantisation in ("int8", "nf4"):
        import_bitsandbytes()
    with ExitStack() as stack:
        if quantisation != "none":
            stack.enter_context(mock.patch.object(modeling_falcon, "FalconLinear", nn.Linear))
        if quantisation == "nf4":
            modules = importlib.import_module("bitsandbytes.nn.modules")
            stack.enter_context(mock.patch.object(modules, "has_avx512bf16", return_value=False))
        yield


def require_quantised(model: Any, name: str) -> None:
    """Check that every linear layer but the head was quantised.

    Raises:
        QuantisationError: some were not.
    """
    head = model.get_output_embeddings()
    layers = {key: m for key, m in model.named_modules() if isinstance(m, nn.Linear) and m is not head}
    unquantised = [key for key, layer in layers.items() if not _is_quantised(layer)]
    if unquantised or not layers:
        example = f", e.g. {unquantised[0]}" if unquantised else ""
        raise QuantisationError(
            f"language.quantization: {name} leaves {len(unquantised)} of {len(layers)} linear layers of this "
            f"{model.config.model_type} unquantised{example}; choose another or none"
        )


def _is_quantised(layer: nn.Linear) -> bool:
    return type(layer).__name__ in ("Linear8bitLt", "Linear4bit") or hasattr(
        layer.weight, "__tensor_flatten__"
    )
