"""A language model's shape, which counts and estimates need, read from its configuration without its weights."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from skingpt4.doctor.published import PUBLISHED
from skingpt4.weights.files.source import shapes_alone
from skingpt4.weights.language_model import LanguageModelError, cannot_load, read_configuration

# Keys of a configuration that say that the model changes logits after the head (Gemma 2, Cohere, Granite).
_CHANGES_LOGITS = ("final_logit_softcapping", "logit_scale", "logits_scaling")
_known: dict[str, LanguageShape] = {}  # by configuration: dozens of layers are built to see one


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
    head_norms: bool = False  # queries and keys are normalised head by head, as in Qwen 3 and Gemma 3
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
        key = config.to_json_string()
        if key not in _known:
            with shapes_alone():
                model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
            _known[key] = _shape_of_network(model, config.get_text_config())
        return _known[key]
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
        head_norms=any(n.endswith("q_norm") for n, _ in model.named_modules()),
        plain_head=all(getattr(text, key, None) in (None, 1.0) for key in _CHANGES_LOGITS),
    )


def _is_norm(module: nn.Module, width: int) -> bool:
    weight = getattr(module, "weight", None)
    return "Norm" in type(module).__name__ and weight is not None and weight.shape == (width,)


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
