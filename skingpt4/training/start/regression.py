"""Ridge regression from the vectors of a picture to its labels, in closed form."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from skingpt4.training.start.labels import Labels

RIDGE = 1e-2  # of the mean variance of the pictures' mean vectors, added to each
WITHIN = 0.03  # weight of what differs between the vectors of one picture, which all pass the same layer


def regress(vectors: Callable[[int], Tensor], labels: Labels) -> tuple[Tensor, Tensor]:
    """The linear map from a picture's vectors to its labels, fitted on their mean over the picture.

    All vectors of a picture pass one layer, and the language model reads all of them. So the mean of the mapped
    vectors shall be the labels (least squares), while what differs within a picture shall stay small. Concepts are
    fitted on the records whose concepts are known, diseases on those whose disease is known.

    Args:
        vectors: the vectors (q, d) of the picture of a row.
        labels: of the same rows.

    Returns:
        weight (labels, d) and bias (labels,), fp64.
    """
    parts = [
        _fit(vectors, rows, labels.values[rows, columns].double())
        for rows, columns in zip(labels.known, labels.kinds, strict=True)
        if len(rows)
    ]
    return torch.cat([weight for weight, _ in parts]), torch.cat([bias for _, bias in parts])


def _fit(vectors: Callable[[int], Tensor], rows: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Weight (labels, d) and bias (labels,) from some rows and the values (rows, labels) of their labels."""
    means, within = [], torch.zeros(())
    for row in rows.tolist():
        of_picture = vectors(row).double()  # (q, d)
        means.append(of_picture.mean(0))
        rest = of_picture - means[-1]
        within = within + rest.T @ rest / len(rest)
    x = torch.stack(means)  # (rows, d)
    x_mean, value_mean = x.mean(0), values.mean(0)
    x = x - x_mean
    covariance = x.T @ x / len(x)
    ridge = RIDGE * covariance.diagonal().mean() * torch.eye(x.shape[1], dtype=x.dtype)
    products = x.T @ (values - value_mean) / len(x)  # (d, labels)
    weight = torch.linalg.solve(covariance + WITHIN * within / len(rows) + ridge, products).T
    return weight, value_mean - weight @ x_mean
