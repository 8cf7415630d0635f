"""The frozen language model, reached only through what every `AutoModelForCausalLM` has."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from skingpt4.config.placement import DEVICE_RULES
from skingpt4.config.schema import LOCAL
from skingpt4.model.float16 import guard, guard_linear
from skingpt4.model.quantisation import plain_linears, quantiser, require_quantised
from skingpt4.support.errors import UserError
from skingpt4.weights.language_model import (
    LanguageModelError,
    cannot_load,
    require_complete,
    require_vocabulary,
)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class DeviceError(UserError):
    """A device that this machine does not have; the message says which key named it."""


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The compute precision; `auto` is bf16 where the device has it, else fp16 on a GPU and fp32 on a CPU."""
    if name != "auto":
        return DTYPES[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16
    if device.type == "cpu":  # without AMX, bf16 on a CPU is slower than fp32
        return torch.bfloat16 if torch.cpu._is_amx_tile_supported() else torch.float32
    return torch.float32


def choose_attention(name: str, dtype: torch.dtype, device: torch.device) -> str:
    """The attention's implementation; `auto` is eager for bf16 on a CPU, where AMX multiplies whole matrices fastest.

    Elsewhere it is sdpa: as fast in fp32 on a CPU, and it keeps no probabilities for the way back.
    """
    if name != "auto":
        return name
    return "eager" if device.type == "cpu" and dtype is torch.bfloat16 else "sdpa"


def require_device(name: str, key: str) -> torch.device:
    """The device of that name, if this machine has it.

    Args:
        name: e.g. cpu or cuda:1.
        key: the configuration's key that named it, for the message.

    Raises:
        DeviceError: there is no such device here.
    """
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(
            f"{key}: {name} is not here; this machine has {torch.cuda.device_count()} CUDA devices"
        )
    return device


def load_language_model(
    name: str,
    dtype: torch.dtype = torch.float32,
    attention: str = "sdpa",
    device: torch.device | None = None,
    quantization: str = "none",
    device_map: Any = None,
    max_memory: Mapping[str, Any] | None = None,
    offload_dir: str | None = None,
) -> tuple[Any, Any]:
    """Load (model, tokenizer) from a local directory or a hub name, frozen and in eval mode, where it will stand.

    Args:
        name: the directory or name.
        dtype: of the weights; fp16 is guarded against overflow (see `float16`).
        attention: transformers' name of an implementation, or auto (`choose_attention`).
        device: of the whole model, where no `device_map` is given; None is the CPU.
        quantization: none, int8 or nf4 (bitsandbytes), torchao_int8.
        device_map: a rule, a device, or a mapping of modules to devices or ``disk``.
        max_memory: bounds of a rule, e.g. ``{"cuda:0": "20GiB", "cpu": "60GiB"}``.
        offload_dir: where modules sent to the disk are kept.

    Raises:
        LanguageModelError: the directory is not there or incomplete, the hub could not be reached, or the model
            cannot be put there.
        Float16Error: fp16 was asked of a family that cannot be guarded.
        QuantisationError: a layer was left whole.
    """
    looks_local = name.startswith(LOCAL)
    if looks_local and not (Path(name) / "config.json").is_file():
        raise LanguageModelError(
            f"language.model: {name} holds no config.json; fetch or convert the model first"
        )
    if Path(name).is_dir():
        require_complete(name)
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()
    device = device or torch.device("cpu")
    place: dict[str, Any] = {"device_map": _places(device_map)}
    if device_map is None:
        place["device_map"] = {"": device} if device.type != "cpu" or quantization != "none" else None
    if max_memory:
        place["max_memory"] = {_device_key(key): value for key, value in max_memory.items()}
    if offload_dir:
        place["offload_folder"] = offload_dir
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        require_vocabulary(name, tokenizer)
        with plain_linears(quantization):
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                name,
                dtype=dtype,
                attn_implementation=choose_attention(attention, dtype, device),
                output_loading_info=True,
                quantization_config=quantiser(quantization, dtype),
                **place,
            )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise cannot_load(name, error) from None
    model, found = loaded
    if found["missing_keys"]:  # transformers would fill them with random numbers and only log it
        names = ", ".join(sorted(found["missing_keys"])[:4])
        raise LanguageModelError(
            f"language.model: {name} lacks {len(found['missing_keys'])} tensors: {names}"
        )
    if attention == "auto" and getattr(model.config, "attn_logit_softcapping", None):
        model.set_attn_implementation("eager")  # the others leave Gemma 2's cap of the scores out
    if quantization != "none":
        require_quantised(model, quantization)
    if dtype is torch.float16:
        guard(model)
    elif quantization == "int8":  # bitsandbytes turns its input into fp16 whatever it was
        for module in model.modules():
            if type(module).__name__ == "Linear8bitLt":
                guard_linear(module, grow=False)
    model.skingpt4_quantization = quantization
    model.get_output_embeddings().register_forward_pre_hook(_apart)
    return model.requires_grad_(False).eval(), tokenizer


def _places(device_map: Any) -> Any:
    """A device map as transformers wants it: rules as they are, a device for everything, numbers for CUDA's."""
    if isinstance(device_map, dict):
        return {key: _device_key(value) for key, value in device_map.items()} or None
    if device_map is None or device_map in DEVICE_RULES:
        return device_map
    return {"": _device_key(device_map)}


def _device_key(device: Any) -> Any:
    """cuda:1 and "1" as 1, which accelerate insists on; cpu, disk and others as they are."""
    text = str(device).removeprefix("cuda:")
    return 0 if text == "cuda" else int(text) if text.isdigit() else text


def input_device(model: Any) -> torch.device:
    """Where a language model takes its input embeddings, however it is spread."""
    table = model.get_input_embeddings()
    hook = getattr(table, "_hf_hook", None)
    device = getattr(hook, "execution_device", None)
    if device is None:
        return table.weight.device
    return torch.device("cuda", device) if isinstance(device, int) else torch.device(device)


def describe_place(model: Any) -> str:
    """A line on how a language model is kept, e.g. ``float16 (guarded), nf4, 5.1 GiB on cuda:0, 2.3 GiB on cpu``."""
    places = getattr(model, "hf_device_map", {})
    sizes: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        owners = [key for key in places if not key or name == key or name.startswith(f"{key}.")]
        place = places[max(owners, key=len)] if owners else parameter.device
        sizes[str(torch.device("cuda", place) if isinstance(place, int) else place)] += num_bytes(parameter)
    precision = str(model.dtype).removeprefix("torch.")
    parts = [precision + (" (guarded)" if model.dtype is torch.float16 else "")]
    quantization = getattr(model, "skingpt4_quantization", "none")
    parts += [quantization] if quantization != "none" else []
    return ", ".join([*parts, *(f"{size / 2**30:.2g} GiB on {place}" for place, size in sizes.items())])


def num_bytes(tensor: Tensor) -> int:
    """The memory of a tensor's values, also where a quantised kind keeps them in parts."""
    if hasattr(tensor, "__tensor_flatten__"):
        return sum(num_bytes(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
    return tensor.numel() * tensor.element_size()


def _apart(head: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Copy the head's few input rows if they are the last of each sample.

    torch multiplies a sliced (b, 1, d) row by row and copies the whole vocabulary matrix for each: reading a
    batch of 50 prompts in bf16 on a CPU took 5.5 s instead of 1, and a pass over 4 tokens of one conversation 125 ms
    instead of 50. `contiguous` would leave a single row as it is: of one row any strides count as contiguous.
    """
    del head
    rows, *others = args
    if rows.dim() == 3 and rows.shape[1] == 1:
        rows = rows.clone(memory_format=torch.contiguous_format)
    return (rows, *others)
