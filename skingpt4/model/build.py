"""The network of a configuration: every part on its device, in its precision, with its weights."""

from __future__ import annotations

import torch

from skingpt4.config.schema import Config, QFormerConfig, VisionConfig
from skingpt4.model.encoders.encoder import VisionEncoder
from skingpt4.model.language import LanguageModel, Weights
from skingpt4.model.lavis import LavisQFormer, LavisVision, lavis_classes
from skingpt4.model.network import ImageEncoder, SkinGPT4
from skingpt4.model.precision import require_device
from skingpt4.model.projection import Pooling, picture_shape
from skingpt4.model.qformer import QFormer
from skingpt4.weights.files.layouts import brings_norm
from skingpt4.weights.files.source import built_without_memory
from skingpt4.weights.files.tensors import WeightsMismatch


def build_vision(
    config: VisionConfig, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> VisionEncoder:
    """The vision encoder of a configuration with its weights (random if it names none).

    Args:
        config: model, weights, image size.
        device: where it will be; weights are read straight to it.
        dtype: of the weights; fp32 also where the forward is autocast to half precision.
    """
    if not config.weights:
        return VisionEncoder(config).to(device, dtype)
    vision = built_without_memory(lambda: VisionEncoder(config))
    vision.load(config.weights, device, dtype)
    return vision.to(device, dtype)


def build_qformer(
    config: QFormerConfig,
    encoder_width: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> QFormer:
    """The Q-Former of a configuration with its weights (random if it names none), as `build_vision`."""
    if not config.weights:
        return QFormer(config, encoder_width).to(device, dtype)
    qformer = built_without_memory(lambda: QFormer(config, encoder_width))
    qformer.load(config.weights, device, dtype)
    return qformer.to(device, dtype)


def encoder_device(config: Config, device: torch.device | str) -> torch.device:
    """Where the encoder will be: `encoder.device`, or the run's `device`.

    Raises:
        DeviceError: this machine has no such device.
    """
    name = config.encoder.device
    return torch.device(device) if name == "auto" else require_device(name, "encoder.device")


def build_encoder(
    config: Config, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> ImageEncoder:
    """Vision encoder and Q-Former (or pooling) of a configuration, frozen; host memory holds the weights once."""
    if config.encoder.backend == "lavis":
        lavis_classes()  # a missing package is noticed before gigabytes are read
    device = encoder_device(config, device)
    vision = build_vision(config.vision, device, dtype)
    if config.qformer.weights and brings_norm(config.qformer.weights) and vision.strict:
        vision.load_ln_vision(config.qformer.weights, device, dtype)
    if config.qformer.weights and config.vision.norm and not vision.has_norm_weights:
        raise WeightsMismatch(
            f"vision.weights: {config.vision.weights} lacks the final norm (ln_vision), and {config.qformer.weights} "
            "brings none; set qformer.weights to the BLIP-2 checkpoint, or vision.weights to a file with norm.weight"
        )
    if config.projector != "qformer":
        return ImageEncoder(vision, Pooling(config.pooling, vision), config.encoder.dtype)
    qformer = build_qformer(config.qformer, vision.width, device, dtype)
    if config.encoder.backend == "lavis":
        return ImageEncoder(LavisVision(vision), LavisQFormer(qformer), config.encoder.dtype)
    return ImageEncoder(vision, qformer, config.encoder.dtype)


def empty_encoder(config: Config) -> tuple[VisionEncoder, QFormer | Pooling]:
    """Vision encoder and Q-Former (or pooling) of a configuration on the meta device, without weights."""
    vision = built_without_memory(lambda: VisionEncoder(config.vision))
    if config.projector != "qformer":
        return vision, Pooling(config.pooling, vision)
    return vision, built_without_memory(lambda: QFormer(config.qformer, vision.width))


def build(
    config: Config,
    device: torch.device,
    encoder: ImageEncoder | None = None,
    weights: Weights = "on_device",
) -> SkinGPT4:
    """The complete network; the projection starts from the configuration's seed, beside the input embeddings.

    Args:
        config: of the network.
        device: of the run.
        encoder: the image encoder, if there is one.
        weights: where the language model's are, see `LanguageModel`.
    """
    language_model = LanguageModel(config.language, device, weights=weights)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        width = picture_shape(config).width
        model = SkinGPT4(encoder, language_model, width, config.projector, config.projection.hidden_width)
    if weights == "on_device":
        model.projection.to(language_model.input_device)
    return model.train(False)
