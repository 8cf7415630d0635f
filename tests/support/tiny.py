"""Whole networks in kilobytes: random models of every family, a real tokenizer, pictures and a configuration."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from skingpt4.config.schema import Config, LanguageConfig, QFormerConfig, VisionConfig
from skingpt4.model.encoders.encoder import VisionEncoder
from skingpt4.model.language import LanguageModel
from skingpt4.model.network import ImageEncoder, SkinGPT4
from skingpt4.model.prompts import IGNORED, Encoded, Turn, encode, get_template, render
from skingpt4.model.qformer import QFormer

IMAGE_SIZE = 56  # 4 x 4 patches of EVA's 14 pixels
EVA = "eva_giant_patch14_clip_224"
EVA_ARGS = {"embed_dim": 32, "depth": 2, "num_heads": 2}
NUM_QUERIES, QUERY_WIDTH = 4, 32
QFORMER_ARGS = {"width": QUERY_WIDTH, "num_layers": 2, "num_heads": 2, "intermediate_width": 64}

_SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,  # large enough that greedy choices have no near ties
    "tie_word_embeddings": False,
}
# Windows shorter than the prompts make the sliding families slide.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {**_SMALL, "num_key_value_heads": 2},
    "falcon": {**_SMALL, "new_decoder_architecture": False, "multi_query": True, "parallel_attn": True},
    "gpt_neox": _SMALL,
    "qwen2": {**_SMALL, "num_key_value_heads": 2},
    "mistral": {**_SMALL, "num_key_value_heads": 2, "sliding_window": 20},
    "gemma2": {
        **_SMALL, "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 20,
        "final_logit_softcapping": 1.5, "attn_logit_softcapping": 5.0,
    },
}  # fmt: skip
_SENTENCEPIECE = ("llama", "mistral", "gemma2")
_CORPUS = [
    "###Human: <Img></Img> What is wrong with my skin? ###Assistant: This is a skin disease image.###",
    "This could be a skin disease image of psoriasis. User: Assistant: plaque scale erythema ## # ####",
]


def make_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """A trained BPE: with SentencePiece's blank for Llama and its like, on bytes for the others.

    Falcon's has no bos, as the real one; everywhere pad is eos, as SkinGPT-4 sets it.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>" if family in _SENTENCEPIECE else None))
    if family in _SENTENCEPIECE:
        special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="always", split=False)
        alphabet, size = [chr(c) for c in range(32, 127)] + ["\n", "é"], 180
    else:
        special = {"bos_token": "<|begin|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
        if family == "falcon":
            del special["bos_token"]
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet, size = pre_tokenizers.ByteLevel.alphabet(), 300
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(dict.fromkeys(special.values())),
        initial_alphabet=sorted(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


# The files that were made in this process, by what they depend on: making them again takes ten times as long.
_MADE: dict[str, dict[str, bytes]] = {}


def _write(folder: Path, what: str, make: Callable[[Path], object]) -> None:
    if what not in _MADE:
        with tempfile.TemporaryDirectory() as place:
            make(Path(place))
            _MADE[what] = {path.name: path.read_bytes() for path in Path(place).iterdir()}
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in _MADE[what].items():
        (folder / name).write_bytes(content)


def save_language_model(folder: Path, family: str = "llama", seed: int = 0, **changes: Any) -> str:
    """Write a random model of a family and its tokenizer, unless they are there; returns the folder."""

    def make(place: Path) -> None:
        tokenizer = make_tokenizer(family)
        args = {**FAMILIES[family], "vocab_size": len(tokenizer), **changes}
        ids = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            config = AutoConfig.for_model(family, **args, **ids, pad_token_id=tokenizer.eos_token_id)
            AutoModelForCausalLM.from_config(config).save_pretrained(place)
        tokenizer.save_pretrained(place)

    if not (folder / "config.json").is_file():
        _write(folder, f"{family} {seed} {changes}", make)
    return str(folder)


def load_language_model(
    path: str | Path, dtype: torch.dtype = torch.float32, attention: str = "sdpa", **changes: Any
) -> LanguageModel:
    """The language model of a folder, on the CPU unless `changes` place it elsewhere."""
    precision = str(dtype).removeprefix("torch.")
    return LanguageModel(LanguageConfig(str(path), precision, attention, **changes))


def vision_config(**changes: Any) -> VisionConfig:
    """An EVA-ViT of two blocks."""
    return VisionConfig(
        **{"model": EVA, "model_args": EVA_ARGS, "image_size": IMAGE_SIZE, "norm_eps": 1e-5, **changes}
    )


def qformer_config(**changes: Any) -> QFormerConfig:
    """A Q-Former of two layers."""
    return QFormerConfig(**{"num_query_tokens": NUM_QUERIES, **QFORMER_ARGS, **changes})


def make_encoder(seed: int = 0) -> ImageEncoder:
    """A real EVA-ViT of two blocks and a real Q-Former, with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vision = VisionEncoder(vision_config())
        return ImageEncoder(vision, QFormer(qformer_config(), vision.width))


def make_model(folder: Path, family: str = "llama", encoder: ImageEncoder | None = None) -> SkinGPT4:
    """The network on a family's random model, kept in `folder`; the projection is the same every time."""
    language_model = load_language_model(save_language_model(folder / family, family))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return SkinGPT4(encoder, language_model, QUERY_WIDTH).eval()


def save_encoder(folder: Path, seed: int = 0) -> tuple[str, str]:
    """Write the weights of `make_encoder`; returns the two paths."""
    names = f"vision{seed}.safetensors", f"qformer{seed}.safetensors"

    def make(place: Path) -> None:
        encoder = make_encoder(seed)
        save_file(encoder.vision_encoder.backbone.state_dict(), place / names[0])
        save_file({k: v.contiguous() for k, v in encoder.qformer.state_dict().items()}, place / names[1])

    _write(folder, f"encoder {seed}", make)
    return str(folder / names[0]), str(folder / names[1])


def make_queries(count: int, seed: int = 0) -> torch.Tensor:
    """Queries (count, q, d) as if of that many pictures."""
    return torch.randn(count, NUM_QUERIES, QUERY_WIDTH, generator=torch.Generator().manual_seed(seed))


def make_picture(seed: int) -> Image.Image:
    """A coloured blot on noise, 64 x 48 pixels."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 60, (48, 64, 3)) + rng.integers(40, 190, 3)
    pixels[10:30, 20:50] = rng.integers(0, 255, 3)
    return Image.fromarray(pixels.astype(np.uint8))


def write_manifest(path: Path, count: int = 6, first: int = 0, **fields: Any) -> str:
    """Write `count` pictures, from number `first` on, and their records. Returns the path.

    Equal numbers are equal pictures. `fields` replace those of every record.
    """
    diseases = ("psoriasis", "acne", "melanoma", "eczema")
    lines = []
    path.parent.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        name = f"{path.stem}_{number}.png"
        make_picture(first + number).save(path.parent / name)
        record = {
            "image": name,
            "concepts": [["Plaque", "Scale"], ["Papule"], ["Erythema", "Papule", "Scale"]][number % 3],
            "disease": diseases[number % 4],
            "note": None if number % 2 else "See a doctor.",
        }
        lines.append(json.dumps(record | fields) + "\n")
    path.write_text("".join(lines))
    return str(path)


def tiny_config(folder: Path, family: str = "llama", **changes: Any) -> Config:
    """A step-1 configuration whose files stand in `folder` (made if missing; several tests may share it).

    `changes` are fields, with two underscores for a dot: ``tiny_config(folder, optim__batch_size=4)``.
    Give `output_dir`, unless the folder is a test's own.
    """
    config = Config(step="step1", output_dir=str(folder / "run"))
    save_language_model(folder / family, family)
    if not (folder / "qformer0.safetensors").is_file():
        save_encoder(folder)
    if not (folder / "train.jsonl").is_file():
        write_manifest(folder / "train.jsonl")
    defaults = {
        "vision__model": EVA, "vision__model_args": dict(EVA_ARGS), "vision__image_size": IMAGE_SIZE,
        "vision__norm_eps": 1e-5, "vision__weights": str(folder / "vision0.safetensors"),
        "qformer__weights": str(folder / "qformer0.safetensors"), "qformer__num_query_tokens": NUM_QUERIES,
        **{f"qformer__{key}": value for key, value in QFORMER_ARGS.items()},
        "language__model": str(folder / family), "language__dtype": "float32",
        "data__train": [str(folder / "train.jsonl")], "data__num_workers": 0,
        "optim__max_epoch": 2, "optim__iters_per_epoch": 2, "optim__warmup_steps": 1, "optim__init_lr": 1e-2,
        "log__every": 1, "log__tensorboard": False,
    }  # fmt: skip
    for name, value in (defaults | changes).items():
        *groups, key = name.split("__")
        place: Any = config
        for group in groups:
            place = getattr(place, group)
        assert hasattr(place, key), name
        setattr(place, key, value)
    return config


def conversation(model: SkinGPT4, question: str, answer: str | None = None, num_images: int = 1) -> Encoded:
    """One turn under the vicuna template."""
    template = get_template("vicuna")
    pieces = render(template, [Turn(question, answer, num_images)], model.tokenizer)
    return encode(pieces, model.tokenizer, NUM_QUERIES, bos=True)


def batch_of(rows: list[Encoded]) -> dict[str, torch.Tensor]:
    """Rows right-padded by hand: input_ids, labels, attention_mask (b, t)."""
    length = max(len(row.input_ids) for row in rows)
    batch: dict[str, list[Any]] = {"input_ids": [], "labels": [], "attention_mask": []}
    for row in rows:
        rest = length - len(row.input_ids)
        labels = [i if s else IGNORED for i, s in zip(row.input_ids, row.supervised, strict=True)]
        batch["input_ids"].append(row.input_ids + [0] * rest)
        batch["labels"].append(labels + [IGNORED] * rest)
        batch["attention_mask"].append([1] * len(row.input_ids) + [0] * rest)
    return {key: torch.tensor(value) for key, value in batch.items()}


def loss_of(model):
    """The summed loss of one answer after one picture."""
    with torch.no_grad():
        return model(**batch_of([conversation(model, "What is it?", "Acne.")]), queries=make_queries(1))[0]
