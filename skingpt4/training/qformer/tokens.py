"""The backbone's tokens of every image of a manifest: computed once, cached on disk, continued after a stop."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from skingpt4.config.schema import Config
from skingpt4.model.encoders.encoder import VisionEncoder
from skingpt4.model.network import ImageEncoder
from skingpt4.records.feature_store import FeatureStore
from skingpt4.records.record import Record
from skingpt4.training.features import cached_queries


def cached_tokens(
    manifest: Path,
    records: Sequence[Record],
    config: Config,
    vision: VisionEncoder,
    cache: Path,
    views: int = 1,
) -> FeatureStore:
    """The tokens (t, d) fp16 of a manifest's images, as the feature cache stores queries.

    Args:
        manifest: the file that `records` were read from.
        records: its records.
        config: names the backbone; what it says about the Q-Former is not used.
        vision: the backbone with its weights.
        cache: folder of all stores.
        views: 1 caches complete images, more that many random crops of each.

    Raises:
        FeatureError: the disk is too small or read-only, or the store is damaged.
        ImageError: an image cannot be read.
    """
    config = copy.deepcopy(config)
    config.qformer.weights, config.qformer.num_query_tokens = None, vision.num_tokens
    config.qformer.width = vision.width
    unchanged: Any = nn.Identity()  # in the place of a Q-Former
    encoder = ImageEncoder(vision, unchanged, config.encoder.dtype)
    return cached_queries(manifest, records, config, cache, lambda: encoder, views)
