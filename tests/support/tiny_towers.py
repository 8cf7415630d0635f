"""Random CLIP, SigLIP and SigLIP 2 models in kilobytes, and an open_clip folder; nothing is downloaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoConfig,
    AutoModel,
    CLIPImageProcessor,
    CLIPProcessor,
    Siglip2ImageProcessor,
    Siglip2Processor,
    SiglipImageProcessor,
    SiglipProcessor,
)

from tests.support.tiny_vlm import make_tokenizer

_TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZE = {"height": 32, "width": 32}


def _clip() -> tuple[Any, dict[str, Any]]:
    tokenizer = make_tokenizer()
    ids = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<bos>", "<eos>")]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing("<bos> $A <eos>", special_tokens=ids)
    tokenizer.model_max_length = 77
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=SIZE)
    text = {"max_position_embeddings": 77, "eos_token_id": tokenizer.eos_token_id}
    vision = {"image_size": 32, "patch_size": 8}
    return CLIPProcessor(images, tokenizer), {"text": text, "vision": vision, "projection_dim": 16}


def _siglip() -> tuple[Any, dict[str, Any]]:
    tokenizer = make_tokenizer()
    tokenizer.model_input_names = ["input_ids"]
    text, vision = {"max_position_embeddings": 64}, {"image_size": 32, "patch_size": 8}
    return SiglipProcessor(SiglipImageProcessor(size=SIZE), tokenizer), {"text": text, "vision": vision}


def _siglip2() -> tuple[Any, dict[str, Any]]:
    tokenizer = make_tokenizer()
    tokenizer.model_input_names = ["input_ids"]
    # The processor cuts all pictures into 256 patches of 16 pixels, whatever its image processor says.
    text, vision = {"max_position_embeddings": 64}, {"num_patches": 256, "patch_size": 16}
    return Siglip2Processor(Siglip2ImageProcessor(), tokenizer), {"text": text, "vision": vision}


KINDS = {"clip": _clip, "siglip": _siglip, "siglip2": _siglip2}


def save_towers(folder: Path, kind: str = "clip", seed: int = 0) -> str:
    """Write a random model of a kind with its processor, unless it is there; returns the folder."""
    if not (folder / "config.json").is_file():
        processor, options = KINDS[kind]()
        text = {**_TOWER, **options.pop("text"), "vocab_size": len(processor.tokenizer)}
        text |= {"pad_token_id": processor.tokenizer.pad_token_id}
        vision = {**_TOWER, **options.pop("vision")}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            config = AutoConfig.for_model(kind, text_config=text, vision_config=vision, **options)
            model = AutoModel.from_config(config)
            for weight in model.parameters():  # their own start is so small that all texts look alike
                if weight.dim() > 1:
                    torch.nn.init.normal_(weight, std=0.3)
            model.logit_scale.data.fill_(2.0)
            if hasattr(model, "logit_bias"):
                model.logit_bias.data.fill_(-1.5)
            model.save_pretrained(folder)
        processor.save_pretrained(folder)
    return str(folder)


def save_open_clip(folder: Path, seed: int = 0) -> str:
    """Write a random model of open_clip, which must be installed."""
    import open_clip

    model_cfg = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    }
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = open_clip.CLIP(**model_cfg)
    preprocess = {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28], "interpolation": "bicubic"}
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": model_cfg, "preprocess_cfg": preprocess})
    )
    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    return str(folder)
