"""The networks that are measured: the bundled default, or the paper's sizes with random weights.

Speed does not depend on the weights' values. The paper's language models are laid out on the meta device and filled
with random numbers on the device where they run, in their precision; nothing is downloaded, and host memory holds
nothing twice. A shape that does not fit is refused before it is built.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from skingpt4.config.load import load_config
from skingpt4.config.schema import Config, LanguageConfig
from skingpt4.doctor import memory
from skingpt4.doctor import shapes as of_language
from skingpt4.doctor.published import PUBLISHED
from skingpt4.model.build import build, build_encoder
from skingpt4.model.encoders.encoder import VisionEncoder
from skingpt4.model.language import LanguageModel
from skingpt4.model.network import ImageEncoder, SkinGPT4
from skingpt4.model.precision import choose_attention
from skingpt4.model.qformer import QFormer
from skingpt4.support.errors import UserError
from skingpt4.support.threads import in_own_thread
from skingpt4.weights.files.source import built_without_memory

ROOT = Path(__file__).parents[2]
SPREAD = 0.02  # standard deviation of random weights, as language models are initialised


# Of a small language model for a laptop; its positions are plain ones.
LLAMA_1B: dict[str, Any] = {
    "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128_256, "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}  # fmt: skip


class ShapeError(UserError):
    """A shape that cannot be measured here; the message says why."""


@dataclass(frozen=True)
class Shape:
    """One network by name."""

    name: str
    config: str  # under configs/
    language: tuple[str, dict[str, Any]] | None  # family and sizes of a random model; None: the real one


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("tiny", "tiny/step2.yaml", None),
        Shape("llama1b", "paper/step2_vicuna7b.yaml", ("llama", LLAMA_1B)),
        Shape("vicuna7b", "paper/step2_vicuna7b.yaml", PUBLISHED["vicuna-7b-v1.5"]),
        Shape("vicuna13b", "paper/step2_vicuna13b.yaml", PUBLISHED["vicuna-13b-v1.5"]),
        Shape("falcon40b", "paper/step2_falcon40b.yaml", PUBLISHED["falcon-40b-instruct"]),
    )
}


def configuration(shape: Shape, changes: tuple[str, ...] = ()) -> Config:
    """The shape's configuration; without paths of weights, if these are random."""
    config = load_config(ROOT / "configs" / shape.config, changes)
    config.initial_checkpoint = None
    if shape.language:
        config.vision.weights = config.qformer.weights = None
    return config


def language_shape(shape: Shape) -> of_language.LanguageShape:
    """Sizes of the shape's language model, for counts and estimates.

    Raises:
        ShapeError: the bundled default's files are missing.
    """
    if shape.language:
        family, sizes = shape.language
        return of_language.language_shape(AutoConfig.for_model(family, **sizes))
    name = configuration(shape).language.model
    sizes_on_disk = of_language.shape_of(name)
    if sizes_on_disk is None:
        raise ShapeError(f"--shape {shape.name}: {name} is missing; run skingpt4 weights fetch tiny")
    return sizes_on_disk


def require_room(shape: Shape, needed: dict[str, int], device: torch.device) -> None:
    """Compare an estimate by parts with the free memory.

    Raises:
        ShapeError: it does not fit; the message has the parts.
    """
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        needed = needed | {"CUDA itself": memory.CUDA_CONTEXT}
    else:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
        needed = needed | {"libraries": memory.LIBRARIES}
    if sum(needed.values()) > free:
        parts = ", ".join(f"{part} {size / memory.GIB:.1f}" for part, size in needed.items() if size)
        raise ShapeError(
            f"--shape {shape.name} needs about {memory.gib(needed):.1f} GiB on {device} ({parts}) and "
            f"{free / memory.GIB:.1f} are free; choose a smaller shape, batch or --dtype"
        )


def network(
    shape: Shape, config: Config, device: torch.device, dtype: torch.dtype, with_encoder: bool = True
) -> SkinGPT4:
    """The network of a shape: the bundled default's real parts, or random ones."""
    return in_own_thread(lambda: _network(shape, config, device, dtype, with_encoder))


def _network(
    shape: Shape, config: Config, device: torch.device, dtype: torch.dtype, with_encoder: bool
) -> SkinGPT4:
    if shape.language is None:
        config.language.dtype = str(dtype).removeprefix("torch.")
        return build(config, device, build_encoder(config, device) if with_encoder else None)
    torch.manual_seed(config.seed)
    encoder = random_encoder(config, device) if with_encoder else None
    family, sizes = shape.language
    attention = choose_attention(config.language.attention, dtype, device)
    language = random_language_model(family, sizes, device, dtype, attention)
    tokenizer = stand_in_tokenizer(sizes["vocab_size"])
    language.generation_config.eos_token_id = tokenizer.eos_token_id  # the family's own is a word here
    language_model = LanguageModel(LanguageConfig(), device, loaded=(language, tokenizer))
    model = SkinGPT4(encoder, language_model, config.qformer.width)
    model.projection.to(device)
    return model.eval()


def random_language_model(
    family: str, sizes: dict[str, Any], device: torch.device, dtype: torch.dtype, attention: str = "sdpa"
) -> Any:
    """A causal language model with random weights, filled in on its device."""
    config = AutoConfig.for_model(family, **sizes)
    make = partial(AutoModelForCausalLM.from_config, config, dtype=dtype, attn_implementation=attention)
    model = fill(built_without_memory(make), device)
    model.tie_weights()
    return model.requires_grad_(False).eval()


def random_encoder(config: Config, device: torch.device) -> ImageEncoder:
    """Vision encoder and Q-Former with random weights in fp32, as `build_encoder` would keep them."""
    vision = built_without_memory(lambda: VisionEncoder(config.vision))
    qformer = built_without_memory(lambda: QFormer(config.qformer, vision.width))
    return ImageEncoder(fill(vision, device), fill(qformer, device), config.encoder.dtype)


def fill(module: Any, device: torch.device) -> Any:
    """Give a module's meta parameters memory on the device: matrices small and random, scales 1, biases 0.

    Shared parameters stay shared; every one keeps its precision.
    """
    made: dict[int, nn.Parameter] = {}
    for owner in list(module.modules()):
        for name, old in list(owner.named_parameters(recurse=False)):
            if id(old) not in made:
                made[id(old)] = nn.Parameter(_values(name, old, device), requires_grad=old.requires_grad)
            setattr(owner, name, made[id(old)])
    return module.to(device)


def _values(name: str, old: torch.Tensor, device: torch.device) -> torch.Tensor:
    new = torch.empty(old.shape, dtype=old.dtype, device=device)
    if old.dim() > 1:
        return new.normal_(0.0, SPREAD)
    return new.fill_(1.0 if name.endswith("weight") else 0.0)


def stand_in_tokenizer(size: int = 1004) -> PreTrainedTokenizerFast:
    """A tokenizer that needs no file: a word or a sign is a token, about as many as of a real tokenizer.

    With the `size` of a model's vocabulary, whatever the model generates is tokenised to the same tokens again.
    """
    words = [f"w{number}" for number in range(size - 4)]
    special = ["<unk>", "<s>", "</s>"]
    vocabulary = {word: number for number, word in enumerate([*special, "###", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"###|\w+|[^\w\s]"), behavior="removed", invert=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
