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
VISION_PREFIXES = (
    "vision_model.", "model.vision_model.", "vision_tower.", "model.vision_tower.",
    # of a tower alone
    "embeddings.", "pre_layrnorm.", "encoder.", "layer.", "norm.", "layernorm.", "post_layernorm.",
)  # fmt: skip
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
_OPEN_CLIP = (  # of the plain vision tower
    (r"^class_embedding$", "cls_token"),
    (r"^positional_embedding$", "pos_embed"),
    (r"^conv1\.", "patch_embed.proj."),
    (r"^ln_pre\.", "norm_pre."),
    (r"^ln_post\.", "norm."),
    (r"^transformer\.resblocks\.", "blocks."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.ls_([12])\.", r".ls\1."),
    (r"\.attn\.in_proj_", ".attn.qkv."),
    (r"\.attn\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)
_OPEN_CLIP_TIMM = "visual.trunk."  # before timm's own names
LAVIS_QFORMER = (  # LAVIS's, ours
    ("embeddings.LayerNorm.", "layernorm."),
    (".attention.self.", ".attention.attention."),
    (".crossattention.self.", ".crossattention.attention."),
)
# InstructBLIP keeps the norm of its queries among the text's embeddings.
_HF_QFORMER = (("embeddings.layernorm.", "layernorm."),)
_TEXT_BRANCH = re.compile(r"encoder\.layer\.\d+\.(intermediate|output)\.|embeddings\.(word|position)")


def vision_recipes(source: TensorSource) -> dict[str, Recipe]:
    """Recipes for timm's networks out of files of LAVIS, open_clip, PanDerm or BLIP-2; others keep their names."""
    if "visual.class_embedding" in source.header:
        return _open_clip_recipes(source)
    prefix = _OPEN_CLIP_TIMM
    if not any(name.startswith(prefix) for name in source.header):
        prefix = beit_prefix(source.header) or ""
    if prefix:
        names = (name for name in source.header if name.startswith(prefix))
        return {name.removeprefix(prefix): (name, unchanged) for name in names}
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


def _open_clip_recipes(source: TensorSource) -> dict[str, Recipe]:
    recipes: dict[str, Recipe] = {}
    for name in source.header:
        inner = name.removeprefix("visual.")
        if inner == name:
            continue  # of the text tower
        for pattern, ours in _OPEN_CLIP:
            inner = re.sub(pattern, ours, inner)
        recipes[inner] = (name, _ONE_BEFORE.get(inner, unchanged))
    return recipes


# Tensors that timm stores with further dimensions of one.
_ONE_BEFORE: dict[str, Callable[[Tensor], Tensor]] = {
    "cls_token": lambda tensor: tensor[None, None],
    "pos_embed": lambda tensor: tensor[None],
}


def beit_prefix(names: Iterable[str]) -> str | None:
    """What precedes the names of a BEiT with layer scale, such as PanDerm; None where there is no such network.

    A checkpoint of its pretraining holds several; the one that is used afterwards is called `encoder`.
    """
    end = "blocks.0.attn.q_bias"
    names = set(names)
    prefixes = {name.removesuffix(end) for name in names if name.endswith(end)}
    prefixes = {prefix for prefix in prefixes if f"{prefix}blocks.0.gamma_1" in names}
    usual: list[str] = [prefix for prefix in ("encoder.", "", "module.") if prefix in prefixes]
    return next(iter(usual or sorted(prefixes)), None)


def tower_recipes(source: TensorSource, own: Iterable[str]) -> dict[str, Recipe]:
    """Recipes for a vision tower of transformers, with tensors called `own`, out of its own or a model's file."""
    marked = any(_TOWER.match(name) for name in source.header)
    inner = {}
    for name in source.header:
        if not marked or _TOWER.match(name):
            inner[_MODEL.sub("", _TOWER.sub("", name))] = name
    return {name: (inner[plain], unchanged) for name in own if (plain := _MODEL.sub("", name)) in inner}


# What precedes a tower's names in a model's file, and the name of DINOv3's encoder, which its files leave out.
_TOWER = re.compile(r"^(model\.)?(vision_tower\.vision_model|vision_tower|vision_model|vision_encoder)\.")
_MODEL = re.compile(r"^model\.(?=layer\.)")


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
