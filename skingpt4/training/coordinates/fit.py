"""The coordinates in which a projection is trained (`projection.inputs`), from cached features and their labels."""

from __future__ import annotations

from collections.abc import Sequence

from skingpt4.config.schema import Config
from skingpt4.model.projection import InputMap, input_map
from skingpt4.records.feature_store import FeatureStore
from skingpt4.records.manifest import Manifest
from skingpt4.records.record import RecordError
from skingpt4.training.coordinates.labels import labels_of
from skingpt4.training.coordinates.regression import discriminants
from skingpt4.training.features import cached_images, moments


def fit_coordinates(features: Sequence[FeatureStore], records: Manifest, config: Config) -> InputMap:
    """The map of `projection.inputs`.

    Args:
        features: cached, of each training manifest.
        records: of the training manifests, in the features' order.
        config: of the run; its prompt says which labels are taught.

    Raises:
        RecordError: `discriminants` are asked for, and no record has a label that the step teaches.
    """
    mean, covariance = moments(features)
    if config.projection.inputs != "discriminants":
        return input_map(config.projection.inputs, mean, covariance)
    labels = labels_of(records, config.prompt)
    load = cached_images(*features)
    weight = discriminants(lambda row: load(row, None)["queries"], labels)[0] if labels.names else None
    if weight is None or not weight.any():
        raise RecordError(
            f"projection.inputs: discriminants needs labels, and the {len(records)} records have no two concepts "
            "or diseases that this step teaches; add them to the manifest, or set projection.inputs: "
            "standardised"
        )
    return input_map("discriminants", mean, covariance, weight)
