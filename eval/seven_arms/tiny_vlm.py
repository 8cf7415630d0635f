"""A random vision-language model of LLaVA's shape with a real processor: for checks of software, no more."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    CLIPImageProcessor,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

SIDE, PATCH, WIDTH = 28, 14, 32  # pixels of a picture and of a patch; numbers a token
CORPUS = ["USER: What is wrong with my skin? ASSISTANT: This could be a skin disease image of psoriasis."]
TEMPLATE = (
    "{%- for message in messages %}{{ message.role | upper }}:{{ ' ' }}{%- for part in message.content %}"
    "{%- if part.type == 'image' %}<image>{{ '\\n' }}{%- else %}{{ part.text }}{%- endif %}{%- endfor %}"
    "{{ ' ' if message.role == 'user' else '<eos>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}ASSISTANT:{%- endif %}"
)


def _tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=[*special.values(), "<image>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **special, extra_special_tokens={"image_token": "<image>"}
    )


def save(folder: Path, seed: int) -> None:
    """Write the model and its processor."""
    tokenizer = _tokenizer()
    processor = LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}),
        tokenizer, patch_size=PATCH, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )  # fmt: skip
    shape = {
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "initializer_range": 0.2,
    }
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    config = AutoConfig.for_model(
        "llava",
        text_config={
            "model_type": "llama", **shape, **ids, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
            "max_position_embeddings": 2048, "vocab_size": len(tokenizer),
        },
        vision_config={
            "model_type": "clip_vision_model", **shape, "num_attention_heads": 2, "image_size": SIDE,
            "patch_size": PATCH, "projection_dim": WIDTH,
        },
        image_token_index=processor.image_token_id,
        vision_feature_layer=-1,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(config, trust_remote_code=False)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
