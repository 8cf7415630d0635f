"""What one file of weights is, told from the names and shapes in its header: kind, family, width, what it lacks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from skingpt4.weights.files.headers import TensorInfo, UnreadableWeights, read_header

QUERY_WIDTH = 768  # of every published Q-Former
JOINED_WIDTH = 5632  # MiniGPT-4 for Llama-2: four of EVA's 1408 wide tokens joined, no Q-Former
EVA_WIDTH, EVA_DEPTH = 1408, 39
Tensors = Mapping[str, TensorInfo]

# Every kind that `inspect` can answer, with the sentence it is told in.
KINDS = {
    "lavis_eva": "EVA-ViT of LAVIS, the vision encoder",
    "lavis_blip2": "BLIP-2 of LAVIS: Q-Former, query tokens and ln_vision",
    "minigpt4_projection": "projection of MiniGPT-4 or the published SkinGPT-4",
    "minigpt4_llama2_projection": "projection of MiniGPT-4 for Llama-2, which has no Q-Former",
    "projection": "projection of one of our checkpoints",
    "checkpoint": "checkpoint of this software",
    "run": "run of this software with checkpoints",
    "vision_encoder": "vision encoder in timm's names",
    "qformer": "Q-Former of this software",
    "hf_blip2": "BLIP-2 or InstructBLIP in Hugging Face's layout",
    "language_model": "language model in Hugging Face's layout",
    "language_model_file": "one file of a language model",
    "vicuna_delta": "Vicuna delta: differences from LLaMA, no model by itself",
    "meta_llama": "Llama in Meta's own layout",
    "adapter": "LoRA adapter, no model by itself",
    "unknown_tensors": "tensors that no part of SkinGPT-4 is known by",
    "lfs_pointer": "Git LFS pointer in place of a file",
    "web_page": "saved web page",
    "truncated": "truncated file",
    "unfinished": "unfinished download",
    "empty": "empty file",
    "pickle_with_code": "pickle with code in it",
    "gguf": "GGUF file of llama.cpp",
    "not_weights": "no weights",
}


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found.

    `kind` is a key of KINDS. `details` are JSON-able facts: `family`, `width`, `num_layers`, `vocabulary`, `dtype`,
    `num_query_tokens`, `encoder_width` and the like, where they are known. `fits` says where it goes. `missing`
    lists what it lacks to be usable, `problem` is the sentence why it is refused, or None.
    """

    path: Path
    kind: str
    tensors: dict[str, TensorInfo] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    fits: str = ""
    missing: tuple[str, ...] = ()
    problem: str | None = None

    @property
    def usable(self) -> bool:
        """Whether it can be loaded as it is."""
        return self.problem is None and not self.missing

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(info.num_bytes for info in self.tensors.values())

    def to_json(self, with_tensors: bool = False) -> dict[str, Any]:
        """As plain values for `json.dumps`."""
        plain = {
            "path": str(self.path),
            "kind": self.kind,
            "what": KINDS[self.kind],
            "details": self.details,
            "fits": self.fits,
            "missing": list(self.missing),
            "problem": self.problem,
            "usable": self.usable,
            "num_tensors": len(self.tensors),
            "dtypes": dict(Counter(info.dtype for info in self.tensors.values())),
            "num_bytes": self.num_bytes,
        }
        if with_tensors:
            plain["tensors"] = {name: asdict(info) for name, info in self.tensors.items()}
        return plain


def inspect_file(path: Path) -> Inspection:
    """Say what a file is.

    Raises:
        UnreadableWeights: nothing is there (kind `missing`). Whatever is there is answered for, however broken.
    """
    try:
        header = read_header(path)
    except UnreadableWeights as error:
        if error.kind == "missing":
            raise
        return Inspection(path, error.kind, problem=str(error))
    kind, details, fits, missing, problem = _classify(path, header.tensors)
    details = {"format": header.format, **details}
    if header.inside and header.extra:
        details["beside_the_tensors"] = header.extra
    return Inspection(path, kind, dict(header.tensors), details, fits, tuple(missing), problem)


_Verdict = tuple[str, dict[str, Any], str, list[str], str | None]


def _classify(path: Path, tensors: Tensors) -> _Verdict:
    """The first rule that knows one of the names decides."""
    for knows, tell in _RULES:
        if knows(tensors):
            return tell(path, tensors)
    example = ", ".join(list(tensors)[:3])
    return (
        "unknown_tensors",
        {},
        "",
        [],
        f"{path}: no part of SkinGPT-4 is known by such names ({example}, ...)",
    )


def _has(*patterns: str) -> Callable[[Tensors], bool]:
    return lambda tensors: all(any(re.match(p, name) for name in tensors) for p in patterns)


def _tell_eva(path: Path, tensors: Tensors) -> _Verdict:
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
    return "lavis_eva", details, fits, missing, None


def _ln_vision(tensors: Tensors) -> str:
    return "is in it" if "norm.weight" in tensors else "comes from the file of qformer.weights"


def _tell_lavis_blip2(path: Path, tensors: Tensors) -> _Verdict:
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
    return "lavis_blip2", details, _qformer_fits(details), missing, None


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
    whose = " (EVA-ViT-g)" if encoder == EVA_WIDTH else ""
    return f"qformer.weights behind a vision encoder {encoder} wide{whose}"


def _tell_qformer(path: Path, tensors: Tensors) -> _Verdict:
    details = _qformer_details(tensors, "model.encoder.layer.")
    missing = gaps(tensors, r"(model\.encoder\.layer)\.(\d+)\.(.+)")
    missing += [name for name in ("query_tokens",) if name not in tensors]
    return "qformer", details, _qformer_fits(details), missing, None


def _tell_llama_proj(path: Path, tensors: Tensors) -> _Verdict:
    width, query_width = tensors["llama_proj.weight"].shape
    details = {"width": width, "query_width": query_width}
    if query_width == JOINED_WIDTH:
        problem = (
            f"{path}: is MiniGPT-4's later projection for Llama-2 [{width}, {JOINED_WIDTH}], made for four joined "
            "vision tokens without a Q-Former; SkinGPT-4 has 768 wide queries, so bring a projection "
            f"[{width}, {QUERY_WIDTH}]"
        )
        return "minigpt4_llama2_projection", details, "", [], problem
    missing = [] if "llama_proj.bias" in tensors else ["llama_proj.bias"]
    return "minigpt4_projection", details, projection_fits(width, query_width), missing, None


def _tell_projection(path: Path, tensors: Tensors) -> _Verdict:
    width, query_width = tensors["weight"].shape
    details = {"width": width, "query_width": query_width}
    return "projection", details, projection_fits(width, query_width), [], None


def projection_fits(width: int, query_width: int) -> str:
    """Which language models are as wide as a projection's output; a width alone is no proof of family."""
    known = {
        576: "SmolLM2-135M", 960: "SmolLM2-360M", 2048: "SmolLM2-1.7B", 4096: "7B Llama and Vicuna",
        4544: "Falcon-7B", 5120: "13B Llama and Vicuna", 8192: "Falcon-40B",
    }  # fmt: skip
    whose = f", such as {known[width]}" if width in known else ""
    return f"a Q-Former {query_width} wide and a language model {width} wide{whose}"


def _tell_vision(path: Path, tensors: Tensors) -> _Verdict:
    details: dict[str, Any] = {"num_layers": count(tensors, r"blocks\.(\d+)\.")}
    if "patch_embed.proj.weight" in tensors:
        patch = tensors["patch_embed.proj.weight"].shape
        details |= {"family": "vit", "width": patch[0], "patch_size": patch[-1]}
        missing = gaps(tensors, r"(blocks)\.(\d+)\.(.+)")
    else:
        details["family"] = "cnn"
        missing = []
    return "vision_encoder", details, "vision.weights, with the vision.model it was made for", missing, None


def _tell_hf_blip2(path: Path, tensors: Tensors) -> _Verdict:
    return "hf_blip2", hf_blip2_details(tensors), "vision.weights and qformer.weights", [], None


def hf_blip2_details(tensors: Tensors) -> dict[str, Any]:
    """Widths and depths of the image side of a BLIP-2 in Hugging Face's names, as far as they are there."""
    tensors = {name.removeprefix("model."): info for name, info in tensors.items()}
    details = _qformer_details(tensors, "qformer.encoder.layer.")
    patch = tensors.get("vision_model.embeddings.patch_embedding.weight")
    if patch:
        details["vision_width"], details["patch_size"] = patch.shape[0], patch.shape[-1]
    details["vision_layers"] = count(tensors, r"vision_model\.encoder\.layers\.(\d+)\.")
    return details


def _tell_language_model_file(path: Path, tensors: Tensors) -> _Verdict:
    details = language_model_details(tensors)
    problem = f"{path}: is one file of a language model; name its directory, with config.json and tokenizer"
    return "language_model_file", details, "", [], problem


def language_model_details(tensors: Tensors) -> dict[str, Any]:
    """Width and vocabulary (rows of the embedding) of a language model, as its tensors have them."""
    for name, info in tensors.items():
        if re.search(r"(embed_tokens|word_embeddings|wte|embed_in)\.weight$", name) and len(info.shape) == 2:
            return {"embedding_rows": info.shape[0], "width": info.shape[1]}
    return {}


def count(tensors: Iterable[str], pattern: str) -> int:
    """Number of layers: one more than the highest number that the pattern's group finds."""
    return max((int(found[1]) + 1 for name in tensors if (found := re.match(pattern, name))), default=0)


def gaps(tensors: Iterable[str], pattern: str) -> list[str]:
    """Tensors that other layers have and one lacks.

    Args:
        tensors: names.
        pattern: with the groups (what the layers are in, number, name inside the layer).
    """
    layers: dict[tuple[str, str], set[int]] = {}
    for name in tensors:
        if found := re.fullmatch(pattern, name):
            layers.setdefault((found[1], found[3]), set()).add(int(found[2]))
    depth = max((max(numbers) + 1 for numbers in layers.values()), default=0)
    # Cross-attention may stand in every second layer only; where it stands, all of it must.
    crossed = {n for (_, name), numbers in layers.items() if "crossattention" in name for n in numbers}
    missing = []
    for (stem, name), numbers in layers.items():
        expected = crossed if "crossattention" in name else set(range(depth))
        missing += [f"{stem}.{number}.{name}" for number in sorted(expected - numbers)]
    return missing


_RULES: tuple[tuple[Callable[[Tensors], bool], Callable[[Path, Tensors], _Verdict]], ...] = (
    (_has(r"llama_proj\.weight"), _tell_llama_proj),
    (_has(r"Qformer\.bert\."), _tell_lavis_blip2),
    (_has(r"(model\.)?(vision_model|qformer)\."), _tell_hf_blip2),
    (_has(r"patch_embed\.proj\.weight", r"blocks\.\d+\.attn\.q_bias"), _tell_eva),
    (_has(r"model\.encoder\.layer\.\d+\.(attention|crossattention)\."), _tell_qformer),
    (_has(r"patch_embed\.proj\.weight|conv_stem\.weight|stem\."), _tell_vision),
    (_has(r"(model\.layers|transformer\.h|gpt_neox\.layers)\.\d+\."), _tell_language_model_file),
    (
        lambda tensors: set(tensors) == {"weight", "bias"} and len(tensors["weight"].shape) == 2,
        _tell_projection,
    ),
)
