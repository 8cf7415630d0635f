"""How much memory a run takes, estimated from shapes alone before anything is downloaded or loaded.

Every part is a function of a language model's `config.json` and of the configuration; docs/memory.md explains the
formulas and compares them with measurements.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from skingpt4.config.placement import default_device
from skingpt4.config.schema import Config, LoraConfig
from skingpt4.doctor.shapes import LanguageShape
from skingpt4.model.build import empty_encoder
from skingpt4.model.loss import LOSS_CHUNK_BYTES
from skingpt4.model.network import num_parameters
from skingpt4.model.precision import DTYPES, choose_attention
from skingpt4.model.projection import num_projection_parameters, picture_shape
from skingpt4.model.quantisation import import_bitsandbytes

GIB = 2.0**30
ACTIVATIONS = "activations for the backward pass"
QUESTION_TOKENS = 40  # an allowance
LANGUAGE_MODEL, GATHERED = "language model", "layers gathered at once"
ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# Bytes of a quantised matrix for each of its numbers, scales included: int8 has one fp32 scale for each row, nf4
# four bits and one 8-bit scale for every 64 numbers (doubly quantised; the scales of the scales are few).
QUANTISED_BYTES = {"int8": 1.002, "torchao_int8": 1.002, "nf4": 0.516}
LIBRARIES = int(0.8 * GIB)  # Python, torch and transformers once imported; measured, see docs/memory.md
# Fraction of the activations that glibc's allocator holds besides on a CPU, in pieces too small to be used again;
# measured.
FRAGMENTATION = 0.85
# Matrices of a layer that read the same as another one.
_INPUTS = {"k_proj": "q_proj", "v_proj": "q_proj", "up_proj": "gate_proj"}
# Bytes of AdamW's two moments for each trained number, by optim.name; those of 8 bits have a scale for 256 numbers.
MOMENTS_BYTES = {
    "adamw": 8,
    "paged_adamw_32bit": 8,
    "adamw_8bit": 2 + 8 / 256,
    "paged_adamw_8bit": 2 + 8 / 256,
}
GATHERED_LAYERS = 2  # of a sharded model: the one that computes, and the next one, gathered meanwhile
CUDA_CONTEXT = int(0.6 * GIB)  # an allowance for kernels and workspaces on a GPU; not measured


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
    if shape.head_norms:
        a_token += (heads + shape.num_kv_heads * shape.head_width) * 4
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


def trained_bytes(num_trained: int, optimizer: str = "adamw") -> int:
    """Bytes of trained numbers in fp32 with their gradient and moments, without moments that are paged."""
    return (
        8 * num_trained
        + math.ceil(MOMENTS_BYTES[optimizer] * num_trained)
        - paged_bytes(num_trained, optimizer)
    )


def paged_bytes(num_trained: int, optimizer: str) -> int:
    """Bytes of the moments that a paged optimiser may put into the host's memory while a GPU lacks room."""
    return math.ceil(MOMENTS_BYTES[optimizer] * num_trained) if optimizer.startswith("paged") else 0


def num_trainable(config: Config, shape: LanguageShape) -> int:
    """Trained numbers of a run: the projection's and LoRA's."""
    projection = 0 if "projection" in config.freeze else num_projection_parameters(config, shape.width)
    return projection + lora_parameters(shape, config.lora.rank, config.lora.targets)


def lora_parameters(shape: LanguageShape, rank: int, targets: Sequence[str]) -> int:
    """Numbers that LoRA of this rank adds; empty `targets` mean peft's for the family."""
    return sum(rank * (i + o) * n for _, i, o, n in _lora_matrices(shape, rank, targets))


def lora_bytes(shape: LanguageShape, lora: LoraConfig, tokens: int, dtype: str) -> int:
    """Bytes that LoRA stores for the backward pass, for all tokens of a batch.

    Those are each target's input in fp32 (again after dropout, with the mask), and what the first matrix makes of it.
    Where the model computes in fp32 and nothing is dropped, targets with one input share it.
    """
    a_number = 4 + (5 if lora.dropout else 0)
    shared = dtype == "float32" and not lora.dropout
    total = 0
    seen: set[str] = set()
    for name, i, _, n in _lora_matrices(shape, lora.rank, lora.targets):
        source = _INPUTS.get(name, name)
        stored = 0 if shared and source in seen else i * a_number
        seen.add(source)
        total += tokens * (stored + 4 * lora.rank) * n
    return total


def _lora_matrices(
    shape: LanguageShape, rank: int, targets: Sequence[str]
) -> list[tuple[str, int, int, int]]:
    """(name, in, out, how many) of the matrices that get LoRA."""
    if not rank:
        return []
    if not targets:
        import_bitsandbytes()  # peft imports it
        from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as CHOICES

        targets = CHOICES.get(shape.family, [])
    return [(name, i, o, n) for (name, i, o), n in shape.matrices.items() if name in targets]


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
    batch, picture = config.optim.batch_size * (2 if config.step == "dpo" else 1), picture_shape(config)
    tokens = tokens or picture.num_vectors + QUESTION_TOKENS + config.data.max_text_tokens
    supervised = supervised or config.data.max_text_tokens
    cached = config.data.feature_cache is not None
    device = torch.device(default_device())
    attention = choose_attention(config.language.attention, DTYPES[dtype], device)
    with_logits, chunk = (supervised, LOSS_CHUNK_BYTES) if shape.plain_head else (tokens, 0)
    return {
        LANGUAGE_MODEL: weight_bytes(shape, dtype, quantization),
        "image encoder": 0 if cached else 4 * encoder_parameters + batch * encoding_bytes,
        "trained tensors, gradients, AdamW": trained_bytes(num_trainable(config, shape), config.optim.name),
        ACTIVATIONS: activation_bytes(shape, batch, tokens, dtype, attention)
        + lora_bytes(shape, config.lora, batch * tokens, dtype),
        "logits": logits_bytes(shape, batch * with_logits, dtype, chunk),
        "cached features": num_images * picture.num_vectors * picture.width * 2 if cached else 0,
    }


@dataclass(frozen=True)
class Sharding:
    """How a frozen language model is divided over processes (FSDP2)."""

    ranks: int
    checkpointing: bool = False  # activations are computed again in the backward pass
    offload: bool = False  # each process's part is in the host's memory


def sharded(
    parts: dict[str, int], config: Config, shape: LanguageShape, dtype: str, sharding: Sharding
) -> dict[str, int]:
    """The parts of `training` for one of several processes that share one language model.

    Each holds its part of every layer; complete are the layers that compute, embeddings, head, final norm and what is
    trained. With checkpointing, the inputs of all layers and the activations of one are stored.
    """
    tokens = config.optim.batch_size * (
        picture_shape(config).num_vectors + QUESTION_TOKENS + config.data.max_text_tokens
    )
    item = ITEM_BYTES[dtype]
    complete = shape.num_others * item  # the layers' norms and biases are few
    layers = parts[LANGUAGE_MODEL] - complete
    divided = dict(parts)
    divided[LANGUAGE_MODEL] = complete + (0 if sharding.offload else math.ceil(layers / sharding.ranks))
    divided[GATHERED] = GATHERED_LAYERS * (layers // shape.num_layers)
    if sharding.checkpointing:
        inputs = shape.num_layers * tokens * shape.width * item
        divided[ACTIVATIONS] = inputs + parts[ACTIVATIONS] // shape.num_layers
    return divided


def evaluation(
    config: Config, shape: LanguageShape, dtype: str, encoder_parameters: int, rows: int, tokens: int
) -> dict[str, int]:
    """Bytes by part while so many conversations are answered at once, or pictures encoded before, if that is more.

    Args:
        config: of the network.
        shape: of the language model.
        dtype: in which it computes.
        encoder_parameters: of vision encoder and Q-Former together, which are freed before the language model comes.
        rows: conversations at once.
        tokens: of the longest conversation.
    """
    answering = {
        LANGUAGE_MODEL: weight_bytes(shape, dtype, config.language.quantization),
        "projection": 4 * num_projection_parameters(config, shape.width),
        "keys and values": kv_cache_bytes(shape, rows, tokens, dtype),
        "reading the prompt": reading_bytes(
            shape, rows, picture_shape(config).num_vectors + QUESTION_TOKENS, dtype
        )
        + 8 * rows * shape.vocabulary,
    }
    encoding = {"image encoder": 4 * encoder_parameters}
    return max(answering, encoding, key=lambda parts: sum(parts.values()))


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
        LANGUAGE_MODEL: weight_bytes(shape, dtype, quantization),
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
