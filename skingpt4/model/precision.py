"""In which precision, on which device and by which attention a part computes."""

from __future__ import annotations

import torch
from torch import Tensor

from skingpt4.support.errors import UserError

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
    """The attention's implementation; `auto` is eager for bf16 on a CPU, where AMX multiplies full matrices fastest.

    Elsewhere it is sdpa: as fast in fp32 on a CPU, and it stores no probabilities for the backward pass.
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


def num_bytes(tensor: Tensor) -> int:
    """The memory of a tensor's values, also where a quantised kind stores them in parts."""
    if hasattr(tensor, "__tensor_flatten__"):
        return sum(num_bytes(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
    return tensor.numel() * tensor.element_size()


def half_precision(device: torch.device, name: str = "auto") -> torch.autocast:
    """Autocast to the named precision, or to the one in which the device multiplies fast; residuals stay fp32."""
    dtype = choose_dtype(name, device)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not torch.float32)


def describe_precision(name: str, device: torch.device) -> str:
    """What an encoder of that `encoder.dtype` does on a device, e.g. ``computes in bfloat16 on cpu``."""
    return f"computes in {str(choose_dtype(name, device)).removeprefix('torch.')} on {device}"
