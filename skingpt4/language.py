"""The frozen language model, reached only through what every `AutoModelForCausalLM` has."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from skingpt4.config import LOCAL
from skingpt4.language_checks import LanguageModelError, require_vocabulary, require_whole

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The compute precision; `auto` is bf16 where the device has it, else fp16 on a GPU and fp32 on a CPU."""
    if name != "auto":
        return DTYPES[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16
    if device.type == "cpu":  # without AMX, bf16 on a CPU is slower than fp32
        return torch.bfloat16 if torch.cpu._is_amx_tile_supported() else torch.float32
    return torch.float32


def load_language_model(
    name: str, dtype: torch.dtype = torch.float32, attention: str = "sdpa"
) -> tuple[Any, Any]:
    """Load (model, tokenizer) from a local directory or a hub name, frozen and in eval mode.

    Raises:
        LanguageModelError: the directory is not there or incomplete, or the hub could not be reached.
    """
    looks_local = name.startswith(LOCAL)
    if looks_local and not (Path(name) / "config.json").is_file():
        raise LanguageModelError(
            f"language.model: {name} holds no config.json; fetch or convert the model first"
        )
    if Path(name).is_dir():
        require_whole(name)
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        require_vocabulary(name, tokenizer)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            name, dtype=dtype, attn_implementation=attention, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise LanguageModelError(
            f"language.model: {name} cannot be loaded ({str(error).splitlines()[0]})"
        ) from None
    model, found = loaded
    if found["missing_keys"]:  # transformers would fill them with random numbers and only log it
        names = ", ".join(sorted(found["missing_keys"])[:4])
        raise LanguageModelError(
            f"language.model: {name} lacks {len(found['missing_keys'])} tensors: {names}"
        )
    model.get_output_embeddings().register_forward_pre_hook(_contiguous)
    return model.requires_grad_(False).eval(), tokenizer


def _contiguous(head: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Copy the head's few input rows if they are a slice.

    torch multiplies a sliced (b, 1, d) row by row and copies the whole vocabulary matrix for each: reading a
    batch of 50 prompts in bf16 on a CPU took 5.5 s instead of 1.
    """
    del head
    return (args[0].contiguous(), *args[1:])


def supervised_logits(model: Any, embeds: Tensor, attention_mask: Tensor, positions: Tensor) -> Tensor:
    """Logits (n, vocabulary) at the chosen positions alone.

    The head of a large vocabulary is a fifth of a small model's cost, and most positions are image and
    prompt. Families that change logits after their head (a soft cap, a scale) are run whole.

    Args:
        model: a causal language model.
        embeds: (b, t, d) input embeddings.
        attention_mask: (b, t), 0 at padding.
        positions: (b, t) bool, the positions whose next token is wanted.
    """
    if _has_plain_head(model):
        hidden = model.base_model(inputs_embeds=embeds, attention_mask=attention_mask, use_cache=False)[0]
        return model.get_output_embeddings()(hidden[positions])
    return model(inputs_embeds=embeds, attention_mask=attention_mask, use_cache=False).logits[positions]


def _has_plain_head(model: Any) -> bool:
    """Whether head(base model(x)) is the model's own output; asked of the model once, on three embeddings."""
    if not hasattr(model, "_skingpt4_plain_head"):
        in_training = [module for module in model.modules() if module.training]
        model.eval()  # dropout of LoRA would make the two differ, and draw from the random state
        with torch.no_grad():
            table = model.get_input_embeddings().weight
            embeds = table[: min(3, len(table))][None]
            whole = model(inputs_embeds=embeds, use_cache=False).logits
            parts = model.get_output_embeddings()(model.base_model(inputs_embeds=embeds, use_cache=False)[0])
        for module in in_training:
            module.training = True
        model._skingpt4_plain_head = torch.allclose(whole.float(), parts.float(), rtol=1e-3, atol=1e-3)
    return model._skingpt4_plain_head
