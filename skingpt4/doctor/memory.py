"""How much memory a run takes, estimated from shapes alone before anything is downloaded or loaded.

Every part is a function of a language model's `config.json` and of the configuration; docs/memory.md explains the
formulas and compares them with measurements.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from skingpt4.config.schema import Config
from skingpt4.model.build import empty_encoder
from skingpt4.model.loss import LOSS_CHUNK_BYTES
from skingpt4.model.network import num_parameters
from skingpt4.model.precision import DTYPES, choose_attention
from skingpt4.model.projection import num_projection_parameters, picture_shape
from skingpt4.model.quantisation import import_bitsandbytes
from skingpt4.weights.language_model import LanguageModelError, cannot_load, read_configuration

GIB = 2.0**30
ACTIVATIONS = "activations for the backward pass"
# Keys of a configuration that say that the model changes logits after the head (Gemma 2, Cohere, Granite).
_CHANGES_LOGITS = ("final_logit_softcapping", "logit_scale", "logits_scaling")
ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# Bytes of a quantised matrix for each of its numbers, scales included: int8 has one fp32 scale for each row, nf4
# four bits and one 8-bit scale for every 64 numbers (doubly quantised; the scales of the scales are few).
QUANTISED_BYTES = {"int8": 1.002, "torchao_int8": 1.002, "nf4": 0.516}
LIBRARIES = int(0.8 * GIB)  # Python, torch and transformers once imported; measured, see docs/memory.md
# Fraction of the activations that glibc's allocator holds besides on a CPU, in pieces too small to be used again;
# measured.
FRAGMENTATION = 0.85
CUDA_CONTEXT = int(0.6 * GIB)  # an allowance for kernels and workspaces on a GPU; not measured


@dataclass(frozen=True)
class LanguageShape:
    """What the estimate needs to know about a language model; counts are of numbers, not bytes."""

    family: str
    num_layers: int
    width: int
    num_heads: int
    num_kv_heads: int
    head_width: int
    mlp_width: int
    vocabulary: int
    matrices: dict[tuple[str, int, int], int]  # (last part of the name, in, out) to how many there are
    num_others: int  # embeddings, head, norms, biases
    gated: bool  # an MLP of three matrices, as Llama's
    rms_norm: bool  # which stores its input in fp32 for the backward pass; LayerNorm in the model's precision
    num_norms: int = 2  # in a layer, as wide as the model: Gemma has four, Falcon-7B one
    plain_head: bool = True  # False where the model changes logits after the head, so that all are computed

    @property
    def num_in_matrices(self) -> int:
        """Numbers in the matrices that are quantised."""
        return sum(i * o * n for (_, i, o), n in self.matrices.items())

    @property
    def num_parameters(self) -> int:
        """All parameters."""
        return self.num_in_matrices + self.num_others


def language_shape(config: Any) -> LanguageShape:
    """Read the shape from a transformers configuration; the network is built on the meta device, without data.

    Args:
        config: a `PretrainedConfig` of a causal language model, e.g. from `read_configuration`.

    Raises:
        LanguageModelError: no network can be built from it.
    """
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        return _shape_of_network(model, config.get_text_config())
    except Exception as error:  # sizes that do not fit together fail anywhere in transformers
        raise cannot_load(config.name_or_path, error) from None


def _shape_of_network(model: Any, text: Any) -> LanguageShape:
    head = model.get_output_embeddings()
    linear = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear) and m is not head]
    matrices = Counter((n.rpartition(".")[2], m.in_features, m.out_features) for n, m in linear)
    total = sum(p.numel() for p in model.parameters())  # tied ones once
    inside = sum(i * o * n for (_, i, o), n in matrices.items())
    width, vocabulary = model.get_input_embeddings().weight.shape[::-1]
    heads = text.num_attention_heads
    kv_heads = getattr(text, "num_key_value_heads", None) or getattr(text, "num_kv_heads", None) or heads
    if getattr(text, "multi_query", False) and not getattr(text, "new_decoder_architecture", False):
        kv_heads = 1  # Falcon-7B
    layers = text.num_hidden_layers
    wide = max((o for (_, i, o) in matrices if i == width), default=4 * width)
    down = max((i for (_, i, o) in matrices if o == width), default=wide)
    return LanguageShape(
        family=text.model_type,
        num_layers=layers,
        width=width,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_width=getattr(text, "head_dim", None) or width // heads,
        mlp_width=down,
        vocabulary=vocabulary,
        matrices=dict(matrices),
        num_others=total - inside,
        gated=sum(n for (_, i, o), n in matrices.items() if i == width and o in (down, 2 * down))
        >= 2 * layers
        or any(i == width and o == 2 * down for (_, i, o) in matrices),
        rms_norm=any("RMSNorm" in type(m).__name__ for m in model.modules()),
        num_norms=max(1, sum(_is_norm(m, width) for m in model.modules()) // layers),
        plain_head=all(getattr(text, key, None) in (None, 1.0) for key in _CHANGES_LOGITS),
    )


def _is_norm(module: nn.Module, width: int) -> bool:
    weight = getattr(module, "weight", None)
    return "Norm" in type(module).__name__ and weight is not None and weight.shape == (width,)


def weight_bytes(shape: LanguageShape, dtype: str, quantization: str = "none") -> int:
    """Bytes of the frozen language model; only the layers' matrices are quantised."""
    item = ITEM_BYTES[dtype]
    matrix = QUANTISED_BYTES.get(quantization, item)
    return math.ceil(shape.num_in_matrices * matrix) + shape.num_others * item


def activation_bytes(
    shape: LanguageShape, batch: int, tokens: int, dtype: str, attention: str = "sdpa"
) -> int:
    """Bytes stored for the backward pass through the frozen layers.

    Frozen matrices need no input. Stored for each token and layer: the inputs of the norms, queries, keys, values
    and the attention's output, one value of the MLP's width (three where it is gated), and for eager attention the
    probabilities (in fp32, and again in the model's precision if that differs).
    """
    item = ITEM_BYTES[dtype]
    eager = attention == "eager"
    heads = shape.num_heads * shape.head_width
    # Falcon's code repeats its few keys and values for all heads before attention.
    kv = heads if eager or shape.family == "falcon" else shape.num_kv_heads * shape.head_width
    a_token = shape.num_norms * shape.width * (4 if shape.rms_norm else item)
    a_token += (2 * heads + 2 * kv + shape.mlp_width * (3 if shape.gated else 1)) * item
    if eager:
        a_token += shape.num_heads * tokens * (4 + (item if item < 4 else 0))
    return batch * tokens * shape.num_layers * a_token


def logits_bytes(shape: LanguageShape, tokens: int, dtype: str, chunk_bytes: int = 0) -> int:
    """Bytes at the peak of head and loss.

    Args:
        shape: of the language model.
        tokens: whose logits are computed.
        dtype: in which it computes.
        chunk_bytes: of fp32 logits that are in memory at once, see `head_loss`; with them are their exponentials,
            and the gradient of the head's input for all tokens. 0 computes all logits at once, with log-softmax and
            gradient.
    """
    if not chunk_bytes:
        return tokens * shape.vocabulary * 12
    rows = min(tokens, max(1, chunk_bytes // (4 * shape.vocabulary)))
    return rows * shape.vocabulary * 8 + tokens * shape.width * ITEM_BYTES[dtype]


def trained_bytes(num_trained: int) -> int:
    """Bytes of trained numbers in fp32 with their gradient and AdamW's two moments."""
    return 16 * num_trained


def num_trainable(config: Config, shape: LanguageShape) -> int:
    """Trained numbers of a run: the projection's and LoRA's."""
    projection = 0 if "projection" in config.freeze else num_projection_parameters(config, shape.width)
    return projection + lora_parameters(shape, config.lora.rank, config.lora.targets)


def lora_parameters(shape: LanguageShape, rank: int, targets: Sequence[str]) -> int:
    """Numbers that LoRA of this rank adds; empty `targets` mean peft's for the family."""
    if not rank:
        return 0
    if not targets:
        import_bitsandbytes()  # peft imports it
        from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as CHOICES

        targets = CHOICES.get(shape.family, [])
    return sum(rank * (i + o) * n for (name, i, o), n in shape.matrices.items() if name in targets)


def kv_cache_bytes(shape: LanguageShape, rows: int, tokens: int, dtype: str) -> int:
    """Bytes of the keys and values of `rows` conversations (or beams) of so many tokens."""
    return 2 * shape.num_layers * shape.num_kv_heads * shape.head_width * rows * tokens * ITEM_BYTES[dtype]


def reading_bytes(shape: LanguageShape, rows: int, tokens: int, dtype: str) -> int:
    """Bytes at the widest point of one layer while a prompt is read without a backward pass."""
    width = (3 if shape.gated else 2) * shape.mlp_width + 4 * shape.width
    return rows * tokens * width * ITEM_BYTES[dtype]


def training(
    config: Config,
    shape: LanguageShape,
    dtype: str,
    encoder_parameters: int,
    num_images: int = 0,
    tokens: int | None = None,
    supervised: int | None = None,
    quantization: str = "none",
    encoding_bytes: int = 0,
) -> dict[str, int]:
    """Bytes by part at the peak of a training step.

    Args:
        config: batch, lengths, LoRA and feature cache.
        shape: of the language model.
        dtype: in which it computes.
        encoder_parameters: of vision encoder and Q-Former together.
        num_images: whose features are cached, if the configuration names a cache.
        tokens: of one sample; by default the queries, a question of 40 tokens and the longest answer.
        supervised: tokens of one sample; by default the longest answer.
        quantization: of the language model.
        encoding_bytes: of one picture, see `encoding`.
    """
    batch, picture = config.optim.batch_size, picture_shape(config)
    tokens = tokens or picture.num_vectors + 40 + config.data.max_text_tokens
    supervised = supervised or config.data.max_text_tokens
    cached = config.data.feature_cache is not None
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    attention = choose_attention(config.language.attention, DTYPES[dtype], device)
    with_logits, chunk = (supervised, LOSS_CHUNK_BYTES) if shape.plain_head else (tokens, 0)
    return {
        "language model": weight_bytes(shape, dtype, quantization),
        "image encoder": 0 if cached else 4 * encoder_parameters + batch * encoding_bytes,
        "trained tensors, gradients, AdamW": trained_bytes(num_trainable(config, shape)),
        ACTIVATIONS: activation_bytes(shape, batch, tokens, dtype, attention),
        "logits": logits_bytes(shape, batch * with_logits, dtype, chunk),
        "cached features": num_images * picture.num_vectors * picture.width * 2 if cached else 0,
    }


def chat(
    config: Config,
    shape: LanguageShape,
    dtype: str,
    encoder_parameters: int,
    tokens: int = 512,
    quantization: str = "none",
    encoding_bytes: int = 0,
) -> dict[str, int]:
    """Bytes by part while a conversation of so many tokens (queries of images included) is answered."""
    return {
        "language model": weight_bytes(shape, dtype, quantization),
        "image encoder": 4 * encoder_parameters + encoding_bytes,
        "projection": 4 * num_projection_parameters(config, shape.width),
        "keys and values": kv_cache_bytes(shape, 1, tokens, dtype),
        "reading the prompt": reading_bytes(shape, 1, tokens, dtype) + 8 * shape.vocabulary,
    }


def encoding(config: Config, num_tokens: int, width: int) -> int:
    """Bytes while the vision encoder reads one picture, all crops at once: the widest point of a block in fp32.

    Args:
        config: of the network.
        num_tokens: of the vision encoder for one crop.
        width: of such a token.
    """
    return config.vision.crops * num_tokens * 8 * width * ITEM_BYTES["float32"]


def encoder_parameters(config: Config) -> int:
    """Parameters of vision encoder and Q-Former together; no file is read."""
    return sum(map(num_parameters, empty_encoder(config)))


def host_bytes(parts: dict[str, int]) -> int:
    """Bytes of host memory that a run on the CPU takes besides its parts: libraries, and fragmented memory."""
    return LIBRARIES + int(FRAGMENTATION * parts.get(ACTIVATIONS, 0))


def gib(parts: dict[str, int]) -> float:
    """The sum of all parts in GiB."""
    return sum(parts.values()) / GIB


def shape_of(name: str) -> LanguageShape | None:
    """The shape of a language model in a directory or in the hub's cache, or the published one; else None.

    Nothing is downloaded.

    Args:
        name: a hub id, or a folder, which for a published model has its name in the catalogue of weights.
    """
    try:
        return language_shape(read_configuration(name, local_only=True))
    except LanguageModelError:
        published = Path(name).name.lower().removesuffix("-hf")
        if published not in PUBLISHED:
            return None
        family, sizes = PUBLISHED[published]
        return language_shape(AutoConfig.for_model(family, **sizes))


_LLAMA_7B = {
    "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 32, "vocab_size": 32000, "max_position_embeddings": 4096, "tie_word_embeddings": False,
}  # fmt: skip
_LLAMA_13B = _LLAMA_7B | {
    "hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40,
    "num_key_value_heads": 40,
}  # fmt: skip
# Published sizes of the paper's language models, by their names in the catalogue of weights: a run can be planned
# before 80 GB are downloaded.
PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {
    "vicuna-7b-v0": ("llama", _LLAMA_7B | {"vocab_size": 32001}),
    "vicuna-13b-v0": ("llama", _LLAMA_13B | {"vocab_size": 32001}),
    "vicuna-7b-v1.5": ("llama", _LLAMA_7B),
    "vicuna-13b-v1.5": ("llama", _LLAMA_13B),
    "llama-2-7b-chat": ("llama", _LLAMA_7B),
    "llama-2-13b-chat": ("llama", _LLAMA_13B),
    "falcon-7b-instruct": (
        "falcon",
        {
            "hidden_size": 4544, "num_hidden_layers": 32, "num_attention_heads": 71, "vocab_size": 65024,
            "multi_query": True, "parallel_attn": True, "new_decoder_architecture": False, "bias": False,
            "alibi": False, "max_position_embeddings": 2048,
        },
    ),
    "falcon-40b-instruct": (
        "falcon",
        {
            "hidden_size": 8192, "num_hidden_layers": 60, "num_attention_heads": 128, "num_kv_heads": 8,
            "vocab_size": 65024, "new_decoder_architecture": True, "parallel_attn": True, "bias": False,
            "alibi": False, "max_position_embeddings": 2048,
        },
    ),
}  # fmt: skip
