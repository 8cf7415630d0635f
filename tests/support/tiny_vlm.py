"""Random vision-language models of several families in kilobytes, each with its real processor and a chat template.

Nothing is downloaded: configurations, tokenizers, image processors and templates are made here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    CLIPImageProcessor,
    Gemma3ImageProcessor,
    Gemma3Processor,
    GotOcr2ImageProcessor,
    Idefics3ImageProcessor,
    Idefics3Processor,
    InternVLProcessor,
    InternVLVideoProcessor,
    LlavaProcessor,
    PaliGemmaProcessor,
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
    SiglipImageProcessor,
)

_TEXT = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 2048, "initializer_range": 0.2, "head_dim": 8,
}  # fmt: skip
_VISION = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "image_size": 28, "patch_size": 14, "initializer_range": 0.2,
}  # fmt: skip
_CORPUS = [
    "USER: What is wrong with my skin? ASSISTANT: This could be a skin disease image of psoriasis.",
    "user assistant model system This could be a skin disease image of melanoma, eczema, acne or a nevus.",
]
# How each family writes a turn; `{}` is the text and `<image>` stands where pictures do.
_LOOP = """{%- for message in messages %}START{%- for part in message.content %}{%- if part.type == 'image' %}IMAGE\
{%- else %}{{ part.text }}{%- endif %}{%- endfor %}END{%- endfor %}{%- if add_generation_prompt %}OPEN{%- endif %}"""


def _template(start: str, image: str, end: str, opening: str) -> str:
    """A Jinja template; a line's end is written as an expression, since Jinja drops the one after a block."""
    text = _LOOP.replace("START", start).replace("IMAGE", image).replace("END", end).replace("OPEN", opening)
    return text.replace("\n", r"{{ '\n' }}")


_CHATML = ("<|im_start|>{{ message.role }}\n", "<|im_end|>\n", "<|im_start|>assistant\n")


def make_tokenizer(**named: str) -> PreTrainedTokenizerFast:
    """A trained byte-level BPE; `named` are special tokens under the names by which processors ask for them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=[*special.values(), *dict.fromkeys(named.values()), "<|im_start|>", "<|im_end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special, extra_special_tokens=named)


def _llava() -> tuple[Any, dict[str, Any]]:
    tokenizer = make_tokenizer(image_token="<image>")
    size = {"height": 28, "width": 28}
    template = _template(
        "{{ message.role | upper }}: ", "<image>\n", "{{ ' ' if message.role == 'user' else '<eos>' }}", "ASSISTANT:"
    ).replace(": {%- for", ":{%- if message.role == 'user' %} {% endif %}{%- for")  # fmt: skip
    template = template.replace(
        "{{ part.text }}", "{{ part.text if message.role == 'user' else ' ' + part.text }}"
    )
    processor = LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=size), tokenizer, patch_size=14,
        vision_feature_select_strategy="default", num_additional_image_tokens=1, chat_template=template,
    )  # fmt: skip
    config = {
        "text_config": {"model_type": "llama", **_TEXT, "vocab_size": len(tokenizer)},
        "vision_config": {"model_type": "clip_vision_model", **_VISION, "projection_dim": 32},
        "image_token_index": processor.image_token_id, "vision_feature_layer": -1,
    }  # fmt: skip
    return processor, config


def _qwen_tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer(
        image_token="<|image_pad|>", video_token="<|video_pad|>",
        vision_bos_token="<|vision_start|>", vision_eos_token="<|vision_end|>",
    )  # fmt: skip


_QWEN_TEMPLATE = _template(_CHATML[0], "<|vision_start|><|image_pad|><|vision_end|>", _CHATML[1], _CHATML[2])


def _qwen_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    names = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"}
    names |= {"vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"}
    return {key: tokenizer.convert_tokens_to_ids(token) for key, token in names.items()}


def _qwen2_vl() -> tuple[Any, dict[str, Any]]:
    tokenizer = _qwen_tokenizer()
    limits = {"shortest_edge": 28 * 28, "longest_edge": 84 * 84}
    processor = Qwen2VLProcessor(
        Qwen2VLImageProcessor(size=limits), tokenizer, Qwen2VLVideoProcessor(), chat_template=_QWEN_TEMPLATE
    )
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    config = {
        "text_config": {**_TEXT, "vocab_size": len(tokenizer), "rope_parameters": rope},
        "vision_config": {
            "depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": 14,
            "initializer_range": 0.2,
        },
        **_qwen_ids(tokenizer),
    }  # fmt: skip
    return processor, config


def _qwen3_vl() -> tuple[Any, dict[str, Any]]:
    tokenizer = _qwen_tokenizer()
    limits = {"shortest_edge": 32 * 32, "longest_edge": 96 * 96}
    processor = Qwen3VLProcessor(
        Qwen2VLImageProcessor(size=limits, patch_size=16), tokenizer, Qwen3VLVideoProcessor(),
        chat_template=_QWEN_TEMPLATE,
    )  # fmt: skip
    rope = {
        "rope_type": "default",
        "mrope_section": [2, 1, 1],
        "rope_theta": 10000.0,
        "mrope_interleaved": True,
    }
    config = {
        "text_config": {**_TEXT, "vocab_size": len(tokenizer), "rope_parameters": rope},
        "vision_config": {
            "depth": 2, "hidden_size": 32, "out_hidden_size": 32, "num_heads": 2, "intermediate_size": 64,
            "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1], "initializer_range": 0.2,
        },
        **_qwen_ids(tokenizer),
    }  # fmt: skip
    return processor, config


def _gemma3() -> tuple[Any, dict[str, Any]]:
    tokenizer = make_tokenizer(
        image_token="<image_soft_token>", boi_token="<start_of_image>", eoi_token="<end_of_image>",
        turn="<start_of_turn>", turn_end="<end_of_turn>",
    )  # fmt: skip
    role = "{{ 'model' if message.role == 'assistant' else message.role }}"
    template = "{{ bos_token }}" + _template(
        f"<start_of_turn>{role}\n", "<start_of_image>", "<end_of_turn>\n", "<start_of_turn>model\n"
    )
    processor = Gemma3Processor(
        Gemma3ImageProcessor(size={"height": 28, "width": 28}), tokenizer, template, image_seq_length=4
    )
    config = {
        "text_config": {
            **_TEXT, "vocab_size": len(tokenizer), "sliding_window": 16, "query_pre_attn_scalar": 8,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        "vision_config": {**_VISION, "vision_use_head": False}, "mm_tokens_per_image": 4,
        "image_token_index": tokenizer.image_token_id, "boi_token_index": tokenizer.boi_token_id,
        "eoi_token_index": tokenizer.eoi_token_id, "initializer_range": 0.2,
    }  # fmt: skip
    return processor, config


def _paligemma() -> tuple[Any, dict[str, Any]]:
    tokenizer = make_tokenizer(image_token="<image>")
    images = SiglipImageProcessor(size={"height": 28, "width": 28})
    images.image_seq_length = 4
    processor = PaliGemmaProcessor(images, tokenizer)
    config = {
        "text_config": {"model_type": "gemma", **_TEXT, "vocab_size": len(tokenizer)},
        "vision_config": {"model_type": "siglip_vision_model", **_VISION, "vision_use_head": False,
            "projection_dim": 32},
        "image_token_index": processor.image_token_id, "projection_dim": 32, "vocab_size": len(tokenizer),
    }  # fmt: skip
    return processor, config


def _internvl() -> tuple[Any, dict[str, Any]]:
    tokenizer = make_tokenizer(
        start_image_token="<img>", end_image_token="</img>", context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )  # fmt: skip
    processor = InternVLProcessor(
        GotOcr2ImageProcessor(size={"height": 28, "width": 28}, crop_to_patches=False), tokenizer,
        InternVLVideoProcessor(), image_seq_length=1,
        chat_template=_template(_CHATML[0], "<IMG_CONTEXT>\n", _CHATML[1], _CHATML[2]),
    )  # fmt: skip
    config = {
        "text_config": {"model_type": "qwen2", **_TEXT, "vocab_size": len(tokenizer)},
        "vision_config": {**_VISION, "image_size": [28, 28], "patch_size": [14, 14]},
        "image_token_id": tokenizer.context_image_token_id, "image_seq_length": 1,
    }  # fmt: skip
    return processor, config


def _idefics3() -> tuple[Any, dict[str, Any]]:
    tokenizer = make_tokenizer(
        image_token="<image>", fake="<fake_token_around_image>", end_of_turn="<end_of_utterance>",
        all_of_it="<global-img>", **{f"tile{r}{c}": f"<row_{r}_col_{c}>" for r in (1, 2) for c in (1, 2)},
    )  # fmt: skip
    space = "{{ message.role | capitalize }}:{{ '' if message.content[0].type == 'image' else ' ' }}"
    processor = Idefics3Processor(
        Idefics3ImageProcessor(
            size={"longest_edge": 56}, max_image_size={"longest_edge": 28}, do_image_splitting=True
        ),
        tokenizer, image_seq_len=1,
        chat_template=_template(space, "<image>", "<end_of_utterance>\n", "Assistant:"),
    )  # fmt: skip
    config = {
        "text_config": {"model_type": "llama", **_TEXT, "vocab_size": len(tokenizer)},
        "vision_config": {**_VISION}, "scale_factor": 2, "image_token_id": processor.image_token_id,
    }  # fmt: skip
    return processor, config


# The shapes of LLaVA-1.5, Qwen2-VL, Qwen3-VL, MedGemma, PaliGemma, InternVL3 and SmolVLM.
FAMILIES: dict[str, Callable[[], tuple[Any, dict[str, Any]]]] = {
    "llava": _llava, "qwen2_vl": _qwen2_vl, "qwen3_vl": _qwen3_vl, "gemma3": _gemma3, "paligemma": _paligemma,
    "internvl": _internvl, "idefics3": _idefics3,
}  # fmt: skip


def save_vlm(folder: Path, family: str = "llava", seed: int = 0) -> str:
    """Write a random model of a family with its processor, unless it is there; returns the folder."""
    if not (folder / "config.json").is_file():
        processor, options = FAMILIES[family]()
        tokenizer = processor.tokenizer
        ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
        ids["pad_token_id"] = tokenizer.pad_token_id
        options["text_config"] |= ids
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            config = AutoConfig.for_model(family, **options)
            model = AutoModelForImageTextToText.from_config(config)
            for (
                weight
            ) in model.parameters():  # Gemma 3 begins with a projection of zeros, which shows it nothing
                if weight.dim() > 1 and not weight.any():
                    torch.nn.init.normal_(weight, std=0.2)
            model.generation_config.eos_token_id = tokenizer.eos_token_id
            model.save_pretrained(folder)
        processor.save_pretrained(folder)
    return str(folder)
