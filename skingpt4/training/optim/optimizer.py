"""The optimiser of a run by its name (`optim.name`): torch's AdamW, or one of bitsandbytes."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from skingpt4.config.schema import ConfigError, OptimConfig
from skingpt4.model.network import SkinGPT4
from skingpt4.model.quantisation import import_bitsandbytes

BITSANDBYTES = {
    "adamw_8bit": "AdamW8bit", "paged_adamw_8bit": "PagedAdamW8bit", "paged_adamw_32bit": "PagedAdamW32bit",
}  # fmt: skip


def make_optimizer(model: SkinGPT4, optim: OptimConfig) -> torch.optim.Optimizer:
    """The optimiser on the trainable parameters; weight decay on matrices, none on biases.

    Raises:
        ConfigError: bitsandbytes is needed and not installed, or has no kernels for these parameters' device.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": optim.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    options: dict[str, Any] = {"lr": optim.init_lr, "betas": (optim.beta1, optim.beta2)}
    if optim.name == "adamw":
        return torch.optim.AdamW(groups, **options)
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"optim.name: {optim.name} needs bitsandbytes, which is not installed; pip install bitsandbytes, or "
            "optim.name=adamw"
        )
    import_bitsandbytes()
    import bitsandbytes

    kind = getattr(bitsandbytes.optim, BITSANDBYTES[optim.name])
    _try(kind, optim.name, parameters)
    return kind(groups, **options)


def _try(kind: Any, name: str, parameters: Sequence[nn.Parameter]) -> None:
    """One step on numbers of no meaning, on the device of the parameters.

    Raises:
        ConfigError: bitsandbytes has no kernels for it, or nothing can be paged there.
    """
    device = parameters[0].device
    if name.startswith("paged") and device.type != "cuda":
        raise ConfigError(
            f"optim.name: {name} moves its state between a GPU and the host, and this run is on {device.type}; train "
            f"on a GPU, or set optim.name={'adamw_8bit' if name.endswith('8bit') else 'adamw'}"
        )
    trial = nn.Parameter(torch.zeros(64, 64, device=device))
    trial.grad = torch.ones_like(trial)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kind([trial]).step()
    except (RuntimeError, NotImplementedError, AttributeError, TypeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise ConfigError(
            f"optim.name: {name} does not run on {device.type} with this bitsandbytes ({reason}); train on a GPU, or "
            "set optim.name=adamw"
        ) from None
