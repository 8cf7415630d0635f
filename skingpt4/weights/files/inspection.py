"""What `inspect` says of a file or directory of weights, as a dataclass, as JSON and as lines for people."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from skingpt4.weights.files.headers import TensorInfo

# Every kind that `inspect` can return, with its description for people.
KINDS = {
    "lavis_eva": "EVA-ViT of LAVIS, the vision encoder",
    "lavis_blip2": "BLIP-2 of LAVIS: Q-Former, query tokens and ln_vision",
    "minigpt4_projection": "projection of MiniGPT-4 or the published SkinGPT-4",
    "minigpt4_llama2_projection": "projection of MiniGPT-4 for Llama-2, which has no Q-Former",
    "projection": "projection of one of our checkpoints",
    "checkpoint": "checkpoint of this software",
    "run": "run of this software with checkpoints",
    "vision_encoder": "vision encoder in timm's names",
    "open_clip": "open_clip model, of which the vision tower is used",
    "timm_folder": "vision model in timm's own folder",
    "hf_vision": "vision model of transformers, or a model of images and texts whose vision tower is used",
    "panderm": "PanDerm, a vision encoder for dermatology",
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
    """What a file or directory is.

    `kind` is a key of KINDS. `details` are JSON-able facts: `family`, `width`, `num_layers`, `vocabulary`, `dtype`,
    `num_query_tokens`, `encoder_width` and others, where they are known. `fits` says where it can be used. `missing`
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


def describe(inspection: Inspection, with_tensors: bool = False) -> str:
    """The inspection as lines for people."""
    rows: list[tuple[str, object]] = [("is", KINDS[inspection.kind])]
    for key, value in inspection.details.items():
        if value is not None:
            if isinstance(value, dict):
                value = ", ".join(f"{k} ({v})" for k, v in value.items())
            rows.append(
                (key.replace("_", " "), "; ".join(map(str, value)) if isinstance(value, list) else value)
            )
    if inspection.tensors:
        dtypes = Counter(info.dtype for info in inspection.tensors.values())
        counts = ", ".join(f"{n} {dtype}" for dtype, n in dtypes.most_common())
        rows.append(
            ("tensors", f"{len(inspection.tensors)} ({counts}), {inspection.num_bytes / 1e6:,.1f} MB")
        )
    if inspection.fits:
        rows.append(("fits", inspection.fits))
    if inspection.missing:
        shown = ", ".join(inspection.missing[:6]) + (", ..." if len(inspection.missing) > 6 else "")
        rows.append(("missing", f"{len(inspection.missing)}: {shown}"))
    elif inspection.usable:
        rows.append(("missing", "nothing"))
    if inspection.problem:
        rows.append(("refused", inspection.problem))
    pad = max(len(key) for key, _ in rows)
    lines = [str(inspection.path), *(f"  {key:{pad}}  {value}" for key, value in rows)]
    if with_tensors:
        width = max(map(len, inspection.tensors), default=0)
        lines += [f"    {n:{width}} {i.dtype:9} {list(i.shape)}" for n, i in inspection.tensors.items()]
    return "\n".join(lines)


def count(tensors: Iterable[str], pattern: str) -> int:
    """Number of layers: one more than the highest number that the pattern's group matches."""
    return max((int(match[1]) + 1 for name in tensors if (match := re.match(pattern, name))), default=0)


def gaps(tensors: Iterable[str], pattern: str) -> list[str]:
    """Tensors that other layers have and one lacks.

    Args:
        tensors: names.
        pattern: with the groups (what the layers are in, number, name inside the layer).
    """
    layers: dict[tuple[str, str], set[int]] = {}
    for name in tensors:
        if match := re.fullmatch(pattern, name):
            layers.setdefault((match[1], match[3]), set()).add(int(match[2]))
    depth = max((max(numbers) + 1 for numbers in layers.values()), default=0)
    # Cross-attention may be in every second layer only, but must be complete there.
    crossed = {n for (_, name), numbers in layers.items() if "crossattention" in name for n in numbers}
    missing = []
    for (stem, name), numbers in layers.items():
        expected = crossed if "crossattention" in name else set(range(depth))
        missing += [f"{stem}.{number}.{name}" for number in sorted(expected - numbers)]
    return missing
