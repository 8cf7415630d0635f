"""LAVIS's own EVA-ViT and Q-Former classes, read from two files of the installed salesforce-lavis 1.0.2.

Its package imports twenty others and was written for transformers before 4.27 and timm 0.4.12, so
`lavis/__init__.py` is never run: the two files are loaded by path under private names, with stand-ins for the
modules that have since moved, and the stand-ins are taken out of `sys.modules` again.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import timm.layers
import timm.models
import torch
import torch.utils.checkpoint
import transformers.activations
import transformers.modeling_outputs
import transformers.models.bert.configuration_bert
from torch import Tensor, nn

from skingpt4.errors import UserError

INSTALL = "pip install --no-deps salesforce-lavis==1.0.2"
EVA, QFORMER = "models/eva_vit.py", "models/blip2_models/Qformer.py"
_LOADING = threading.Lock()  # sys.modules is one for the whole process


class LavisError(UserError):
    """LAVIS cannot be used; the message says why and what to do."""


class PreTrainedModel(nn.Module):
    """What the Q-Former's file uses of the class of that name: for a BERT encoder whose heads are all kept."""

    def __init__(self, config: Any) -> None:
        """Keep the configuration."""
        super().__init__()
        self.config = config

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return next(self.parameters()).dtype

    def init_weights(self) -> None:
        """Initialise every module by the subclass's own rule."""
        self.apply(self._init_weights)  # type: ignore[arg-type]

    def invert_attention_mask(self, mask: Tensor) -> Tensor:
        """Turn a mask (b, n) of ones into summands (b, 1, 1, n) of attention scores."""
        return (1.0 - mask[:, None, None, :].to(self.dtype)) * torch.finfo(self.dtype).min

    def get_head_mask(self, head_mask: None, num_layers: int) -> list[None]:
        """One entry a layer: no head is masked."""
        return [head_mask] * num_layers


def _whole(function: Callable[..., Tensor], chunk_size: int, dim: int, *tensors: Tensor) -> Tensor:
    """`apply_chunking_to_forward` with its default, no chunks."""
    return function(*tensors)


def _unused(name: str) -> Callable[..., Any]:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise LavisError(f"LAVIS's {name} is not available: nothing here downloads, registers or prunes")

    return refuse


def _stand_ins() -> dict[str, ModuleType]:
    layers = timm.layers
    contents: dict[str, dict[str, Any]] = {
        "timm.models.layers": {n: getattr(layers, n) for n in ("drop_path", "to_2tuple", "trunc_normal_")},
        "timm.models.registry": {"register_model": lambda function: function},
        "lavis": {}, "lavis.common": {},
        "lavis.common.dist_utils": {"download_cached_file": _unused("download_cached_file")},
        "transformers.file_utils": {"ModelOutput": transformers.modeling_outputs.ModelOutput},
        "transformers.modeling_utils": {
            "PreTrainedModel": PreTrainedModel, "apply_chunking_to_forward": _whole,
            **{n: _unused(n) for n in ("find_pruneable_heads_and_indices", "prune_linear_layer")},
        },
    }  # fmt: skip
    modules = {name: ModuleType(name) for name in contents}
    for name, held in contents.items():
        vars(modules[name]).update(held)
    return modules


@contextmanager
def _in_place(stand_ins: dict[str, ModuleType]) -> Iterator[None]:
    before = {name: sys.modules[name] for name in stand_ins if name in sys.modules}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name in stand_ins:
            del sys.modules[name]
        sys.modules.update(before)


@functools.cache
def lavis_classes() -> SimpleNamespace:
    """LAVIS's `VisionTransformer` (EVA-ViT), `BertModel` (the Q-Former) and `BertConfig`.

    Raises:
        LavisError: the package is not installed, or its files are not those of version 1.0.2.
    """
    # Without its files a package's spec has no place to look; finding a top-level spec runs nothing.
    spec = importlib.util.find_spec("lavis")
    if spec is None or not spec.submodule_search_locations:
        raise LavisError(f"encoder.backend: lavis needs salesforce-lavis, which is not installed; {INSTALL}")
    folder = Path(spec.submodule_search_locations[0])
    with _LOADING, _in_place(_stand_ins()):
        try:
            eva, qformer = _run(folder / EVA, "_lavis_eva_vit"), _run(folder / QFORMER, "_lavis_qformer")
            return SimpleNamespace(
                VisionTransformer=eva.VisionTransformer,
                BertModel=qformer.BertModel,
                BertConfig=qformer.BertConfig,
            )
        except (OSError, ImportError, AttributeError) as error:
            raise LavisError(
                f"encoder.backend: {folder} cannot be used ({error}); install the tested version: {INSTALL}"
            ) from None


def _run(path: Path, name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
