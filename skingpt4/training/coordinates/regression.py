"""Logistic regression from the vectors of a picture to its labels."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from skingpt4.records.manifest import evenly_spread
from skingpt4.training.coordinates.labels import Labels

RIDGE = 1e-2  # of the mean variance of the pictures' mean vectors, added to each
WITHIN = 0.03  # weight of what differs between the vectors of one picture, which all pass the same layer
STRENGTH = 0.03  # scikit-learn's C
MAX_RECORDS, MAX_PASSES = 20_000, 200


def discriminants(vectors: Callable[[int], Tensor], labels: Labels) -> tuple[Tensor, Tensor]:
    """The linear map from a picture's vectors to the log-odds of its labels, fitted on their mean over the picture.

    All vectors of a picture pass one layer, and the language model reads all of them. So the mean of the mapped
    vectors shall say the labels, while what differs within a picture shall stay small: the vectors are first put in
    coordinates in which every direction of both has variance 1. Diseases exclude each other (multinomial), concepts
    do not; each are fitted on the records of which they are known, of many on MAX_RECORDS evenly spread.

    Args:
        vectors: the vectors (q, d) of the picture of a row.
        labels: of the same rows.

    Returns:
        weight (labels, d) and centre (d,), fp64: the log-odds are weight (x - centre), but for a constant each.
    """
    rows = torch.cat(labels.known).unique()
    rows = rows[torch.from_numpy(evenly_spread(len(rows), MAX_RECORDS))]
    means, within = [], torch.zeros(())
    for row in rows.tolist():
        of_picture = vectors(row).double()  # (q, d)
        means.append(of_picture.mean(0))
        rest = of_picture - means[-1]
        within = within + rest.T @ rest / len(rest)
    x = torch.stack(means)  # (rows, d)
    centre = x.mean(0)
    x = x - centre
    covariance = x.T @ x / len(x)
    ridge = RIDGE * covariance.diagonal().mean() * torch.eye(x.shape[1], dtype=x.dtype)
    values, directions = torch.linalg.eigh(covariance + WITHIN * within / len(rows) + ridge)
    whitening = directions * values.rsqrt() @ directions.T  # (d, d)
    z = x @ whitening
    of_concepts, of_diseases = (torch.isin(rows, known) for known in labels.known)
    taught = labels.values[rows]
    concepts, diseases = (taught[known][:, kind] for known, kind in
                          zip((of_concepts, of_diseases), labels.kinds, strict=True))  # fmt: skip
    weight = torch.cat([_of_concepts(z[of_concepts], concepts), _of_diseases(z[of_diseases], diseases)])
    return weight @ whitening, centre


def _of_concepts(z: Tensor, present: Tensor) -> Tensor:
    """(concepts, d) log-odds, each concept against its absence."""
    weights = torch.zeros(present.shape[1], z.shape[1], dtype=z.dtype)
    for column, values in enumerate(present.T.bool()):
        if 0 < int(values.sum()) < len(values):
            weights[column] = _fit(z, values.numpy())[0]
    return weights


def _of_diseases(z: Tensor, one_hot: Tensor) -> Tensor:
    """(diseases, d) log-odds of one disease among all."""
    weights = torch.zeros(one_hot.shape[1], z.shape[1], dtype=z.dtype)
    if not len(z):
        return weights
    numbers = one_hot.argmax(1).numpy()
    seen = np.unique(numbers)
    if len(seen) > 1:
        fitted = _fit(z, numbers)
        weights[seen] = torch.cat([-fitted, fitted]) / 2 if len(seen) == 2 else fitted
    return weights


def _fit(z: Tensor, values: np.ndarray) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # near enough for coordinates
        return torch.from_numpy(LogisticRegression(C=STRENGTH, max_iter=MAX_PASSES).fit(z, values).coef_)
