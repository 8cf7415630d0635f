"""A known answer: what the whole network makes of one fixed picture, stored with a checkpoint and asked for again.

Shapes, names and vocabularies can all fit while the weights are another model's; such a model loads and talks
nonsense. So a checkpoint stores the mean log-probability of a short fixed answer, and a summary of the picture's
queries, when it is saved; whoever loads it computes both again, in one forward pass.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from skingpt4.model.language import LanguageModel
from skingpt4.model.prompts import IGNORED, Turn, encode_turns, get_template
from skingpt4.records.images import to_tensor
from skingpt4.support.errors import UserError
from skingpt4.weights.files.tensors import load_tensors

QUESTION, ANSWER = "What is wrong with my skin?", "This could be a skin disease image of psoriasis."
# Largest difference that is taken for rounding, in nats a token, and as a share of the queries' own size. What
# was measured, and the margin over it, stands in docs/known_answer.md.
TOLERANCE = {"float32": 0.05, "bfloat16": 0.15, "float16": 0.05, "quantised": 1.0}
QUERY_TOLERANCE = 0.4
_SUMS = 16  # the queries are summed up in so many numbers


class KnownAnswerError(UserError):
    """The network does not give the answer that was stored; the message has both and what they point at."""


def picture() -> Image.Image:
    """The fixed picture, 256 x 256: a dark blot with a scaly edge on a shaded ground, whole numbers alone."""
    y, x = np.mgrid[0:256, 0:256]
    distance = (x - 120) ** 2 + (y - 136) ** 2
    blot = np.where(distance < 70**2, 60 + (x * 3 + y * 5) % 24, 0)
    rim = np.where(abs(distance - 70**2) < 900, 40, 0)
    shade = x // 8 + y // 16
    channels = (214 - shade - blot // 2 + rim, 170 - shade - blot + rim, 148 - shade - blot + rim)
    return Image.fromarray(np.stack(channels, -1).clip(0, 255).astype(np.uint8))


def queries_of(encoder: Any, image_size: int) -> Tensor:
    """Queries (1, q, d) fp32, on the CPU, that an `ImageEncoder` makes of the fixed picture."""
    vision = encoder.vision_encoder
    return encoder(to_tensor(picture(), image_size, vision.mean, vision.std)[None]).cpu()


def kept_queries(path: Path, get_encoder: Callable[[], Any], image_size: int) -> Tensor:
    """`queries_of`, from the file or computed and put there: a run on kept features need not load the encoder."""
    if not path.is_file():
        queries = queries_of(get_encoder(), image_size)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        save_file({"queries": queries.contiguous()}, part)
        os.replace(part, path)
    return load_tensors(path)["queries"]


def precision(language_model: LanguageModel) -> str:
    """Under which name of TOLERANCE a language model computes."""
    if getattr(language_model.model, "is_quantized", False):
        return "quantised"
    return str(language_model.dtype).removeprefix("torch.")


@torch.no_grad()
def measure(
    model: Any, queries: Tensor, template: str, question: str = QUESTION, answer: str = ANSWER
) -> dict[str, Any]:
    """What a checkpoint stores as `known_answer`.

    Args:
        model: the network; LoRA's dropout is off while it is asked.
        queries: (1, q, d), of the fixed picture.
        template: the prompt template's name.
        question: to be asked.
        answer: the answer whose probability is taken, its end symbol included.

    Returns:
        `mean_log_probability` (nats a token), `num_tokens`, `queries` (a summary), `dtype`, `tolerance`, the texts
        and the versions of what computed it.
    """
    turns = [Turn(question, answer, num_images=1)]
    encoded = encode_turns(get_template(template), turns, model.tokenizer, queries.shape[1])
    device = model.language_model.input_device
    input_ids = torch.tensor([encoded.input_ids], device=device)
    labels = input_ids.masked_fill(~torch.tensor([encoded.supervised], device=device), IGNORED)
    was_training = model.projection.training
    model.eval()
    mask = torch.ones_like(input_ids)
    loss, count = model(input_ids=input_ids, labels=labels, attention_mask=mask, queries=queries)
    model.train(was_training)
    name = precision(model.language_model)
    return {
        "question": question,
        "answer": answer,
        "mean_log_probability": round(-loss.item() / int(count), 5),
        "num_tokens": int(count),
        "queries": [round(value, 5) for value in _summary(queries)],
        "dtype": name,
        "device": device.type,
        "tolerance": TOLERANCE[name],
    }


def _summary(queries: Tensor) -> list[float]:
    """The queries' root mean square r, then sums with fixed signs, each about r in size if the queries are noise."""
    flat = queries.float().flatten()
    places = torch.arange(len(flat), dtype=torch.int64)
    # Knuth's multiplicative hash: one bit of it a place and sum.
    signs = [((places * (2 * k + 1) * 2654435761 >> 16) & 1) * 2 - 1 for k in range(_SUMS)]
    return [flat.square().mean().sqrt().item(), *((flat * s).sum().item() / len(flat) ** 0.5 for s in signs)]


def check(model: Any, queries: Tensor | None, card: Mapping[str, Any], where: str) -> None:
    """Ask the loaded network for its checkpoint's known answer.

    Raises:
        KnownAnswerError: the answer is another one.
    """
    stored = card.get("known_answer")
    if not stored:
        print(
            f"note: {where} was saved without a known answer, so it cannot be told whether these are the weights "
            "it was trained with",
            file=sys.stderr,
        )
        return
    assert queries is not None
    found = measure(model, queries, card["template"], stored["question"], stored["answer"])
    tolerance = max(stored["tolerance"], found["tolerance"])
    before, now = stored["mean_log_probability"], found["mean_log_probability"]
    same_queries = _alike(stored["queries"], found["queries"])
    if math.isfinite(now) and abs(now - before) <= tolerance and same_queries:
        return
    suspects = (
        "the image encoder or the picture's transform is not the one this checkpoint was trained with"
        if not same_queries
        else "the language model, its tokenizer or chat template is not the one this checkpoint was trained with"
    )
    raise KnownAnswerError(
        f"{where}: fails its self-test: the known answer's mean log-probability is {now:.3f} here ({found['dtype']}) "
        f"and was {before:.3f} when it was saved ({stored['dtype']}; tolerance {tolerance:g}): {suspects}; "
        "fetch the weights that it names again"
    )


def _alike(one: list[float], other: list[float]) -> bool:
    return len(one) == len(other) and all(
        abs(a - b) <= QUERY_TOLERANCE * one[0] for a, b in zip(one, other, strict=True)
    )
