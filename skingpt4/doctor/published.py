"""Published sizes of language models: a run can be planned before gigabytes are downloaded."""

from __future__ import annotations

from typing import Any

_LLAMA_7B = {
    "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 32, "vocab_size": 32000, "max_position_embeddings": 4096, "tie_word_embeddings": False,
}  # fmt: skip
_LLAMA_13B = _LLAMA_7B | {
    "hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40,
    "num_key_value_heads": 40,
}  # fmt: skip
_QWEN3 = {
    "head_dim": 128, "num_key_value_heads": 8, "vocab_size": 151_936, "max_position_embeddings": 40_960,
    "tie_word_embeddings": True,
}  # fmt: skip
_GEMMA3_4B = {
    "hidden_size": 2560, "intermediate_size": 10_240, "num_hidden_layers": 34, "num_attention_heads": 8,
    "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 262_208, "sliding_window": 1024,
    "tie_word_embeddings": True,
}  # fmt: skip
# Family and sizes by the last part of a name, in lower case and without "-hf".
PUBLISHED: dict[str, tuple[str, dict[str, Any]]] = {
    "vicuna-7b-v0": ("llama", _LLAMA_7B | {"vocab_size": 32001}),
    "vicuna-13b-v0": ("llama", _LLAMA_13B | {"vocab_size": 32001}),
    "vicuna-7b-v1.5": ("llama", _LLAMA_7B),
    "vicuna-13b-v1.5": ("llama", _LLAMA_13B),
    "llama-2-7b-chat": ("llama", _LLAMA_7B),
    "llama-2-13b-chat": ("llama", _LLAMA_13B),
    "qwen3-1.7b": (
        "qwen3",
        _QWEN3 | {
            "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16,
        },
    ),
    "qwen3-4b": (
        "qwen3",
        _QWEN3 | {
            "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32,
        },
    ),
    "qwen3-8b": (
        "qwen3",
        _QWEN3 | {
            "hidden_size": 4096, "intermediate_size": 12_288, "num_hidden_layers": 36, "num_attention_heads": 32,
            "tie_word_embeddings": False,
        },
    ),
    "llama-3.2-3b-instruct": (
        "llama",
        {
            "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, "num_attention_heads": 24,
            "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128_256, "tie_word_embeddings": True,
        },
    ),
    "gemma-3-4b-it": ("gemma3_text", _GEMMA3_4B),
    "medgemma-4b-it": ("gemma3_text", _GEMMA3_4B),
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
