"""The network of a configuration: every part on its device and in its precision."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from skingpt4.config.placement import DEVICE_RULES, main_device
from skingpt4.config.schema import Config, LanguageConfig, QFormerConfig, VisionConfig
from skingpt4.model.language import choose_dtype, input_device, load_language_model, require_device
from skingpt4.model.lavis import LavisQFormer, LavisVision, lavis_classes
from skingpt4.model.network import ImageEncoder, SkinGPT4
from skingpt4.model.qformer import QFormer
from skingpt4.model.vision import VisionEncoder
from skingpt4.weights.files.layouts import brings_norm
from skingpt4.weights.files.source import built_without_memory
from skingpt4.weights.files.tensors import WeightsMismatch


def build_vision(
    config: VisionConfig, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> VisionEncoder:
    """The vision encoder of a configuration with its weights (random where it names none).

    Args:
        config: model, weights, picture size.
        device: where it will be; weights are read straight to it.
        dtype: of the weights; fp32 also where the forward is autocast to half precision.
    """
    args = dict(config.model_args)
    build = partial(
        VisionEncoder, config.model, args, config.image_size, config.block, config.norm, config.norm_eps
    )
    vision = built_without_memory(build) if config.weights else build()
    if config.weights:
        vision.load(config.weights, device, dtype)
    vision.mean = tuple(config.mean or vision.mean)
    vision.std = tuple(config.std or vision.std)
    return vision.to(device, dtype)


def build_qformer(
    config: QFormerConfig,
    encoder_width: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> QFormer:
    """The Q-Former of a configuration with its weights (random where it names none), as `build_vision`."""
    build = partial(
        QFormer,
        encoder_width,
        config.num_query_tokens,
        config.width,
        config.num_layers,
        config.num_heads,
        config.intermediate_width,
        config.cross_attention_every,
    )
    qformer = built_without_memory(build) if config.weights else build()
    if config.weights:
        qformer.load(config.weights, device, dtype)
    return qformer.to(device, dtype)


def encoder_device(config: Config, device: torch.device | str) -> torch.device:
    """Where the encoder stands: `encoder.device`, or the run's `device`.

    Raises:
        DeviceError: this machine has no such device.
    """
    named = config.encoder.device
    return torch.device(device) if named == "auto" else require_device(named, "encoder.device")


def build_encoder(
    config: Config, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> ImageEncoder:
    """Vision encoder and Q-Former of a configuration, frozen; host memory holds the weights once."""
    if config.encoder.backend == "lavis":
        lavis_classes()  # a package that is not there is found out before gigabytes are read
    device = encoder_device(config, device)
    vision = build_vision(config.vision, device, dtype)
    if config.qformer.weights and brings_norm(config.qformer.weights):
        vision.load_ln_vision(config.qformer.weights, device, dtype)
    if config.qformer.weights and config.vision.norm and not vision.has_norm_weights:
        raise WeightsMismatch(
            f"vision.weights: {config.vision.weights} lacks the final norm (ln_vision), and {config.qformer.weights} "
            "brings none; set qformer.weights to the BLIP-2 checkpoint, or vision.weights to a file with norm.weight"
        )
    qformer = build_qformer(config.qformer, vision.width, device, dtype)
    if config.encoder.backend == "lavis":
        return ImageEncoder(LavisVision(vision), LavisQFormer(qformer), config.encoder.dtype)
    return ImageEncoder(vision, qformer, config.encoder.dtype)


def build_language_model(config: LanguageConfig, device: torch.device) -> tuple[Any, Any]:
    """(language model, tokenizer) of a configuration, on the run's device unless its `device_map` says otherwise.

    Raises:
        LanguageModelError, Float16Error: what they say.
    """
    named = list(config.device_map.values()) if isinstance(config.device_map, dict) else [config.device_map]
    for place in named:
        if place is not None and place not in ("disk", *DEVICE_RULES):
            require_device(main_device(place, "cpu"), "language.device_map")
    dtype = choose_dtype(config.dtype, torch.device(main_device(config.device_map, str(device))))
    return load_language_model(
        config.model, dtype, config.attention, device, config.quantization, config.device_map,
        config.max_memory, config.offload_dir,
    )  # fmt: skip


def build(config: Config, device: torch.device, encoder: ImageEncoder | None = None) -> SkinGPT4:
    """The whole network; the projection starts from the configuration's seed, beside the input embeddings."""
    language_model, tokenizer = build_language_model(config.language, device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = SkinGPT4(encoder, language_model, tokenizer, config.qformer.width)
    model.projection.to(input_device(language_model))
    apply_levers(model, config.language)
    return model.train(False)


def apply_levers(model: SkinGPT4, config: LanguageConfig) -> None:
    """Set on a network what a configuration says of how, not of what, it computes."""
    model.loss_chunk_bytes = 32 * 2**20
    model.all_logits = False
    model.cuda_graphs = False
