"""MiniGPT-4's layout of a projection, also that of the published SkinGPT-4: read to start from, written for its demo.

``{"model": {"llama_proj.weight": (width, 768), "llama_proj.bias": (width,)}, ...}``; buffers of the language model
and the optimiser's state may be there too. The file says nothing about the encoder, the language model or the
template that it was trained with, so only widths can be checked.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from skingpt4.support.errors import UserError
from skingpt4.support.files import file_sha256, move_into_place
from skingpt4.weights.files.headers import read_header
from skingpt4.weights.files.inspect_file import JOINED_WIDTH, projection_fits
from skingpt4.weights.files.tensors import WeightsMismatch, load_tensors

WEIGHT, BIAS = "llama_proj.weight", "llama_proj.bias"
SUFFIXES = (".pth", ".pt")
LAYOUT = "minigpt4"  # the card's `layout`
WIDTHS = (4096, 5120)  # of the two projections that MiniGPT-4 published for Vicuna v0
V0_VOCABULARY = 32001  # of Vicuna v0; v1.1 and v1.5 have 32,000


class ExportError(UserError):
    """A checkpoint that cannot be exported; the message says why."""


def shape_of(path: str | Path) -> tuple[int, int]:
    """(width, query width) of the projection in a `.pth`, from its header alone.

    Raises:
        WeightsMismatch: unreadable, no such projection, or the one of four joined tokens for Llama-2.
    """
    tensors = read_header(path).tensors
    missing = [name for name in (WEIGHT, BIAS) if name not in tensors]
    if missing:
        names = sorted(tensors)
        raise WeightsMismatch(
            f"{path}: is not a projection of MiniGPT-4 or SkinGPT-4; it lacks {' and '.join(missing)} and holds "
            f"{', '.join(names[:4])}{', ...' if len(names) > 4 else ''}",
            missing,
        )
    width, query_width = tensors[WEIGHT].shape
    if query_width == JOINED_WIDTH:
        raise WeightsMismatch(
            f"{path}: {WEIGHT} is [{width}, {JOINED_WIDTH}], MiniGPT-4's later projection for Llama-2 of four joined "
            f"vision tokens without a Q-Former; bring the one of Vicuna, [4096, 768] or [5120, 768]"
        )
    return width, query_width


def require_width(path: str | Path, width: int, query_width: int) -> None:
    """Refuse a projection of other widths than the network's, before anything large is read.

    Args:
        path: the `.pth`.
        width: of the language model.
        query_width: of the Q-Former.

    Raises:
        WeightsMismatch: names both widths and what the file was made for; or as `shape_of`.
    """
    shape = shape_of(path)
    if shape != (width, query_width):
        raise WeightsMismatch(
            f"{path}: {WEIGHT} is [{shape[0]}, {shape[1]}], this network needs [{width}, {query_width}]; the "
            f"file fits {projection_fits(*shape)}"
        )


def require_qformer(path: str | Path, projector: str) -> None:
    """Refuse a `.pth` for a projector that reads no Q-Former.

    Raises:
        WeightsMismatch: says what to set.
    """
    if projector != "qformer":
        raise WeightsMismatch(
            f"{path}: is MiniGPT-4's layer on Q-Former queries, and this run has projector: {projector}; set "
            "projector: qformer, or start from another checkpoint"
        )


def mismatched_vicuna(width: int, vocabulary: int) -> str:
    """Why MiniGPT-4's projection does not belong to a language model of its width; empty where it may.

    Widths cannot tell the versions of Vicuna from each other, but the vocabulary can: v0 has one token more.

    Args:
        width: of the language model.
        vocabulary: rows of its input embeddings.
    """
    if width not in WIDTHS or vocabulary == V0_VOCABULARY:
        return ""
    return (
        f"MiniGPT-4's own was trained with Vicuna v0 ({V0_VOCABULARY:,} tokens) and this language model has "
        f"{vocabulary:,}; unless the file is another system's, use Vicuna v0 (docs/weights.md)"
    )


def read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors in our names, card) of a `.pth`; everything else in it is ignored.

    Raises:
        WeightsMismatch: as `shape_of`.
    """
    shape_of(path)
    content = load_tensors(path)
    tensors = {"weight": content[WEIGHT].float(), "bias": content[BIAS].float()}
    card = {"step": "none", "iteration": 0, "layout": LAYOUT, "tensors_sha256": file_sha256(path)}
    return tensors, card


def write(path: str | Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> Path:
    """Write a projection that MiniGPT-4's and SkinGPT-4's own code reads, completely or not at all.

    Args:
        path: the `.pth` to write; replaced if it is there.
        tensors: `weight` (width, query width) and `bias` (width,) in our names; written in fp32.
        about: plain values that the original ignores, e.g. `epoch`.

    Raises:
        WeightsMismatch: the disk is full or the folder cannot be written.
    """
    path = Path(path)
    named = {WEIGHT: tensors["weight"], BIAS: tensors["bias"]}
    model = {name: value.detach().float().cpu().contiguous() for name, value in named.items()}
    part = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            part = Path(file.name)
            torch.save({"model": model, **about}, file)
        part.chmod(0o644)
        move_into_place(part, path)
    except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into a RuntimeError
        raise WeightsMismatch(
            f"{path}: cannot be written ({str(error).splitlines()[0]}); check its folder and the free space"
        ) from None
    finally:
        if part:
            part.unlink(missing_ok=True)
    return path


def export(
    path: str | Path, tensors: dict[str, Tensor], card: dict[str, Any], overwrite: bool = False
) -> Path:
    """Write the projection of a checkpoint of ours as a MiniGPT-4 `.pth`.

    Args:
        path: the `.pth` to write.
        tensors: the checkpoint's.
        card: the checkpoint's.
        overwrite: replace the file if it exists.

    Raises:
        WeightsMismatch: `path` cannot be written.
        ExportError: `path` exists already, or the checkpoint has LoRA or a projector that this layout cannot hold.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise ExportError(f"{path}: exists already; name another file or add --overwrite")
    if path.suffix not in SUFFIXES:
        raise ExportError(f"{path}: name a file that ends in .pth, as the original demo expects")
    if card.get("lora"):
        raise ExportError(
            f"{path}: the checkpoint was trained with LoRA, which MiniGPT-4's layout cannot hold; without it the "
            "projection would answer differently"
        )
    kind = card.get("projector", {}).get("kind", "qformer")
    if kind != "qformer":
        raise ExportError(
            f"{path}: the checkpoint has projector {kind}, and MiniGPT-4's layout is one layer on Q-Former queries"
        )
    # The original reads `model` and, when it resumes, `epoch`.
    return write(path, tensors, {"epoch": 0})
