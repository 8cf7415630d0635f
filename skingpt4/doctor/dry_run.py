"""What `train.py --dry-run` shows: paths, counts, one decoded sample, an estimate of memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from skingpt4.checkpoints import checkpoint
from skingpt4.checkpoints.load import require_projection_width
from skingpt4.checkpoints.paths import missing_paths
from skingpt4.config.load import to_yaml
from skingpt4.config.schema import Config, ConfigError
from skingpt4.doctor import memory
from skingpt4.model import lora
from skingpt4.model.build import build_qformer, build_vision, encoder_device
from skingpt4.model.language import LanguageModel
from skingpt4.model.network import SkinGPT4, describe_precision
from skingpt4.model.prompts import IMAGE_TOKEN, Encoded, get_template
from skingpt4.records.manifest import Manifest, chain, read_manifest
from skingpt4.records.overlap import require_disjoint
from skingpt4.support.errors import UserError
from skingpt4.training import compiled, run_folder
from skingpt4.training.prepare import sample_encoder
from skingpt4.training.samples import TrainingSamples, answer_for, picture_files


def describe(config: Config) -> str:
    """A report of everything the run would do; nothing of the run is written.

    Raises:
        ConfigError: lists all that is missing at once.
    """
    problems = [*missing_paths(config), *_problems(config)]
    if problems:
        raise ConfigError("this run cannot start:\n  " + "\n  ".join(problems))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    language_model = LanguageModel(config.language, device)
    model = SkinGPT4(None, language_model, config.qformer.width)
    vision = build_vision(config.vision)
    qformer = build_qformer(config.qformer, vision.width)
    records = _records(config.data.train)
    samples = sample_encoder(config, model.tokenizer)
    pictures = picture_files(records, config.vision.image_size, vision.mean, vision.std, config.data.augment)
    training = TrainingSamples(records, samples, pictures, config.seed)
    sample = training[0]
    encoder_parameters = sum(p.numel() for p in (*vision.parameters(), *qformer.parameters()))
    if config.lora.rank:
        lora.add(language_model, config.lora, config.seed)
    branches = f" and LoRA of rank {config.lora.rank} on the language model" if config.lora.rank else ""
    trainable, decoder = model.num_parameters()
    need = memory.training(
        config,
        memory.language_shape(language_model.config),
        str(language_model.dtype).removeprefix("torch."),
        encoder_parameters,
        len(records),
        quantization=config.language.quantization,
    )
    optim = config.optim
    seen = optim.max_epoch * optim.iters_per_epoch * optim.batch_size * optim.accumulation
    passes = seen / len(training)
    lines = [
        f"step           {config.step}, {optim.max_epoch} x {optim.iters_per_epoch} iterations of "
        f"{optim.batch_size} x {optim.accumulation} samples, {optim.warmup_steps} of warm-up to {optim.init_lr:g}",
        f"output         {config.output_dir}" + (" (exists)" if Path(config.output_dir).exists() else ""),
        f"starts from    {_parent(config)}",
        *(f"train          {path}" for path in config.data.train),
        *(f"validation     {path}" for path in config.data.validation),
        *(f"kept apart     {path}" for path in config.data.evaluation),
        *(f"note           {note}" for note in _require_disjoint(config)),
        f"records        {len(records)}, of which {len(training)} have an answer in this step; {passes:.1f} passes",
        f"encoder        {config.vision.model}, {vision.num_tokens} tokens of {vision.width}; "
        f"Q-Former {config.qformer.num_query_tokens} queries of {config.qformer.width}, "
        f"{describe_precision(config.encoder.dtype, encoder_device(config, device))}",
        f"language model {config.language.model}, {language_model.config.model_type}, "
        f"{language_model.describe_place()}",
        f"layers         {_layers(config, language_model)}",
        f"trainable      1 linear layer{branches}: {trainable / 1e6:.2f} M of "
        f"{(decoder + encoder_parameters) / 1e6:.0f} M parameters",
        f"memory         about {memory.gib(need):.1f} GiB (estimate of docs/memory.md)",
        f"answer         {answer_for(records[training.row_of(0)], config.prompt)}",
        "one sample, the supervised part between >> and <<:",
        show_sample(sample["encoded"], model.tokenizer),
    ]
    lines.append("Research software, not a medical device.")
    return "\n".join(lines)


def _layers(config: Config, language_model: LanguageModel) -> str:
    iterations = config.optim.max_epoch * config.optim.iters_per_epoch
    if compiled.wanted(config.language.compile, language_model, iterations):
        return "compiled by torch before the first iteration, up to a minute (language.compile)"
    return "as written (language.compile)"


def _problems(config: Config) -> list[str]:
    found: list[str] = []
    if not config.data.train:
        found.append("data.train names no manifest")
    manifests = [*config.data.train, *config.data.validation, *config.data.evaluation]
    checks: list[Callable[[], object]] = [
        lambda: get_template(config.prompt.template),
        *(lambda path=path: read_manifest(path) for path in manifests if Path(path).exists()),
    ]
    if config.initial_checkpoint and Path(config.initial_checkpoint).exists():
        checks.append(lambda: checkpoint.load(config.initial_checkpoint or ""))
        checks.append(lambda: require_projection_width(config, config.initial_checkpoint or ""))
    checks.append(
        lambda: run_folder.check(Path(config.output_dir), to_yaml(config), resume=True, overwrite=False)
    )
    for check in checks:
        try:
            check()
        except UserError as error:
            found.append(str(error))
    if not found:  # the manifests can be read
        try:
            _require_disjoint(config)
        except UserError as error:
            found.append(str(error))
    return found


def _records(paths: Sequence[str]) -> Manifest:
    return chain(read_manifest(path) for path in paths if Path(path).exists())


def _require_disjoint(config: Config) -> list[str]:
    records = _records([*config.data.train, *config.data.validation])
    return require_disjoint(records, config.data.evaluation, config.data.allow_overlap)


def _parent(config: Config) -> str:
    if not config.initial_checkpoint:
        return f"an untrained projection (seed {config.seed})"
    _, card = checkpoint.load(config.initial_checkpoint)
    return f"{checkpoint.find(config.initial_checkpoint)} ({card['step']}, iteration {card['iteration']})"


def show_sample(encoded: Encoded, tokenizer: object) -> str:
    """A sample as text: pictures as <n image vectors>, the supervised part between >> and <<."""
    text, images, learning = "", 0, False
    run: list[int] = []
    for token, supervised in zip([*encoded.input_ids, None], [*encoded.supervised, False], strict=True):
        if run and (token == IMAGE_TOKEN or token is None or supervised != learning):
            text += tokenizer.decode(run)  # type: ignore[attr-defined]
            run = []
        if images and token != IMAGE_TOKEN:
            text += f"<{images} image vectors>"
            images = 0
        if supervised != learning:
            text += ">>" if supervised else "<<"
            learning = supervised
        if token == IMAGE_TOKEN:
            images += 1
        elif token is not None:
            run.append(token)
    return text
