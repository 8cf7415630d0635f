"""The coordinates in which a projection is trained (`projection.inputs`), from cached features and their labels."""

from __future__ import annotations

from collections.abc import Sequence

from skingpt4.config.schema import Config
from skingpt4.model.projection import InputMap, discriminant_map, input_map
from skingpt4.records.feature_store import FeatureStore
from skingpt4.records.manifest import Manifest
from skingpt4.training.coordinates.labels import require_labels
from skingpt4.training.coordinates.regression import discriminants
from skingpt4.training.features import cached_images, moments


def fit_coordinates(features: Sequence[FeatureStore], records: Manifest, config: Config) -> InputMap:
    """The map of `projection.inputs`.

    Args:
        features: cached, of each training manifest.
        records: of the training manifests, in the features' order.
        config: of the run; its prompt says which labels are taught.

    Raises:
        RecordError: `discriminants` are asked for, and no label that the step teaches tells records apart.
    """
    mean, covariance = moments(features)
    if config.projection.inputs != "discriminants":
        return input_map(config.projection.inputs, mean, covariance)
    load = cached_images(*features)
    labels = require_labels(records, config.prompt)
    weight, _ = discriminants(lambda row: load(row, None)["queries"], labels)
    return discriminant_map(mean, covariance, weight)
