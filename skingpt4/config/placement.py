"""Names of precisions and places that a configuration may give, and what is wrong with others."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

QUANTIZATIONS = ("none", "int8", "nf4", "torchao_int8")
ATTENTIONS = ("auto", "sdpa", "eager", "flash_attention_2", "flex_attention")
DEVICE_RULES = ("auto", "balanced", "balanced_low_0", "sequential")

_DEVICE = re.compile(r"cpu|cuda(:\d+)?|mps|xpu(:\d+)?|\d+")
_SIZE = re.compile(r"\d+(\.\d+)?\s*([KMGT]i?B)?", re.IGNORECASE)


def problem(device_map: Any, max_memory: Mapping[str, Any], offload_dir: str | None) -> str | None:
    """What is wrong with where a language model shall stand, as a sentence that names the key; None if nothing.

    Args:
        device_map: None, a rule, a device, or a mapping of module names to devices or ``disk``.
        max_memory: device to size, e.g. ``{"cuda:0": "20GiB"}``; bounds a rule.
        offload_dir: where modules sent to the disk are kept.
    """
    if isinstance(device_map, dict) and device_map:
        for name, device in device_map.items():
            if device != "disk" and not _DEVICE.fullmatch(str(device)):
                return f"'language.device_map.{name}' is {device!r}; write cpu, cuda:N or disk"
        if "disk" in device_map.values() and not offload_dir:
            return "'language.device_map' sends modules to the disk; name a folder in 'language.offload_dir'"
    elif device_map is not None and not _known(device_map):
        near = difflib.get_close_matches(str(device_map), DEVICE_RULES, n=1, cutoff=0.5)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        return (
            f"'language.device_map' is {device_map!r}; give null, one of {', '.join(DEVICE_RULES)}, a device "
            f"such as cpu or cuda:1, or a mapping of modules to devices{hint}"
        )
    if max_memory and device_map not in DEVICE_RULES:
        return f"'language.max_memory' bounds a rule; set 'language.device_map' to one of {', '.join(DEVICE_RULES)}"
    for device, size in max_memory.items():
        if not (_DEVICE.fullmatch(device) and _SIZE.fullmatch(str(size))):
            return f"'language.max_memory.{device}' is {size!r}; write it like cuda:0: 20GiB or cpu: 60GiB"
    return None


def encoder_problem(device: str) -> str | None:
    """What is wrong with the encoder's device, as a sentence; None if nothing."""
    if device == "auto" or (_DEVICE.fullmatch(device) and not device.isdigit()):
        return None
    return f"'encoder.device' is {device!r}; write auto, cpu or cuda:N"


def main_device(device_map: Any, own: str) -> str:
    """The device whose precision a language model takes: the map's first that is no store, else the run's own."""
    if isinstance(device_map, dict):
        named = [str(device) for device in device_map.values() if device not in ("cpu", "disk")]
        device = named[0] if named else "cpu" if device_map else own
    else:
        device = own if device_map is None or device_map in DEVICE_RULES else str(device_map)
    return f"cuda:{device}" if device.isdigit() else device


def _known(device_map: Any) -> bool:
    return isinstance(device_map, str | int) and (
        device_map in DEVICE_RULES or bool(_DEVICE.fullmatch(str(device_map)))
    )
