"""Small random vision models in the files of open_clip, timm, transformers and PanDerm, beside the libraries' own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn

from skingpt4.config.schema import VisionConfig
from skingpt4.config.vision_files import completed

SIDE = 32  # of the images, in pixels
OPENAI = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
TEXT = {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}
TOWER = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "patch_size": 8,
}  # fmt: skip
WORDS = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
    "max_position_embeddings": 8, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1,
}  # fmt: skip
OwnForward = Callable[[Tensor], Tensor]


def seeded(module: nn.Module, seed: int = 0) -> Any:
    """Every parameter drawn again, so that none is the zero or one with which a library starts it."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return module.eval()


def images(side: int = SIDE, count: int = 2) -> Tensor:
    """Normalised images."""
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(7))


def vision_of(model: str | Path, **changes: Any) -> VisionConfig:
    """The group `vision` of a configuration that names a folder or file and nothing else but these changes."""
    values = completed({"model": str(model), "image_size": None, **changes})
    return VisionConfig(**values)


def write_json(folder: Path, name: str, values: dict[str, Any]) -> None:
    """A JSON file in a folder, which is made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(values), encoding="utf-8")


def open_clip_model(
    folder: Path, tower: dict[str, Any], quick_gelu: bool = False, pickled: bool = False
) -> Any:
    """An open_clip model, and its folder as `push_to_hf_hub` writes it."""
    import open_clip

    model_cfg = {"embed_dim": 16, "vision_cfg": tower, "text_cfg": TEXT, "quick_gelu": quick_gelu}
    made = open_clip.CustomTextCLIP if "timm_model_name" in tower else open_clip.CLIP
    model = seeded(made(**model_cfg))
    steps = {"mean": OPENAI[0], "std": OPENAI[1], "interpolation": "bicubic", "resize_mode": "shortest"}
    write_json(folder, "open_clip_config.json", {"model_cfg": model_cfg, "preprocess_cfg": steps})
    if pickled:
        torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    else:
        save_file(
            {k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors"
        )
    return model


def transformers_model(folder: Path, family: str, whole: bool = True, **changes: Any) -> Any:
    """A model of transformers, written by `save_pretrained`, with its preprocessor's file.

    Args:
        folder: where it is written.
        family: clip, siglip, siglip2, dinov2, dinov2_with_registers or dinov3_vit.
        whole: with its text tower, where the family has one.
        changes: of the vision tower's configuration.
    """
    tower = {**TOWER, "image_size": SIDE, **changes}
    if family.startswith("dinov2"):
        tower |= {"mlp_ratio": 2, "intermediate_size": None}
        tower.pop("intermediate_size")
    if family == "siglip2":
        tower |= {"num_patches": 16}
        tower.pop("image_size")
    prefix = {"clip": "CLIP", "siglip": "Siglip", "siglip2": "Siglip2", "dinov2": "Dinov2"}.get(family)
    if family == "dinov2_with_registers":
        config = transformers.Dinov2WithRegistersConfig(num_register_tokens=2, **tower)
        model = transformers.Dinov2WithRegistersModel(config)
    elif family == "dinov3_vit":
        model = transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(num_register_tokens=4, **tower))
    elif family == "dinov2":
        model = transformers.Dinov2Model(transformers.Dinov2Config(**tower))
    elif whole:
        config = getattr(transformers, f"{prefix}Config")(text_config=WORDS, vision_config=tower)
        model = getattr(transformers, f"{prefix}Model")(config)
    else:
        config = getattr(transformers, f"{prefix}VisionConfig")(**tower)
        model = getattr(transformers, f"{prefix}VisionModel")(config)
    seeded(model).save_pretrained(folder)
    steps: dict[str, Any] = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4], "resample": 2}
    if family == "siglip2":
        steps |= {"max_num_patches": 16, "patch_size": 8}
    elif family == "clip":
        steps |= {
            "size": {"shortest_edge": 40},
            "crop_size": {"height": SIDE, "width": SIDE},
            "do_center_crop": True,
        }
    else:
        steps |= {"size": {"height": SIDE, "width": SIDE}}
    write_json(folder, "preprocessor_config.json", steps)
    return model


def timm_folder(folder: Path, name: str, **args: Any) -> Any:
    """A timm model and its folder as timm's `save_for_hf` writes it."""
    from timm.models import save_for_hf

    model = seeded(timm.create_model(name, num_classes=5, **args))
    save_for_hf(model, str(folder), model_args=args, safe_serialization=True)
    return model


class Cae(nn.Module):
    """PanDerm's network as its publication defines it, written down a second time, with PanDerm's names.

    A pre-norm transformer: attention with biases of queries and values, layer scale, a class token, absolute
    positions, a final norm; epsilon 1e-6.
    """

    def __init__(self, width: int = 128, depth: int = 2, patch: int = 8, side: int = SIDE) -> None:
        super().__init__()
        self.width, self.depth, self.patch = width, depth, patch
        tokens = (side // patch) ** 2 + 1
        shapes = {
            "cls_token": (1, 1, width), "pos_embed": (1, tokens, width),
            "patch_embed.proj.weight": (width, 3, patch, patch), "patch_embed.proj.bias": (width,),
            "norm.weight": (width,), "norm.bias": (width,),
        }  # fmt: skip
        for n in range(depth):
            shapes |= {
                f"blocks.{n}.{key}": shape
                for key, shape in {
                    "gamma_1": (width,), "gamma_2": (width,), "norm1.weight": (width,), "norm1.bias": (width,),
                    "norm2.weight": (width,), "norm2.bias": (width,), "attn.q_bias": (width,),
                    "attn.v_bias": (width,), "attn.qkv.weight": (3 * width, width),
                    "attn.proj.weight": (width, width), "attn.proj.bias": (width,),
                    "mlp.fc1.weight": (4 * width, width), "mlp.fc1.bias": (4 * width,),
                    "mlp.fc2.weight": (width, 4 * width), "mlp.fc2.bias": (width,),
                }.items()
            }  # fmt: skip
        generator = torch.Generator().manual_seed(0)
        self.tensors = {name: torch.randn(shape, generator=generator) * 0.1 for name, shape in shapes.items()}

    def forward(self, image: Tensor) -> Tensor:
        """Map images (b, 3, h, w) to tokens (b, n, d), the class token first."""
        F, t, heads = torch.nn.functional, self.tensors, self.width // 64
        x = F.conv2d(image, t["patch_embed.proj.weight"], t["patch_embed.proj.bias"], stride=self.patch)
        x = (
            torch.cat([t["cls_token"].expand(len(image), -1, -1), x.flatten(2).transpose(1, 2)], 1)
            + t["pos_embed"]
        )

        def norm(x: Tensor, name: str) -> Tensor:
            return F.layer_norm(x, (self.width,), t[f"{name}.weight"], t[f"{name}.bias"], 1e-6)

        for n in range(self.depth):
            b = {
                key.removeprefix(f"blocks.{n}."): value
                for key, value in t.items()
                if key.startswith(f"blocks.{n}.")
            }
            bias = torch.cat([b["attn.q_bias"], torch.zeros(self.width), b["attn.v_bias"]])
            qkv = F.linear(norm(x, f"blocks.{n}.norm1"), b["attn.qkv.weight"], bias)
            q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
            weights = (q @ k.transpose(-1, -2) / (self.width // heads) ** 0.5).softmax(-1)
            mixed = F.linear(
                (weights @ v).transpose(1, 2).flatten(2), b["attn.proj.weight"], b["attn.proj.bias"]
            )
            x = x + b["gamma_1"] * mixed
            hidden = F.gelu(F.linear(norm(x, f"blocks.{n}.norm2"), b["mlp.fc1.weight"], b["mlp.fc1.bias"]))
            x = x + b["gamma_2"] * F.linear(hidden, b["mlp.fc2.weight"], b["mlp.fc2.bias"])
        return norm(x, "norm")
