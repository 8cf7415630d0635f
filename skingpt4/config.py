"""Typed configuration: YAML files that may extend each other, overrides ``key=value``, clear refusals."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from skingpt4 import placement
from skingpt4.catalogue import fetch_command
from skingpt4.compat import BEHAVIOURS
from skingpt4.errors import UserError


class ConfigError(UserError):
    """A configuration that cannot be used; the message says what, where and what to do."""


@dataclass
class VisionConfig:
    """The frozen vision encoder, any timm backbone. `block` counts from 1; null takes the last one."""

    model: str = "eva_giant_patch14_clip_224"
    model_args: dict[str, Any] = field(default_factory=dict)
    weights: str | None = None
    image_size: int = 224
    block: int | None = None
    norm: bool = True
    norm_eps: float | None = None
    mean: list[float] | None = None
    std: list[float] | None = None


@dataclass
class QFormerConfig:
    """The frozen Q-Former: its size and weights (ours, or a LAVIS `.pth`)."""

    weights: str | None = None
    num_query_tokens: int = 32
    width: int = 768
    num_layers: int = 12
    num_heads: int = 12
    intermediate_width: int = 3072
    cross_attention_every: int = 2


@dataclass
class EncoderConfig:
    """How vision encoder and Q-Former are run. `backend`: our modules (native) or LAVIS's (lavis).

    `device` auto is the run's own, else e.g. cpu or cuda:1. `dtype` auto keeps fp32 weights and computes in the
    half precision that the device is fast in; a name computes in that one.
    """

    backend: str = "native"
    device: str = "auto"
    dtype: str = "auto"


@dataclass
class LanguageConfig:
    """The frozen language model: a local directory or a hub name, its precision and where it stands.

    `quantization` keeps its matrices in fewer bits: int8 and nf4 are bitsandbytes', torchao_int8 is torchao's
    weight-only form. `device_map` is null (one device), a rule (auto, balanced, balanced_low_0, sequential),
    a device (cpu, cuda:1), or a mapping of module names to devices or `disk`. `max_memory` bounds the rules
    (``{cuda:0: 20GiB, cpu: 60GiB}``); `offload_dir` takes what is sent to the disk. `loss_chunk_mb` bounds the logits
    that stand in memory at once in training (0: all), `logits` takes them at the supervised positions or at all.
    `compile` has torch compile the layers for training (auto: where it was measured to pay, see `compiled`).
    `cuda_graphs` records a token of the running answers on a GPU and repeats it (see `graphs`).
    """

    model: str = MISSING
    dtype: str = "auto"
    attention: str = "auto"
    quantization: str = "none"
    device_map: Any = None
    max_memory: dict[str, Any] = field(default_factory=dict)
    offload_dir: str | None = None
    loss_chunk_mb: int = 32
    logits: str = "supervised"
    compile: str = "auto"
    cuda_graphs: bool = False


@dataclass
class LoraConfig:
    """LoRA on the frozen language model; rank 0 switches it off. Empty `targets` take peft's for the family."""

    rank: int = 0
    alpha: float = 16.0
    dropout: float = 0.0
    targets: list[str] = field(default_factory=list)


@dataclass
class PromptConfig:
    """Template, questions (one is drawn per sample) and the sentences an answer is built from."""

    template: str = "vicuna"
    questions: list[str] = field(default_factory=lambda: ["What is wrong with my skin?"])
    concepts_sentence: str = (
        "This is a skin disease image with the following medical features (clinical concepts): {concepts}."
    )
    disease_sentence: str = "This could be a skin disease image of {disease}."
    # Rehearsal of step 1 in step 2: of the samples whose concepts are known, this share asks this question and
    # is answered with the concepts alone.
    concepts_question: str | None = None
    concepts_share: float = 0.5
    use_concepts: bool = True
    use_disease: bool = True
    use_note: bool = True
    use_turns: bool = (
        True  # a record with a dialogue of its own trains on that in place of the sentences above
    )
    # A claim about the records: first questions of their dialogues begin with a history as skingpt4/history.py words
    # it. The chat marks histories as not trained for without it; nothing that is computed depends on it.
    histories: bool = False


@dataclass
class DataConfig:
    """Manifests (JSONL), the length of a text, augmentation, and where features are kept (null: not kept).

    No record of `train` and `validation` may stand in a manifest of `evaluation`, unless `allow_overlap`. `batching`
    says how a batch is put together (see `skingpt4.batching`; nothing that is computed depends on it), `group_tokens`
    how long a group or a packed row may be. Features are kept in `feature_dtype`, of the whole picture where
    `feature_views` is 1, else of so many random crops, of which one is drawn a sample.
    """

    train: list[str] = field(default_factory=list)
    validation: list[str] = field(default_factory=list)
    evaluation: list[str] = field(default_factory=list)
    allow_overlap: bool = False
    max_text_tokens: int = 160
    augment: bool = True
    num_workers: int = 2
    batching: str = "auto"
    group_tokens: int = 384
    feature_cache: str | None = None
    feature_views: int = 1
    feature_dtype: str = "float16"


@dataclass
class OptimConfig:
    """AdamW with linear warm-up by iteration, then cosine (counted from iteration 0) to `min_lr`."""

    max_epoch: int = 20
    iters_per_epoch: int = 5000
    warmup_steps: int = 5000
    batch_size: int = 2
    accumulation: int = 1
    init_lr: float = 1e-4
    min_lr: float = 1e-5
    warmup_lr: float = 1e-6
    weight_decay: float = 0.05
    beta1: float = 0.9
    beta2: float = 0.999
    max_grad_norm: float = 1.0


@dataclass
class LogConfig:
    """How often to print, validate and save; intervals are iterations, 0 means only at an epoch's end."""

    every: int = 10
    validate_every: int = 0
    validation_samples: int = 64
    checkpoint_every: int = 0
    keep_checkpoints: int = 2
    tensorboard: bool = True


@dataclass
class Config:
    """One run. `step` is step1 (concepts), step2 (diagnoses), or none (a chat with untrained projection).

    `compat` minigpt4 trains and chats as the original code does, see docs/parity.md.
    """

    step: str = MISSING
    output_dir: str = MISSING
    initial_checkpoint: str | None = None
    compat: str = "none"
    seed: int = 42
    vision: VisionConfig = field(default_factory=VisionConfig)
    qformer: QFormerConfig = field(default_factory=QFormerConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    language: LanguageConfig = field(default_factory=LanguageConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    log: LogConfig = field(default_factory=LogConfig)


class _Loader(yaml.SafeLoader):
    """YAML's safe loader that reads 1e-6 as a number, as YAML 1.2 does (1.1 wants 1.0e-6)."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)

LOCAL = (".", "/", "weights/", "runs/")  # what makes a language model's name a path, not a hub id
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
DTYPES = ("auto", "float32", "bfloat16", "float16")
POSITIVE = (
    "optim.max_epoch", "optim.iters_per_epoch", "optim.batch_size", "optim.accumulation", "optim.init_lr",
    "data.max_text_tokens", "data.group_tokens", "data.feature_views", "vision.image_size",
    "qformer.num_query_tokens", "qformer.width", "qformer.num_layers", "qformer.num_heads",
    "qformer.cross_attention_every", "log.every", "log.keep_checkpoints",
)  # fmt: skip


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file with everything it extends, apply overrides, and return the resolved `Config`.

    Args:
        path: a YAML file; its `extends` (a name or a list) is relative to the file itself.
        overrides: `key=value` strings, e.g. ``optim.batch_size=8``.

    Raises:
        ConfigError: unknown key, wrong type, missing value, circular `extends`, unreadable file.
    """
    merged = OmegaConf.structured(Config)
    for source, layer in _layers(Path(path), ()):
        _check_keys(layer, Config, str(source), "")
        merged = _merge(merged, layer, str(source))
    for text in overrides:
        key, sign, _ = text.partition("=")
        if not sign or not key:
            raise ConfigError(f"override {text!r}: write it as key=value, e.g. optim.batch_size=8")
        try:
            values: Any = _string_keys(OmegaConf.to_container(OmegaConf.from_dotlist([text])))
        except (OmegaConfBaseException, yaml.YAMLError) as error:
            raise ConfigError(f"override {text!r}: {_first_line(error)}") from None
        _check_keys(values, Config, f"override {text!r}", "")
        merged = _merge(merged, values, f"override {text!r}")
    return _finished(merged, str(path))


def _finished(merged: Any, where: str) -> Config:
    try:
        config = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{where}: {_first_line(error)}") from None
    assert isinstance(config, Config)
    _check_values(config, where)
    return config


def to_yaml(config: Config) -> str:
    """The resolved configuration as YAML text that `load_config` reads back to an equal object."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def to_dict(config: Config) -> dict[str, Any]:
    """The resolved configuration as plain nested dicts, as a checkpoint stores it."""
    return dataclasses.asdict(config)


def from_dict(values: dict[str, Any], where: str) -> Config:
    """The inverse of `to_dict`; `where` names the file in an error.

    Raises:
        ConfigError: the values do not fit the present configuration.
    """
    _check_keys(values, Config, where, "")
    return _finished(_merge(OmegaConf.structured(Config), values, where), where)


def missing_paths(config: Config, for_training: bool = True) -> list[str]:
    """One line for each file that the configuration names and that is not there (all of them at once)."""
    wanted = [("vision.weights", config.vision.weights), ("qformer.weights", config.qformer.weights)]
    if for_training:
        wanted += [("data.train", path) for path in config.data.train]
        wanted += [("data.validation", path) for path in config.data.validation]
        wanted += [("initial_checkpoint", config.initial_checkpoint)]
    # A language model may be a hub name such as lmsys/vicuna-7b-v1.5; only what looks like a path is checked.
    model = config.language.model
    if model.startswith(LOCAL):
        wanted.append(("language.model", model))
    return [
        f"{key}: {path} is not there{_hint(str(path))}"
        for key, path in wanted
        if path and not Path(path).exists()
    ]


def _hint(path: str) -> str:
    if path.startswith("weights/"):
        known = "python -m skingpt4.weights list shows what can be fetched; see docs/weights.md"
        return f" ({fetch_command(path) or known})"
    if path.startswith("runs/phantoms/"):
        return " (render it with python -m data.phantoms render, or run make quickstart)"
    return ""


def _layers(path: Path, above: tuple[Path, ...]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield (file, values) from the most basic to `path` itself."""
    if path.resolve() in above:
        raise ConfigError(f"{path}: extends itself through {' -> '.join(p.name for p in above)}")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        near = sorted(str(p) for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        raise ConfigError(f"{path}: no such config{_nearest(str(path), near)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is not valid YAML ({' '.join(str(error).split())})") from None
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must hold `key: value` lines, found a {type(values).__name__}")
    extends = values.pop("extends", [])
    names = [extends] if isinstance(extends, str) else extends
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{path}: 'extends' must name a file or a list of files, found {extends!r}")
    for name in names:
        yield from _layers(path.parent / name, (*above, path.resolve()))
    yield path, _string_keys(values)


def _string_keys(values: Any) -> Any:
    """The same values with every key a string: YAML reads ``0: 20GiB`` as a number's."""
    if isinstance(values, dict):
        return {str(key): _string_keys(value) for key, value in values.items()}
    return values


def _check_keys(values: dict[Any, Any], schema: type, where: str, prefix: str) -> None:
    fields = {f.name: f for f in dataclasses.fields(schema)}
    for key, value in values.items():
        if key not in fields:
            raise ConfigError(
                f"{where}: unknown key '{prefix}{key}'{_nearest(f'{prefix}{key}', [prefix + f for f in fields])}"
            )
        factory = fields[key].default_factory
        if isinstance(factory, type) and dataclasses.is_dataclass(factory):
            if not isinstance(value, dict):
                raise ConfigError(f"{where}: '{prefix}{key}' must be a group of keys, found {value!r}")
            _check_keys(value, factory, where, f"{prefix}{key}.")


def _merge(base: Any, values: Any, where: str) -> Any:
    try:
        return OmegaConf.merge(base, values)
    except (OmegaConfBaseException, TypeError) as error:
        key = getattr(error, "full_key", None)
        place = f"'{key}': " if key else ""
        raise ConfigError(f"{where}: {place}{_first_line(error)}") from None


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


def _nearest(name: str, valid: Any) -> str:
    near = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return (
        f"; did you mean '{near[0]}'?" if near else f"; valid: {', '.join(list(valid)[:20])}" if valid else ""
    )


def _first_line(error: Exception) -> str:
    return str(error).split("\n")[0]
