"""GGUF files, which llama.cpp reads: a Llama's weights in fp32, or in fewer bits by llama.cpp itself."""

from __future__ import annotations

import ctypes
import logging
from pathlib import Path
from types import ModuleType
from typing import Any

import gguf
import torch

from skingpt4.support.errors import UserError

PRECISIONS = {"f32": 0, "f16": 1, "q8_0": 7, "q4_k_m": 15}  # enum llama_ftype
# transformers' names of a layer's parts, and GGUF's.
LAYER_PARTS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


class GgufError(UserError):
    """A language model that cannot be written for llama.cpp, or no llama.cpp; the message says why."""


def llama_cpp_package() -> ModuleType:
    """The package llama-cpp-python, quiet.

    Raises:
        GgufError: it is not installed.
    """
    try:
        import llama_cpp
    except ImportError:
        raise GgufError(
            "llama.cpp needs the package llama-cpp-python; run pip install llama-cpp-python"
        ) from None
    logging.getLogger("llama-cpp-python").setLevel(logging.ERROR)  # else it prints pages
    llama_cpp.llama_backend_init()
    return llama_cpp


def write_gguf(model: Any, path: Path) -> None:
    """A Llama as llama.cpp reads it, in fp32 and without a vocabulary: only token ids and embeddings go in.

    Names and metadata: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md

    Raises:
        GgufError: the model is no plain Llama.
    """
    config = model.config
    rope = getattr(config, "rope_parameters", None) or {}
    has_biases = getattr(config, "attention_bias", False) or getattr(config, "mlp_bias", False)
    if config.model_type != "llama" or rope["rope_type"] != "default" or has_biases:
        raise GgufError(
            f"only plain Llama models are written for llama.cpp, and this is {config.model_type} with positions of "
            f"type {rope.get('rope_type')} and {'biases' if has_biases else 'no biases'}"
        )
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    part = path.with_suffix(".part")
    writer = gguf.GGUFWriter(part, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("none")
    inner = model.model
    tensors = {"token_embd": inner.embed_tokens.weight, "output_norm": inner.norm.weight}
    if not config.tie_word_embeddings:
        tensors["output"] = model.lm_head.weight
    for number, layer in enumerate(inner.layers):
        for ours, theirs in LAYER_PARTS.items():
            weight = layer.get_submodule(ours).weight
            if theirs in ("attn_q", "attn_k"):
                weight = paired(weight, heads if theirs == "attn_q" else kv_heads)
            tensors[f"blk.{number}.{theirs}"] = weight
    for name, weight in tensors.items():
        writer.add_tensor(f"{name}.weight", weight.detach().float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file(progress=True)
    writer.close()
    part.rename(path)


def paired(weight: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Rows of a query's or key's matrix with the two that a rotation mixes beside each other, as GGUF has them."""
    halves = weight.reshape(num_heads, 2, -1, weight.shape[1])
    return halves.transpose(1, 2).reshape(weight.shape).contiguous()


def write(model: Any, path: Path, precision: str) -> None:
    """A Llama as llama.cpp reads it.

    Args:
        model: transformers' model.
        path: the file to write.
        precision: a key of `PRECISIONS`; all but f32 need llama.cpp.

    Raises:
        GgufError: the model is no plain Llama, or llama.cpp is not installed or fails.
    """
    if precision == "f32":
        write_gguf(model, path)
        return
    lib, source = llama_cpp_package(), path.with_suffix(".f32")
    write_gguf(model, source)
    params = lib.llama_model_quantize_default_params()
    params.ftype, params.nthread = PRECISIONS[precision], torch.get_num_threads()
    failed = lib.llama_model_quantize(str(source).encode(), str(path).encode(), ctypes.byref(params))
    source.unlink()
    if failed:
        raise GgufError(f"{path}: llama.cpp cannot write it as {precision}")
