"""Names of precisions and devices that a configuration may give, and what is wrong with others."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from skingpt4.config.rules import did_you_mean

QUANTIZATIONS = ("none", "int8", "nf4", "torchao_int8")
ATTENTIONS = ("auto", "sdpa", "eager", "flash_attention_2", "flex_attention")
DEVICE_RULES = ("auto", "balanced", "balanced_low_0", "sequential")

_DEVICE = re.compile(r"cpu|cuda(:\d+)?|mps|xpu(:\d+)?|\d+")
_SIZE = re.compile(r"\d+(\.\d+)?\s*([KMGT]i?B)?", re.IGNORECASE)


def default_device() -> str:
    """The device that computes where the user names none: a CUDA GPU if there is one, else the CPU.

    Apple's GPU (mps) and others are used only where they are named: nothing here was measured on them.
    """
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def device_rule(device: str) -> str | None:
    """The rule of `encoder.device`: auto or a device's name."""
    if device == "auto" or (_DEVICE.fullmatch(device) and not device.isdigit()):
        return None
    return "write auto, cpu or cuda:N"


def placement_problem(device_map: Any, max_memory: Mapping[str, Any], offload_dir: str | None) -> str | None:
    """What is wrong with the placement of a language model, as a sentence that names the key; None if nothing is.

    Args:
        device_map: None, a rule, a device, or a mapping of module names to devices or ``disk``.
        max_memory: device to size, e.g. ``{"cuda:0": "20GiB"}``; limits a rule.
        offload_dir: the folder for modules that go to the disk.
    """
    if isinstance(device_map, dict) and device_map:
        for name, device in device_map.items():
            if device != "disk" and not _DEVICE.fullmatch(str(device)):
                return f"'language.device_map.{name}' is {device!r}; write cpu, cuda:N or disk"
        if "disk" in device_map.values() and not offload_dir:
            return "'language.device_map' sends modules to the disk; name a folder in 'language.offload_dir'"
    elif device_map is not None and not _is_rule_or_device(device_map):
        return (
            f"'language.device_map' is {device_map!r}; give null, one of {', '.join(DEVICE_RULES)}, a device "
            "such as cpu or cuda:1, or a mapping of modules to devices"
            f"{did_you_mean(device_map, DEVICE_RULES)}"
        )
    if max_memory and device_map not in DEVICE_RULES:
        return f"'language.max_memory' bounds a rule; set 'language.device_map' to one of {', '.join(DEVICE_RULES)}"
    for device, size in max_memory.items():
        if not (_DEVICE.fullmatch(device) and _SIZE.fullmatch(str(size))):
            return f"'language.max_memory.{device}' is {size!r}; write it like cuda:0: 20GiB or cpu: 60GiB"
    return None


def main_device(device_map: Any, run_device: str) -> str:
    """The device that decides a language model's precision.

    This is the map's first device other than the CPU and the disk; without a device in the map, the run's device.
    """
    if isinstance(device_map, dict):
        named = [str(device) for device in device_map.values() if device not in ("cpu", "disk")]
        device = named[0] if named else "cpu" if device_map else run_device
    else:
        device = run_device if device_map is None or device_map in DEVICE_RULES else str(device_map)
    return f"cuda:{device}" if device.isdigit() else device


def _is_rule_or_device(device_map: Any) -> bool:
    return isinstance(device_map, str | int) and (
        device_map in DEVICE_RULES or bool(_DEVICE.fullmatch(str(device_map)))
    )
