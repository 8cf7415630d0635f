"""What values a configuration may have; a refusal names the key, the value and what would be right."""

from __future__ import annotations

import difflib
import functools
from typing import Any

from skingpt4.config import placement
from skingpt4.config.compat import BEHAVIOURS
from skingpt4.config.schema import DTYPES, Config, ConfigError

STEPS = ("step1", "step2", "none")
# Backends, each with the keys whose only value fits it: LAVIS has EVA-ViT-g with ln_vision alone.
BACKENDS: dict[str, tuple[tuple[str, Any], ...]] = {
    "native": (),
    "lavis": (
        ("vision.model", "eva_giant_patch14_clip_224"),
        ("vision.block", None),
        ("vision.norm", True),
        ("vision.norm_eps", 1e-5),
    ),
}
BATCHINGS = ("auto", "padded", "grouped", "packed")
POSITIVE = (
    "optim.max_epoch", "optim.iters_per_epoch", "optim.batch_size", "optim.accumulation", "optim.init_lr",
    "data.max_text_tokens", "data.group_tokens", "data.feature_views", "vision.image_size",
    "qformer.num_query_tokens", "qformer.width", "qformer.num_layers", "qformer.num_heads",
    "qformer.cross_attention_every", "log.every", "log.keep_checkpoints",
)  # fmt: skip


def _check_values(config: Config, where: str) -> None:
    choices = {
        "step": (config.step, STEPS),
        "language.dtype": (config.language.dtype, DTYPES),
        "encoder.backend": (config.encoder.backend, tuple(BACKENDS)),
        "compat": (config.compat, tuple(BEHAVIOURS)),
        "encoder.dtype": (config.encoder.dtype, DTYPES),
        "language.attention": (config.language.attention, placement.ATTENTIONS),
        "data.feature_dtype": (config.data.feature_dtype, ("float16", "bfloat16")),
        "data.batching": (config.data.batching, BATCHINGS),
        "language.quantization": (config.language.quantization, placement.QUANTIZATIONS),
        "language.logits": (config.language.logits, ("supervised", "all")),
        "language.compile": (config.language.compile, ("auto", "always", "never")),
    }
    for key, (chosen, allowed) in choices.items():
        if chosen not in allowed:
            near = difflib.get_close_matches(chosen, allowed, n=1, cutoff=0.5)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise ConfigError(f"{where}: '{key}' is {chosen!r}; choose one of {', '.join(allowed)}{hint}")
    language = config.language
    problem = placement.encoder_problem(config.encoder.device) or placement.problem(
        language.device_map, language.max_memory, language.offload_dir
    )
    if problem:
        raise ConfigError(f"{where}: {problem}")
    for key in POSITIVE:
        value = _value_at(config, key)
        if not value > 0:
            raise ConfigError(f"{where}: '{key}' is {value}; it must be above 0")
    _check_needs(config, where, f"'compat' {config.compat}", BEHAVIOURS[config.compat].needs)
    backend = config.encoder.backend
    _check_needs(config, where, f"'encoder.backend' {backend}", BACKENDS[backend])
    if not config.prompt.questions:
        raise ConfigError(f"{where}: 'prompt.questions' is empty; give at least one")
    for key, name in (("concepts_sentence", "concepts"), ("disease_sentence", "disease")):
        try:
            getattr(config.prompt, key).format(**{name: ""})
        except (KeyError, IndexError, ValueError):
            raise ConfigError(f"{where}: 'prompt.{key}' may hold no placeholder but {{{name}}}") from None
    optim, vision = config.optim, config.vision
    if not (optim.max_grad_norm > 0 and 0 <= optim.beta1 < 1 and 0 <= optim.beta2 < 1):
        raise ConfigError(
            f"{where}: 'optim': max_grad_norm must be above 0, beta1 and beta2 in 0..1, below 1"
        )
    if config.lora.rank < 0 or config.lora.alpha <= 0 or not 0 <= config.lora.dropout < 1:
        raise ConfigError(
            f"{where}: 'lora': rank must be 0 (off) or more, alpha above 0, dropout in 0..1, below 1"
        )
    if any(values is not None and len(values) != 3 for values in (vision.mean, vision.std)):
        raise ConfigError(f"{where}: 'vision.mean' and 'vision.std' have three values, one a channel")
    data = config.data
    if data.augment and data.feature_cache and data.feature_views == 1:
        raise ConfigError(
            f"{where}: 'data.augment' and 'data.feature_cache' exclude each other while 'data.feature_views' is 1: "
            "kept features then show one view of a picture"
        )
    if data.feature_views > 1 and not (data.augment and data.feature_cache):
        raise ConfigError(
            f"{where}: 'data.feature_views' above 1 keeps random crops; it needs 'data.augment' and "
            "'data.feature_cache'"
        )
    if not 0 <= config.prompt.concepts_share <= 1:
        raise ConfigError(f"{where}: 'prompt.concepts_share' must lie in 0..1")
    counts: dict[str, float] = {
        "data.num_workers": config.data.num_workers,
        "language.loss_chunk_mb": config.language.loss_chunk_mb,
        "optim.weight_decay": optim.weight_decay,
        "seed": config.seed,
        "log.validation_samples": config.log.validation_samples,
    }
    for key, count in counts.items():
        if count < 0:
            raise ConfigError(f"{where}: '{key}' is {count}; it must not be negative")
    if config.qformer.width % config.qformer.num_heads:
        raise ConfigError(
            f"{where}: 'qformer.width' ({config.qformer.width}) must be a multiple of "
            f"'qformer.num_heads' ({config.qformer.num_heads})"
        )


def _check_needs(config: Config, where: str, who: str, needs: tuple[tuple[str, Any], ...]) -> None:
    for key, wanted in needs:
        value = _value_at(config, key)
        if value != wanted:
            shown = "null" if wanted is None else str(wanted).lower()
            raise ConfigError(f"{where}: {who} needs {key}: {shown}, found {value!r}")


def _value_at(config: Config, key: str) -> Any:
    return functools.reduce(getattr, key.split("."), config)
