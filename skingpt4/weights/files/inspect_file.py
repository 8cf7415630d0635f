"""What one file of weights is, from the names and shapes in its header: kind, family, width, what it lacks."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from skingpt4.weights.files.headers import TensorInfo, UnreadableWeights, read_header
from skingpt4.weights.files.inspect_encoder import open_clip_file, panderm_file
from skingpt4.weights.files.inspection import Inspection, count, gaps
from skingpt4.weights.files.layouts import beit_prefix

QUERY_WIDTH = 768  # of every published Q-Former
JOINED_WIDTH = 5632  # MiniGPT-4 for Llama-2: four of EVA's 1408 wide tokens joined, no Q-Former
EVA_WIDTH, EVA_DEPTH = 1408, 39
Tensors = dict[str, TensorInfo]


def inspect_file(path: Path) -> Inspection:
    """Say what a file is; `inspect` calls it.

    Raises:
        UnreadableWeights: nothing is there (kind `missing`). Whatever exists gets an inspection, however broken.
    """
    try:
        header = read_header(path)
    except UnreadableWeights as error:
        if error.kind == "missing":
            raise
        return Inspection(path, error.kind, problem=str(error))
    inspection = _classify(path, header.tensors)
    details = {"format": header.format, **inspection.details}
    if header.inside and header.extra:
        details["beside_the_tensors"] = header.extra
    return replace(inspection, details=details)


def _classify(path: Path, tensors: Tensors) -> Inspection:
    """The first rule that knows one of the names decides."""
    for matches, rule in _RULES:
        if matches(tensors):
            return rule(path, tensors)
    example = ", ".join(list(tensors)[:3])
    problem = f"{path}: no part of SkinGPT-4 is known by such names ({example}, ...)"
    return Inspection(path, "unknown_tensors", tensors, problem=problem)


def _has(*patterns: str) -> Callable[[Tensors], bool]:
    return lambda tensors: all(any(re.match(p, name) for name in tensors) for p in patterns)


def _eva(path: Path, tensors: Tensors) -> Inspection:
    depth = count(tensors, r"blocks\.(\d+)\.")
    patch = tensors["patch_embed.proj.weight"].shape
    details = {"family": "eva", "width": patch[0], "num_layers": depth, "patch_size": patch[-1]}
    if "pos_embed" in tensors:
        details["image_size"] = round((tensors["pos_embed"].shape[1] - 1) ** 0.5) * patch[-1]
    missing = gaps(tensors, r"(blocks)\.(\d+)\.(.+)")
    missing += [name for name in ("cls_token", "pos_embed", "patch_embed.proj.bias") if name not in tensors]
    if patch[0] == EVA_WIDTH:
        missing += [f"blocks.{n}.*" for n in range(depth, EVA_DEPTH)]
        fits = f"vision.weights of configs/paper/base.yaml; ln_vision {_ln_vision(tensors)}"
    else:
        fits = f"vision.weights with vision.model_args of width {patch[0]} and depth {depth}"
    return Inspection(path, "lavis_eva", tensors, details, fits, tuple(missing))


def _ln_vision(tensors: Tensors) -> str:
    return "is in it" if "norm.weight" in tensors else "comes from the file of qformer.weights"


def _lavis_blip2(path: Path, tensors: Tensors) -> Inspection:
    prefix = "Qformer.bert.encoder.layer."
    details = _qformer_details(tensors, prefix)
    missing = gaps(tensors, r"(Qformer\.bert\.encoder\.layer)\.(\d+)\.(.+)")
    missing += [n for n in ("query_tokens", "ln_vision.weight", "ln_vision.bias") if n not in tensors]
    heads = {"t5_proj": "flan-t5", "opt_proj": "opt", "llm_proj": "vicuna"}
    for head, language_model in heads.items():
        if f"{head}.weight" in tensors:
            details["trained_beside"] = f"{language_model} {tensors[f'{head}.weight'].shape[0]} wide"
    if any(name.startswith("visual_encoder.") for name in tensors):
        details["holds_vision_encoder"] = True
    return Inspection(path, "lavis_blip2", tensors, details, _qformer_fits(details), tuple(missing))


def _qformer_details(tensors: Tensors, prefix: str) -> dict[str, Any]:
    details: dict[str, Any] = {"family": "qformer"}
    if "query_tokens" in tensors:
        _, details["num_query_tokens"], details["width"] = tensors["query_tokens"].shape
    details["num_layers"] = count(tensors, re.escape(prefix) + r"(\d+)\.")
    keys = [n for n in tensors if n.startswith(prefix) and re.search(r"crossattention\.\w+\.key\.weight$", n)]
    if keys:
        details["encoder_width"] = tensors[keys[0]].shape[1]
    return details


def _qformer_fits(details: dict[str, Any]) -> str:
    encoder = details.get("encoder_width", "?")
    model = " (EVA-ViT-g)" if encoder == EVA_WIDTH else ""
    return f"qformer.weights behind a vision encoder {encoder} wide{model}"


def _qformer(path: Path, tensors: Tensors) -> Inspection:
    details = _qformer_details(tensors, "model.encoder.layer.")
    missing = gaps(tensors, r"(model\.encoder\.layer)\.(\d+)\.(.+)")
    missing += [name for name in ("query_tokens",) if name not in tensors]
    return Inspection(path, "qformer", tensors, details, _qformer_fits(details), tuple(missing))


def _minigpt4_projection(path: Path, tensors: Tensors) -> Inspection:
    width, query_width = tensors["llama_proj.weight"].shape
    details = {"width": width, "query_width": query_width}
    if query_width == JOINED_WIDTH:
        problem = (
            f"{path}: is MiniGPT-4's later projection for Llama-2 [{width}, {JOINED_WIDTH}], made for four joined "
            "vision tokens without a Q-Former; SkinGPT-4 has 768 wide queries, so bring a projection "
            f"[{width}, {QUERY_WIDTH}]"
        )
        return Inspection(path, "minigpt4_llama2_projection", tensors, details, problem=problem)
    missing = () if "llama_proj.bias" in tensors else ("llama_proj.bias",)
    fits = projection_fits(width, query_width)
    return Inspection(path, "minigpt4_projection", tensors, details, fits, missing)


def _projection(path: Path, tensors: Tensors) -> Inspection:
    width, query_width = tensors["weight"].shape
    details = {"width": width, "query_width": query_width}
    return Inspection(path, "projection", tensors, details, projection_fits(width, query_width))


def projection_fits(width: int, query_width: int) -> str:
    """Which language models are as wide as a projection's output; the width does not prove the family."""
    known = {
        576: "SmolLM2-135M", 960: "SmolLM2-360M", 2048: "SmolLM2-1.7B", 4096: "7B Llama and Vicuna",
        4544: "Falcon-7B", 5120: "13B Llama and Vicuna", 8192: "Falcon-40B",
    }  # fmt: skip
    model = f", such as {known[width]}" if width in known else ""
    return f"a Q-Former {query_width} wide and a language model {width} wide{model}"


def _vision_encoder(path: Path, tensors: Tensors) -> Inspection:
    details: dict[str, Any] = {"num_layers": count(tensors, r"blocks\.(\d+)\.")}
    if "patch_embed.proj.weight" in tensors:
        patch = tensors["patch_embed.proj.weight"].shape
        details |= {"family": "vit", "width": patch[0], "patch_size": patch[-1]}
        missing = gaps(tensors, r"(blocks)\.(\d+)\.(.+)")
    else:
        details["family"] = "cnn"
        missing = []
    fits = "vision.weights, with the vision.model it was made for"
    return Inspection(path, "vision_encoder", tensors, details, fits, tuple(missing))


def _hf_blip2(path: Path, tensors: Tensors) -> Inspection:
    fits = "vision.weights and qformer.weights"
    return Inspection(path, "hf_blip2", tensors, hf_blip2_details(tensors), fits)


def hf_blip2_details(tensors: Tensors) -> dict[str, Any]:
    """Widths and depths of the image side of a BLIP-2 in Hugging Face's names, as far as they are present."""
    tensors = {name.removeprefix("model."): info for name, info in tensors.items()}
    details = _qformer_details(tensors, "qformer.encoder.layer.")
    patch = tensors.get("vision_model.embeddings.patch_embedding.weight")
    if patch:
        details["vision_width"], details["patch_size"] = patch.shape[0], patch.shape[-1]
    details["vision_layers"] = count(tensors, r"vision_model\.encoder\.layers\.(\d+)\.")
    return details


def _language_model_file(path: Path, tensors: Tensors) -> Inspection:
    details = language_model_details(tensors)
    problem = f"{path}: is one file of a language model; name its directory, with config.json and tokenizer"
    return Inspection(path, "language_model_file", tensors, details, problem=problem)


def language_model_details(tensors: Tensors) -> dict[str, Any]:
    """Width and vocabulary (rows of the embedding) of a language model, as its tensors have them."""
    for name, info in tensors.items():
        if re.search(r"(embed_tokens|word_embeddings|wte|embed_in)\.weight$", name) and len(info.shape) == 2:
            return {"embedding_rows": info.shape[0], "width": info.shape[1]}
    return {}


def _is_panderm(tensors: Tensors) -> bool:
    return beit_prefix(tensors) is not None and not _has(r".*relative_position_bias_table")(tensors)


_RULES: tuple[tuple[Callable[[Tensors], bool], Callable[[Path, Tensors], Inspection]], ...] = (
    (_has(r"llama_proj\.weight"), _minigpt4_projection),
    (_has(r"Qformer\.bert\."), _lavis_blip2),
    (_is_panderm, panderm_file),
    (_has(r"visual\."), open_clip_file),
    (_has(r"(model\.)?(vision_model|qformer)\."), _hf_blip2),
    (_has(r"patch_embed\.proj\.weight", r"blocks\.\d+\.attn\.q_bias"), _eva),
    (_has(r"model\.encoder\.layer\.\d+\.(attention|crossattention)\."), _qformer),
    (_has(r"patch_embed\.proj\.weight|conv_stem\.weight|stem\."), _vision_encoder),
    (_has(r"(model\.layers|transformer\.h|gpt_neox\.layers)\.\d+\."), _language_model_file),
    (lambda tensors: set(tensors) == {"weight", "bias"} and len(tensors["weight"].shape) == 2, _projection),
)
