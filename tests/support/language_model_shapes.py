"""Folders of language models in their true shapes: configuration, a made tokenizer, and sparse files of zeros.

The files have the headers and lengths of the real ones and take no room on the disk. Nothing of a model is in them.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

import torch
from tokenizers import AddedToken
from transformers import AutoConfig, AutoModelForCausalLM

from skingpt4.doctor.published import PUBLISHED
from skingpt4.weights.files.source import shapes_alone
from tests.support.tiny import make_tokenizer

# Special tokens of the families' own tokenizers, as far as their prompts use them; and whose pre-tokenizer they have.
TOKENS = {
    "qwen3": ("qwen2", ("<|im_start|>", "<|im_end|>")),
    "llama-3": ("qwen2", ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|end_of_text|>")),
    "gemma": ("gemma2", ("<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<eos>")),
    "vicuna": ("llama", ()),
    "falcon": ("falcon", ()),
}


def write_true_shape(folder: Path, hub_id: str) -> str:
    """Write the folder of a published model; returns it."""
    name = Path(hub_id).name.lower()
    family, sizes = PUBLISHED[name]
    config = AutoConfig.for_model(family, **sizes)
    prefix, written = "", config
    if family == "gemma3_text":  # published with a vision tower, whose shape does not matter here
        prefix = "language_model."
        written = AutoConfig.for_model("gemma3", text_config=config.to_dict())
    folder.mkdir(parents=True)
    written.save_pretrained(folder)
    with shapes_alone():
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    shapes = {prefix + key: tensor.shape for key, tensor in model.named_parameters()}
    if prefix:
        shapes["vision_tower.vision_model.post_layernorm.weight"] = torch.Size([1152])
    _write_sparse(folder / "model.safetensors", shapes)
    kind, tokens = next(value for key, value in TOKENS.items() if key in name)
    tokenizer = make_tokenizer(kind)
    tokenizer.add_tokens([AddedToken(t, special=True) for t in tokens], special_tokens=True)
    tokenizer.save_pretrained(folder)
    return str(folder)


def _write_sparse(path: Path, shapes: dict[str, torch.Size]) -> None:
    """A safetensors file in bf16: norms are ones, since a final norm of zeros is a delta's; all else is a hole."""
    header, place, ones = {}, 0, []
    for name, shape in shapes.items():
        end = place + 2 * shape.numel()
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [place, end]}
        if name.endswith("norm.weight"):
            ones.append((place, shape.numel()))
        place = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for start, count in ones:
            file.seek(8 + len(text) + start)
            file.write(b"\x80\x3f" * count)
        file.truncate(8 + len(text) + place)
