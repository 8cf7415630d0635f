"""LAVIS's own EVA-ViT and Q-Former classes, read from two files of the installed salesforce-lavis 1.0.2.

Its package imports twenty others and was written for transformers before 4.27 and timm 0.4.12, so
`lavis/__init__.py` is never run: the two files are loaded by path under private names, with stand-ins for the
modules that have since moved, and the stand-ins are removed from `sys.modules` again.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
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
from accelerate import init_empty_weights
from torch import Tensor, nn

from skingpt4.model.encoders.encoder import VisionEncoder
from skingpt4.model.qformer import QFormer
from skingpt4.support.errors import UserError
from skingpt4.weights.files.layouts import LAVIS_QFORMER

INSTALL = "pip install --no-deps salesforce-lavis==1.0.2"
EVA, QFORMER = "models/eva_vit.py", "models/blip2_models/Qformer.py"
_LOADING = threading.Lock()  # sys.modules is one for the whole process


class LavisError(UserError):
    """LAVIS cannot be used; the message says why and what to do."""


class PreTrainedModel(nn.Module):
    """What the Q-Former's file uses of the class of that name, for a BERT encoder without pruned heads."""

    def __init__(self, config: Any) -> None:
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


def _unchunked(function: Callable[..., Tensor], chunk_size: int, dim: int, *tensors: Tensor) -> Tensor:
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
            "PreTrainedModel": PreTrainedModel, "apply_chunking_to_forward": _unchunked,
            **{n: _unused(n) for n in ("find_pruneable_heads_and_indices", "prune_linear_layer")},
        },
    }  # fmt: skip
    modules = {name: ModuleType(name) for name in contents}
    for name, attributes in contents.items():
        vars(modules[name]).update(attributes)
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
    # The spec of a package without files has no search location; finding a top-level spec runs nothing.
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


class LavisVision(nn.Module):
    """LAVIS's EVA-ViT and `ln_vision` in place of a `VisionEncoder`, whose tensors it takes over.

    Raises:
        LavisError: the backbone is not an EVA-ViT as LAVIS has it, or LAVIS is not installed.
    """

    def __init__(self, ours: VisionEncoder) -> None:
        super().__init__()
        timm_vit = ours.backbone
        if "blocks.0.attn.q_bias" not in timm_vit.state_dict():
            raise LavisError(
                "encoder.backend: lavis runs EVA-ViT-g only; set vision.model: eva_giant_patch14_clip_224, "
                "or encoder.backend: native"
            )
        if ours.block is not None or not ours.norm or timm_vit.norm.eps != 1e-5:
            raise LavisError(
                "encoder.backend: lavis takes the last block and ln_vision; set vision.block: null, "
                "vision.norm: true and vision.norm_eps: 1.0e-5, or encoder.backend: native"
            )
        first, width = timm_vit.blocks[0], timm_vit.embed_dim
        with init_empty_weights(include_buffers=False):
            self.visual_encoder = lavis_classes().VisionTransformer(
                img_size=timm_vit.patch_embed.img_size[0],
                patch_size=timm_vit.patch_embed.patch_size[0],
                embed_dim=width,
                depth=len(timm_vit.blocks),
                num_heads=first.attn.num_heads,
                mlp_ratio=(first.mlp.fc1.out_features + 0.5) / width,  # LAVIS rounds the product down
                qkv_bias=True,
                norm_layer=partial(nn.LayerNorm, eps=1e-6),
            )
        self.visual_encoder.load_state_dict(vision_to_lavis(ours), strict=True, assign=True)
        self.ln_vision = timm_vit.norm
        self.mean, self.std, self.width, self.num_tokens = ours.mean, ours.std, ours.width, ours.num_tokens
        self.image_size, self.num_prefix = ours.image_size, ours.num_prefix
        self.interpolation = ours.interpolation

    def forward(self, image: Tensor) -> Tensor:
        """Map images (b, 3, h, w), normalised, to tokens (b, n, d)."""
        return self.ln_vision(self.visual_encoder(image))


class LavisQFormer(nn.Module):
    """LAVIS's Q-Former without its text branch in place of a `QFormer`, whose tensors it takes over.

    Raises:
        LavisError: LAVIS is not installed.
    """

    def __init__(self, ours: QFormer) -> None:
        super().__init__()
        lavis, sizes = lavis_classes(), ours.model.config
        config = lavis.BertConfig(
            hidden_size=ours.width,
            num_hidden_layers=sizes.num_hidden_layers,
            num_attention_heads=sizes.num_attention_heads,
            intermediate_size=sizes.intermediate_size,
            vocab_size=1,  # the text branch is removed below, as in MiniGPT-4
            max_position_embeddings=1,
        )
        config.encoder_width, config.query_length = sizes.encoder_hidden_size, ours.num_query_tokens
        config.add_cross_attention, config.cross_attention_freq = True, sizes.cross_attention_frequency
        with init_empty_weights(include_buffers=False):
            self.bert = lavis.BertModel(config)
        embeddings = self.bert.embeddings
        embeddings.word_embeddings = embeddings.position_embeddings = None
        embeddings.register_buffer("position_ids", embeddings.position_ids, persistent=False)
        for layer in self.bert.encoder.layer:
            layer.intermediate = layer.output = None
        self.query_tokens = ours.query_tokens
        tensors = {key.removeprefix("Qformer."): value for key, value in qformer_to_lavis(ours).items()}
        self.load_state_dict(tensors, strict=True, assign=True)
        self.to(ours.query_tokens.device)  # LAVIS's own buffer
        self.width, self.num_query_tokens = ours.width, ours.num_query_tokens

    def forward(self, tokens: Tensor) -> Tensor:
        """Map vision tokens (b, n, encoder width) to queries (b, q, d)."""
        output = self.bert(
            query_embeds=self.query_tokens.expand(len(tokens), -1, -1),
            encoder_hidden_states=tokens,
            encoder_attention_mask=torch.ones(tokens.shape[:2], dtype=torch.long, device=tokens.device),
            output_attentions=False,
            output_hidden_states=False,
            return_dict=True,
        )
        return output.last_hidden_state


def vision_to_lavis(vision: VisionEncoder) -> dict[str, Tensor]:
    """Our EVA-ViT's tensors as `eva_vit_g.pth` names them: timm's names, without the final norm."""
    return {k: v for k, v in vision.backbone.state_dict().items() if not k.startswith("norm.")}


def qformer_to_lavis(qformer: QFormer) -> dict[str, Tensor]:
    """Our Q-Former's tensors as LAVIS's `blip2_pretrained_*.pth` names them; the inverse of loading that file."""
    renamed = {}
    for key, value in qformer.state_dict().items():
        for theirs, ours in LAVIS_QFORMER:
            key = key.replace(ours, theirs)
        renamed[key if key == "query_tokens" else f"Qformer.bert.{key.removeprefix('model.')}"] = value
    return renamed


def to_lavis(vision: VisionEncoder, qformer: QFormer) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """An encoder of ours as the contents of LAVIS's two files.

    Returns:
        (tensors of `eva_vit_g.pth`, tensors under `model` in `blip2_pretrained_*.pth`); they share our memory.
    """
    norm = {f"ln_vision.{key}": value for key, value in vision.backbone.norm.state_dict().items()}
    return vision_to_lavis(vision), norm | qformer_to_lavis(qformer)
