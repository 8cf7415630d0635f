"""Files of the true names and shapes of published models, whose numbers take no place on the disk."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import torch

Shapes = dict[str, list[int]]


def sparse_safetensors(path: Path, shapes: Shapes, dtype: str = "F16") -> Path:
    """A safetensors file of the given shapes in half precision, its numbers a hole in the file."""
    header: dict[str, Any] = {}
    offset = 0
    for name, shape in shapes.items():
        size = 2 * torch.Size(shape).numel()
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + offset)
    return path


def thin_pth(path: Path, shapes: Shapes) -> Path:
    """A `.pth` of the given shapes: each tensor repeats one number, so the file holds one of each."""
    torch.save({"model": {name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}}, path)
    return path


def clip_vit_shapes(
    width: int = 768, layers: int = 12, patch: int = 16, side: int = 224, out: int = 512
) -> Shapes:
    """Names and shapes of open_clip's plain vision tower, with a tensor of the text tower."""
    block = {
        "ln_1.weight": [width], "ln_1.bias": [width], "ln_2.weight": [width], "ln_2.bias": [width],
        "attn.in_proj_weight": [3 * width, width], "attn.in_proj_bias": [3 * width],
        "attn.out_proj.weight": [width, width], "attn.out_proj.bias": [width],
        "mlp.c_fc.weight": [4 * width, width], "mlp.c_fc.bias": [4 * width],
        "mlp.c_proj.weight": [width, 4 * width], "mlp.c_proj.bias": [width],
    }  # fmt: skip
    return {
        "visual.class_embedding": [width], "visual.positional_embedding": [(side // patch) ** 2 + 1, width],
        "visual.proj": [width, out], "visual.conv1.weight": [width, 3, patch, patch],
        "visual.ln_pre.weight": [width], "visual.ln_pre.bias": [width], "visual.ln_post.weight": [width],
        "visual.ln_post.bias": [width], "token_embedding.weight": [49408, 512],
        **{f"visual.transformer.resblocks.{n}.{key}": s for n in range(layers) for key, s in block.items()},
    }  # fmt: skip


def panderm_shapes(width: int = 1024, layers: int = 24, prefix: str = "encoder.") -> Shapes:
    """Names and shapes of PanDerm's checkpoint: ViT-L/16, or ViT-B/16 with 768 and 12."""
    block = {
        "gamma_1": [width], "gamma_2": [width], "norm1.weight": [width], "norm1.bias": [width],
        "norm2.weight": [width], "norm2.bias": [width], "attn.q_bias": [width], "attn.v_bias": [width],
        "attn.qkv.weight": [3 * width, width], "attn.proj.weight": [width, width], "attn.proj.bias": [width],
        "mlp.fc1.weight": [4 * width, width], "mlp.fc1.bias": [4 * width], "mlp.fc2.weight": [width, 4 * width],
        "mlp.fc2.bias": [width],
    }  # fmt: skip
    tower = {
        "cls_token": [1, 1, width], "pos_embed": [1, 197, width], "patch_embed.proj.weight": [width, 3, 16, 16],
        "patch_embed.proj.bias": [width], "norm.weight": [width], "norm.bias": [width],
        **{f"blocks.{n}.{key}": s for n in range(layers) for key, s in block.items()},
    }  # fmt: skip
    return {f"{prefix}{name}": shape for name, shape in tower.items()}


def write_dermlip(folder: Path) -> None:
    """DermLIP ViT-B/16 as open_clip writes it to the hub."""
    folder.mkdir(parents=True)
    tower = {"image_size": 224, "layers": 12, "width": 768, "patch_size": 16}
    text = {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12}
    config = {
        "model_cfg": {"embed_dim": 512, "vision_cfg": tower, "text_cfg": text},
        "preprocess_cfg": {
            "mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711],
            "interpolation": "bicubic", "resize_mode": "shortest",
        },
    }  # fmt: skip
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    sparse_safetensors(folder / "open_clip_model.safetensors", clip_vit_shapes())
