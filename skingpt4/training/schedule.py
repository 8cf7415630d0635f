"""The learning rate of each iteration."""

from __future__ import annotations

import math

from skingpt4.config.compat import OURS, Behaviour
from skingpt4.config.schema import OptimConfig


def learning_rate(iteration: int, optim: OptimConfig, behaviour: Behaviour = OURS) -> float:
    """Linear warm-up by iteration, then cosine counted from iteration 0, as in LAVIS.

    Args:
        iteration: from 0, over all epochs.
        optim: `warmup_lr`, `init_lr`, `min_lr`, `warmup_steps` and the run's length.
        behaviour: whether the warm-up restarts with each epoch.
    """
    if iteration < optim.warmup_steps:
        warm = iteration % optim.iters_per_epoch if behaviour.warmup_restarts else iteration
        return optim.warmup_lr + (optim.init_lr - optim.warmup_lr) * warm / optim.warmup_steps
    done = iteration / (optim.max_epoch * optim.iters_per_epoch)
    return optim.min_lr + (optim.init_lr - optim.min_lr) * 0.5 * (1.0 + math.cos(math.pi * done))
