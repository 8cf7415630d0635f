"""What the network holds of an image on its way into the language model, stage by stage, as features for probes.

    tokens          of the vision encoder: class token and a grid of pooled patches
    queries         of the Q-Former (or the pooled tokens that a projector without one reads)
    projection      the vectors that take the picture's place in the prompt
    language_model  the last layer's state where the disease would be named

A label that a probe reads at one stage and not at the next one was lost between them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from skingpt4.config.schema import Config
from skingpt4.generation.questions import class_sentences, scored_diseases
from skingpt4.generation.scoring import split_candidates
from skingpt4.model.network import ImageEncoder, SkinGPT4, pad_left
from skingpt4.model.precision import half_precision
from skingpt4.model.projection import picture_shape
from skingpt4.model.prompts import Turn, encode_turns, get_template
from skingpt4.records.images import open_image, to_tensor
from skingpt4.records.record import Record
from skingpt4.support.errors import UserError

STAGES = ("tokens", "queries", "projection", "language_model")
GRID = 4  # pooled patches a side of the stage tokens
BATCH = 8


class StageError(UserError):
    """Stages that do not exist, or cannot be compared on these records; the message says why and what to do."""


def chosen_stages(names: Sequence[str]) -> tuple[str, ...]:
    """Some of STAGES in their order; `all` means all.

    Raises:
        StageError: there is no such stage.
    """
    if unknown := [name for name in names if name not in (*STAGES, "all")]:
        raise StageError(f"--stage {unknown[0]}: choose all, or some of {', '.join(STAGES)}")
    return STAGES if "all" in names else tuple(stage for stage in STAGES if stage in names)


def needs_model(stages: Sequence[str]) -> bool:
    """Whether one of the stages lies behind the projection, so that the image encoder alone is not enough."""
    return bool({"projection", "language_model"} & set(stages))


def answer_prompt(model: SkinGPT4, config: Config) -> list[int]:
    """Token ids of the first question with the answer up to where the disease would be named.

    Of a step that teaches no disease: up to where the answer begins.
    """
    num_vectors = picture_shape(config).num_vectors
    template = get_template(config.prompt.template)
    turns = [Turn(config.prompt.questions[0], None, num_images=1)]
    ids = encode_turns(template, turns, model.tokenizer, num_vectors).input_ids
    if not config.prompt.use_disease:
        return list(ids)
    sentences = class_sentences(config.prompt.disease_sentence, scored_diseases([]))
    return [*ids, *split_candidates(model.tokenizer, sentences)[0]]


def image_batches(encoder: ImageEncoder, config: Config, records: Sequence[Record]) -> Iterator[Tensor]:
    """The complete images of records in their order, BATCH at a time: (b, 3, h, w), or (b, c, 3, h, w) with crops.

    Raises:
        ImageError: an image cannot be read.
    """
    vision, size, crops = encoder.vision_encoder, config.vision.image_size, config.vision.crops
    for start in range(0, len(records), BATCH):
        paths = [records[row].image_path for row in range(start, min(start + BATCH, len(records)))]
        yield torch.stack([
            to_tensor(open_image(path), size, vision.mean, vision.std, crops=crops,
                      interpolation=vision.interpolation)
            for path in paths
        ])  # fmt: skip


@torch.no_grad()
def stage_features(
    encoder: ImageEncoder,
    config: Config,
    records: Sequence[Record],
    stages: Sequence[str],
    model: SkinGPT4 | None = None,
    on_progress: Callable[[int], None] = lambda count: None,
) -> dict[str, np.ndarray]:
    """Features (n, d) fp32 of each stage.

    Args:
        encoder: the image encoder.
        config: of the network.
        records: whose complete images are shown.
        stages: which of STAGES; what none of them needs is not computed.
        model: the network, for `projection` and `language_model`.
        on_progress: called with the number of images after each batch.

    Raises:
        ImageError: an image cannot be read.
    """
    prompt = answer_prompt(model, config) if model and "language_model" in stages else []
    parts: dict[str, list[np.ndarray]] = {stage: [] for stage in stages}
    for images in image_batches(encoder, config, records):
        for stage, features in _of_images(encoder, images, stages, model, prompt).items():
            if stage in parts:
                parts[stage].append(features.flatten(1).float().cpu().numpy())
        on_progress(len(images))
    return {stage: np.concatenate(rows) for stage, rows in parts.items()}


def _of_images(
    encoder: ImageEncoder,
    images: Tensor,
    stages: Sequence[str],
    model: SkinGPT4 | None,
    prompt: Sequence[int],
) -> dict[str, Tensor]:
    """The features of a batch of images (b, 3, h, w), or of several crops of each (b, c, 3, h, w)."""
    device = next(encoder.parameters()).device
    with half_precision(device, encoder.precision):
        crops = images.flatten(0, 1) if images.dim() == 5 else images
        tokens = encoder.vision_encoder(crops.to(device))  # (b * c, t, d)
        queries = encoder.qformer(tokens).float()  # (b * c, q, d)
    features = {"tokens": pool_tokens(tokens.float(), encoder.vision_encoder.num_prefix), "queries": queries}
    features = {stage: f.unflatten(0, (len(images), -1)).flatten(1, 2) for stage, f in features.items()}
    queries = features["queries"]  # (b, q, d) of all crops
    if model and "projection" in stages:
        seen = queries if model.input_map is None else model.input_map(queries)
        features["projection"] = model.projection(seen)
    if model and "language_model" in stages:
        ids, mask = pad_left([prompt] * len(images))
        embeds = model.embed(ids, queries)
        features["language_model"] = model.language_model.hidden_states(embeds, mask.to(embeds.device))[:, -1]
    return features


def pool_tokens(tokens: Tensor, num_prefix: int) -> Tensor:
    """Class token, if there is one, and GRID x GRID means of the patches: (b, t, d) -> (b, vectors, d)."""
    prefix, patches = tokens[:, :num_prefix], tokens[:, num_prefix:]
    side = math.isqrt(patches.shape[1])
    if side**2 != patches.shape[1]:  # on no square grid
        return torch.cat([prefix, patches.mean(1, keepdim=True)], dim=1)
    grid = patches.transpose(1, 2).unflatten(2, (side, side))
    pooled = F.adaptive_avg_pool2d(grid, min(side, GRID)).flatten(2).transpose(1, 2)
    return torch.cat([prefix, pooled], dim=1)
