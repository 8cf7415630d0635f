"""A self-test: what the complete network makes of one fixed image, stored with a checkpoint and computed again.

Shapes, names and vocabularies can all fit while the weights are those of another model, which loads and answers
nonsense. So a checkpoint stores the mean log-probability of a short fixed answer, and a summary of the image's
queries, when it is saved; loading it computes both again, in one forward pass.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from skingpt4.model.language import LanguageModel
from skingpt4.model.prompts import IGNORED, Turn, encode_turns, get_template
from skingpt4.records.images import to_tensor
from skingpt4.support.errors import UserError

logger = logging.getLogger(__name__)

QUESTION, ANSWER = "What is wrong with my skin?", "This could be a skin disease image of psoriasis."
# The largest difference that counts as rounding, in nats a token, and as a fraction of the queries' own size.
# docs/known_answer.md has the measurements and the margin over them.
TOLERANCE = {"float32": 0.05, "bfloat16": 0.15, "float16": 0.05, "quantised": 1.0}
QUERY_TOLERANCE = 0.4
_SUMS = 16  # numbers that summarise the queries


class KnownAnswerError(UserError):
    """The network does not give the stored answer; the message has both and the likely cause."""


def image() -> Image.Image:
    """The fixed image, 256 x 256: a dark blot with a scaly edge on a shaded ground, computed in integers."""
    y, x = np.mgrid[0:256, 0:256]
    distance = (x - 120) ** 2 + (y - 136) ** 2
    blot = np.where(distance < 70**2, 60 + (x * 3 + y * 5) % 24, 0)
    rim = np.where(abs(distance - 70**2) < 900, 40, 0)
    shade = x // 8 + y // 16
    channels = (214 - shade - blot // 2 + rim, 170 - shade - blot + rim, 148 - shade - blot + rim)
    return Image.fromarray(np.stack(channels, -1).clip(0, 255).astype(np.uint8))


def queries_of(encoder: Any, image_size: int, crops: int = 1) -> Tensor:
    """Queries (1, q, d) fp32, on the CPU, that an `ImageEncoder` makes of the fixed image (and its tiles)."""
    vision = encoder.vision_encoder
    pixels = to_tensor(image(), image_size, vision.mean, vision.std, None, crops, vision.interpolation)
    return encoder(pixels[None]).cpu()


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
        model: the network; LoRA's dropout is off meanwhile.
        queries: (1, q, d), of the fixed image.
        template: the prompt template's name.
        question: of the user.
        answer: whose probability is computed, with its end symbol.

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
    positions = torch.arange(len(flat), dtype=torch.int64)
    # Knuth's multiplicative hash gives one bit for each position and sum.
    signs = [((positions * (2 * k + 1) * 2654435761 >> 16) & 1) * 2 - 1 for k in range(_SUMS)]
    return [flat.square().mean().sqrt().item(), *((flat * s).sum().item() / len(flat) ** 0.5 for s in signs)]


def check(model: Any, queries: Tensor | None, card: Mapping[str, Any], where: str) -> None:
    """Compare the loaded network with its checkpoint's known answer.

    Raises:
        KnownAnswerError: they differ by more than rounding.
    """
    stored = card.get("known_answer")
    if not stored:
        logger.warning(
            "note: %s was saved without a known answer, so whether these are the weights it was trained with "
            "cannot be checked", where,
        )  # fmt: skip
        return
    assert queries is not None
    measured = measure(model, queries, card["template"], stored["question"], stored["answer"])
    tolerance = max(stored["tolerance"], measured["tolerance"])
    before, now = stored["mean_log_probability"], measured["mean_log_probability"]
    same_queries = _are_close(stored["queries"], measured["queries"])
    if math.isfinite(now) and abs(now - before) <= tolerance and same_queries:
        return
    suspects = (
        "the image encoder or the image transform is not the one this checkpoint was trained with"
        if not same_queries
        else "the language model, its tokenizer or chat template is not the one this checkpoint was trained with"
    )
    raise KnownAnswerError(
        f"{where}: fails its self-test: the known answer's mean log-probability is {now:.3f} here "
        f"({measured['dtype']}) and was {before:.3f} when it was saved ({stored['dtype']}; tolerance {tolerance:g}): "
        f"{suspects}; fetch the weights that it names again"
    )


def _are_close(one: list[float], other: list[float]) -> bool:
    return len(one) == len(other) and all(
        abs(a - b) <= QUERY_TOLERANCE * one[0] for a, b in zip(one, other, strict=True)
    )
