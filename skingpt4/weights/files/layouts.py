"""The names under which others publish the encoder's parts: LAVIS, Hugging Face's BLIP-2 and InstructBLIP.

A layout becomes recipes: for each of our tensors its name in the file and how it is transformed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from torch import Tensor

from skingpt4.weights.files.headers import WeightsMismatch
from skingpt4.weights.files.source import Recipe, TensorSource, unchanged

# What is read of a Hugging Face directory; the shards of the language model are not opened.
VISION_PREFIXES = ("vision_model.", "model.vision_model.")
QFORMER_PREFIXES = ("qformer.", "query_tokens", "model.qformer.", "model.query_tokens", "Qformer.")
NORM_NAMES = ("ln_vision", "vision_model.post_layernorm", "model.vision_model.post_layernorm")

_HF_VISION = (
    (r"embeddings\.class_embedding$", "cls_token"),
    (r"embeddings\.position_embedding$", "pos_embed"),
    (r"embeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"encoder\.layers\.", "blocks."),
    (r"\.layer_norm([12])\.", r".norm\1."),
    (r"\.self_attn\.qkv\.", ".attn.qkv."),
    (r"\.self_attn\.projection\.", ".attn.proj."),
    (r"^post_layernorm\.", "norm."),
)
LAVIS_QFORMER = (  # LAVIS's, ours
    ("embeddings.LayerNorm.", "layernorm."),
    (".attention.self.", ".attention.attention."),
    (".crossattention.self.", ".crossattention.attention."),
)
# InstructBLIP keeps the norm of its queries among the text's embeddings.
_HF_QFORMER = (("embeddings.layernorm.", "layernorm."),)
_TEXT_BRANCH = re.compile(r"encoder\.layer\.\d+\.(intermediate|output)\.|embeddings\.(word|position)")


def vision_recipes(source: TensorSource) -> dict[str, Recipe]:
    """Recipes for timm's EVA-ViT-g out of LAVIS's or a Hugging Face file; other files keep their own names."""
    recipes: dict[str, Recipe] = {}
    for name in source.header:
        inner = re.sub(r"^(model\.)?vision_model\.", "", name)
        if inner == name:
            recipes[name] = (name, unchanged)
            continue
        for pattern, ours in _HF_VISION:
            inner = re.sub(pattern, ours, inner)
        if inner.endswith(".attn.qkv.bias"):
            stem = inner.removesuffix("qkv.bias")
            recipes[f"{stem}q_bias"] = (name, _third(0, source, name))
            recipes[f"{stem}v_bias"] = (name, _third(2, source, name))
        else:
            recipes[inner] = (name, unchanged)
    return recipes


def is_lavis_vision(source: TensorSource) -> bool:
    """Whether this is LAVIS's `eva_vit_g.pth`, or a copy of it: EVA's tensors without the final norm."""
    return "blocks.0.attn.q_bias" in source.header and "norm.weight" not in source.header


def _third(index: int, source: TensorSource, name: str) -> Callable[[Tensor], Tensor]:
    """EVA has no key bias: Hugging Face writes [q_bias, 0, v_bias] as one."""

    def take(bias: Tensor) -> Tensor:
        thirds = bias.chunk(3)
        if not bias.is_meta and thirds[1].any():
            raise WeightsMismatch(
                f"{source.path}: {name} has a bias of the keys, which EVA-ViT-g does not have"
            )
        return thirds[index]

    return take


def qformer_recipes(source: TensorSource) -> dict[str, Recipe]:
    """Recipes for `QFormer` out of LAVIS's or a Hugging Face file, without the text branch; our own is unchanged."""
    lavis = any(name.startswith("Qformer.") for name in source.header)
    hugging_face = any(re.match(r"(model\.)?qformer\.", name) for name in source.header)
    if not lavis and not hugging_face:
        return {name: (name, unchanged) for name in source.header}
    prefix = r"Qformer\.bert\." if lavis else r"(model\.)?qformer\."
    recipes: dict[str, Recipe] = {}
    for name in source.header:
        inner = re.sub(f"^{prefix}", "", name)
        if re.fullmatch(r"(model\.)?query_tokens", name):
            recipes["query_tokens"] = (name, unchanged)
        elif inner != name and not _TEXT_BRANCH.match(inner):
            for old, new in LAVIS_QFORMER if lavis else _HF_QFORMER:
                inner = inner.replace(old, new)
            recipes[f"model.{inner}"] = (name, unchanged)
    return recipes


def norm_recipes(source: TensorSource) -> dict[str, Recipe]:
    """Recipes for the encoder's final norm out of a BLIP-2 file; empty where it holds none."""
    present = [norm for norm in NORM_NAMES if f"{norm}.weight" in source.header]
    return {leaf: (f"{norm}.{leaf}", unchanged) for norm in present[:1] for leaf in ("weight", "bias")}


def brings_norm(weights: str | Path) -> bool:
    """Whether the Q-Former's weights are in a layout that also holds the vision encoder's final norm."""
    return Path(weights).is_dir() or Path(weights).suffix in (".pth", ".pt")


def unused(source: TensorSource, recipes: Iterable[Recipe]) -> list[str]:
    """The tensors of a file that no recipe uses, sorted."""
    used = {name for name, _ in recipes}
    return sorted(source.header.keys() - used)
