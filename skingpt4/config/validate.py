"""Refuses values that a configuration may not have.

Rules for a single value are at its field in the schema; rules about several values are functions here. A refusal
names the key, the value and what would be right.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

from skingpt4.config.compat import BEHAVIOURS
from skingpt4.config.placement import placement_problem
from skingpt4.config.schema import Config, ConfigError

# LAVIS has EVA-ViT-g with ln_vision only, so `encoder.backend: lavis` needs these values.
LAVIS_NEEDS: tuple[tuple[str, Any], ...] = (
    ("vision.model", "eva_giant_patch14_clip_224"),
    ("vision.block", None),
    ("vision.norm", True),
    ("vision.norm_eps", 1e-5),
    ("projector", "qformer"),
)


def check_values(config: Config, where: str) -> None:
    """Refuse the first value, or combination of values, that breaks a rule.

    Args:
        config: the complete configuration.
        where: the file that an error names.

    Raises:
        ConfigError: says which key, and what would be right.
    """
    problem = next(_field_problems(config), None)
    for cross_check in CROSS_CHECKS:
        problem = problem or cross_check(config)
    if problem:
        raise ConfigError(f"{where}: {problem}")


def _field_problems(group: Any, prefix: str = "") -> Iterator[str]:
    for field in dataclasses.fields(group):
        value = getattr(group, field.name)
        if dataclasses.is_dataclass(value):
            yield from _field_problems(value, f"{prefix}{field.name}.")
        elif "rule" in field.metadata and (problem := field.metadata["rule"](value)):
            yield f"'{prefix}{field.name}' is {value!r}; {problem}"


def _placement(config: Config) -> str | None:
    language = config.language
    return placement_problem(language.device_map, language.max_memory, language.offload_dir)


def _compat_needs(config: Config) -> str | None:
    return _unmet(config, f"'compat' {config.compat}", BEHAVIOURS[config.compat].needs)


def _lavis_needs(config: Config) -> str | None:
    backend = config.encoder.backend
    return _unmet(config, f"'encoder.backend' {backend}", LAVIS_NEEDS) if backend == "lavis" else None


def _unmet(config: Config, who: str, needs: tuple[tuple[str, Any], ...]) -> str | None:
    for key, required in needs:
        value = functools.reduce(getattr, key.split("."), config)
        if value != required:
            shown = "null" if required is None else str(required).lower()
            return f"{who} needs {key}: {shown}, found {value!r}"
    return None


def _augmented_cache(config: Config) -> str | None:
    data = config.data
    if data.augment and data.feature_cache and data.feature_views == 1:
        return (
            "'data.augment' and 'data.feature_cache' exclude each other while 'data.feature_views' is 1: "
            "cached features then show one view of an image"
        )
    if data.feature_views > 1 and not (data.augment and data.feature_cache):
        return "'data.feature_views' above 1 keeps random crops; it needs 'data.augment' and 'data.feature_cache'"
    return None


def _attention_heads(config: Config) -> str | None:
    qformer = config.qformer
    if qformer.width % qformer.num_heads == 0:
        return None
    return (
        f"'qformer.width' ({qformer.width}) must be a multiple of 'qformer.num_heads' ({qformer.num_heads})"
    )


def _something_to_train(config: Config) -> str | None:
    if "projection" in config.freeze and not config.lora.rank:
        return (
            "'freeze' names projection, so there is nothing to train; set lora.rank, or leave projection out"
        )
    return None


def training_problem(config: Config) -> str | None:
    """What stops a training run of a configuration with which a checkpoint may be loaded; None if nothing does."""
    if config.step == "dpo" and (problem := _preference_problem(config)):
        return problem
    if config.projection.inputs != "raw" and not config.data.feature_cache:
        return (
            f"'projection.inputs' {config.projection.inputs} takes its statistics from cached features; "
            "set 'data.feature_cache', or projection.inputs: raw"
        )
    return None


def _preference_problem(config: Config) -> str | None:
    if not config.initial_checkpoint:
        return "step dpo goes on from a trained model; name it in 'initial_checkpoint'"
    if not config.data.feature_cache or config.data.feature_views > 1:
        return (
            "step dpo compares with the model at its start on the same pictures; set 'data.feature_cache' and "
            "data.augment: false (there the start's log-probabilities are saved too)"
        )
    unfit = {
        "data.sampling": config.data.sampling != "uniform",
        "optim.disease_weight": config.optim.disease_weight != 1,
        "optim.class_weight": config.optim.class_weight != "none",
        "compat": config.compat != "none",
        "prompt.bare": config.prompt.bare,
        "prompt.use_turns": not config.prompt.use_turns,
    }
    named = [key for key, is_unfit in unfit.items() if is_unfit]
    return (
        f"step dpo trains on pairs of dialogues; leave {', '.join(named)} at the default" if named else None
    )


CROSS_CHECKS = (
    _placement,
    _compat_needs,
    _lavis_needs,
    _augmented_cache,
    _attention_heads,
    _something_to_train,
)
