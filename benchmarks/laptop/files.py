"""What the engines read: a language model's folder, its table of embeddings, and a GGUF file; each written once."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from benchmarks.harness import shapes
from skingpt4.config.schema import LanguageConfig
from skingpt4.model.language import LanguageModel
from skingpt4.model.network import SkinGPT4
from skingpt4.support.errors import UserError
from skingpt4.support.threads import in_own_thread

BYTES_A_PARAMETER = 20  # of all files of one language model together, rounded up
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


def model_folder(shape: shapes.Shape, folder: Path, seed: int) -> Path:
    """A folder with the shape's language model and tokenizer; random weights are written at the first call."""
    if shape.language is None:
        return Path(shapes.configuration(shape).language.model)
    target = folder / "model"
    if not target.is_dir():
        family, sizes = shape.language
        torch.manual_seed(seed)
        model = shapes.random_language_model(family, sizes, torch.device("cpu"), torch.float32)
        part = folder / "model.part"
        shutil.rmtree(part, ignore_errors=True)
        model.save_pretrained(part)
        tokenizer = shapes.stand_in_tokenizer(sizes["vocab_size"])
        tokenizer.save_pretrained(part)
        part.rename(target)
    return target


def network(folder: Path, dtype: torch.dtype) -> SkinGPT4:
    """A network whose projection changes nothing, so that image vectors can be embeddings of words."""

    def load() -> SkinGPT4:
        config = LanguageConfig(model=str(folder), dtype=str(dtype).removeprefix("torch."))
        language_model = LanguageModel(config)
        model = SkinGPT4(None, language_model, language_model.get_input_embeddings().weight.shape[1])
        with torch.no_grad():
            torch.nn.init.eye_(model.projection.weight)  # type: ignore[arg-type]
            torch.nn.init.zeros_(model.projection.bias)  # type: ignore[arg-type]
        return model.eval()

    return in_own_thread(load)


def write_files(model: Any, folder: Path) -> None:
    """The table of embeddings and a GGUF file in fp32, unless they are there.

    Args:
        model: transformers' model of the Llama family, in fp32.
        folder: that they go into.

    Raises:
        UserError: the disk has too little room, or the model is of another family.
    """
    table, file = folder / "table.npy", folder / "f32.gguf"
    if table.is_file() and file.is_file():
        return
    needed = BYTES_A_PARAMETER * sum(parameter.numel() for parameter in model.parameters())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(f"{folder}: needs about {needed / 1e9:.0f} GB, and {free / 1e9:.0f} are free")
    write_gguf(model, file)
    part = folder / "table.part.npy"
    np.save(part, model.get_input_embeddings().weight.detach().numpy())
    part.rename(table)


def write_gguf(model: Any, path: Path) -> None:
    """A Llama as llama.cpp reads it, in fp32 and without a vocabulary: only token ids and embeddings go in.

    Names and metadata: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md

    Raises:
        UserError: the model is no plain Llama.
    """
    config = model.config
    rope = config.rope_parameters
    if config.model_type != "llama" or rope["rope_type"] != "default":
        raise UserError(
            f"only plain Llama models are written as GGUF, and this is {config.model_type} with positions "
            f"of type {rope['rope_type']}"
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
        writer.add_tensor(f"{name}.weight", weight.detach().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file(progress=True)
    writer.close()
    part.rename(path)


def paired(weight: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Rows of a query's or key's matrix with the two that a rotation mixes beside each other, as GGUF has them."""
    halves = weight.reshape(num_heads, 2, -1, weight.shape[1])
    return halves.transpose(1, 2).reshape(weight.shape).contiguous()
