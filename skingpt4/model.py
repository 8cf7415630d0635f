"""SkinGPT-4 composed: frozen vision encoder and Q-Former, one trainable projection, frozen language model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from skingpt4 import checkpoint, hub, known_answer, lora, minigpt4
from skingpt4.config import Config, LanguageConfig, QFormerConfig, VisionConfig, missing_paths
from skingpt4.language import (
    DTYPES,
    choose_dtype,
    input_device,
    load_language_model,
    num_bytes,
    require_device,
    supervised_loss,
)
from skingpt4.language_checks import configuration
from skingpt4.lavis_bridge import lavis_classes
from skingpt4.lavis_encoder import LavisQFormer, LavisVision
from skingpt4.layouts import NORM_NAMES, QFORMER_PREFIXES, VISION_PREFIXES, brings_norm
from skingpt4.placement import DEVICE_RULES, main_device
from skingpt4.prompts import IMAGE_TOKEN, Encoded, special_tokens
from skingpt4.qformer import QFormer
from skingpt4.tensor_source import built_without_memory, source_files
from skingpt4.tensors import WeightsMismatch, file_sha256, require_same_tensors
from skingpt4.vision import VisionEncoder

LOSS_CHUNK_BYTES = 32 * 2**20  # of logits in memory at once


def half_precision(device: torch.device, name: str = "auto") -> torch.autocast:
    """Autocast to the named precision, or to what the device multiplies fast in; residuals stay fp32."""
    dtype = choose_dtype(name, device)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not torch.float32)


def describe_precision(name: str, device: torch.device) -> str:
    """What an encoder of that `encoder.dtype` does there, e.g. ``computes in bfloat16 on cpu``."""
    return f"computes in {str(choose_dtype(name, device)).removeprefix('torch.')} on {device}"


class ImageEncoder(nn.Module):
    """Vision encoder and Q-Former as one frozen map from pictures to queries."""

    def __init__(
        self,
        vision_encoder: VisionEncoder | LavisVision,
        qformer: QFormer | LavisQFormer,
        precision: str = "auto",
    ) -> None:
        """Freeze both and put them into eval mode for good.

        Args:
            vision_encoder: pictures to tokens.
            qformer: tokens to queries.
            precision: auto keeps fp32 weights and computes in what the device is fast in. A half precision by
                name keeps matrices in it too; norms, positions and the residual stream stay fp32, since a tower
                converted whole has about three times the error.
        """
        super().__init__()
        self.vision_encoder, self.qformer, self.precision = vision_encoder, qformer, precision
        if precision in ("float16", "bfloat16"):
            for module in self.modules():
                if isinstance(module, nn.Linear | nn.Conv2d):
                    module.to(DTYPES[precision])
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> ImageEncoder:
        """Stay in eval mode: a frozen encoder never drops anything out."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """Map pictures (b, 3, h, w) to queries (b, q, d) in fp32; half precision keeps fp32 residuals."""
        device = next(self.parameters()).device
        with half_precision(device, self.precision):
            return self.qformer(self.vision_encoder(image.to(device))).float()

    def describe_place(self) -> str:
        """A line on how it is kept, e.g. ``computes in bfloat16 on cpu, 0.093 GiB``."""
        device = next(self.parameters()).device
        size = sum(map(num_bytes, self.parameters()))
        return f"{describe_precision(self.precision, device)}, {size / 2**30:.2g} GiB"


class SkinGPT4(nn.Module):
    """The network. Only `projection` (and LoRA, if added) is trained; `encoder` may be absent: give queries."""

    def __init__(
        self, encoder: ImageEncoder | None, language_model: Any, tokenizer: Any, query_width: int
    ) -> None:
        """Compose the parts.

        Args:
            encoder: the image encoder, or None where only precomputed queries are used.
            language_model: a frozen causal language model.
            tokenizer: its tokenizer.
            query_width: width d of the queries.
        """
        super().__init__()
        self.encoder = encoder
        self.language_model = language_model.requires_grad_(False).eval()
        self.tokenizer = tokenizer
        width = language_model.get_input_embeddings().weight.shape[1]
        self.projection = nn.Linear(query_width, width)
        self.loss_chunk_bytes = LOSS_CHUNK_BYTES
        self.all_logits = False
        self.cuda_graphs = False
        self.config: Config | None = None  # only of a model `from_pretrained`

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        device: torch.device | None = None,
        language_model: str | None = None,
        revision: str | None = None,
    ) -> SkinGPT4:
        """A shared model out of a folder or a hub id, with the frozen parts that it names, and no others.

        Args:
            name: a folder written by `skingpt4.share`, or the id of a repository of one.
            device: where it will be; by default a GPU, if there is one.
            language_model: where the language model lies here, if not where the folder says.
            revision: of the repository.

        Raises:
            HubError, ConfigError: no such folder or repository; files of frozen parts are missing.
            CheckpointError, KnownAnswerError: the parts that are here are not those it was trained with.
        """
        folder = hub.resolve(name, revision)
        config = hub.config_of(folder, language_model)
        missing = missing_paths(config, for_training=False)
        if missing:
            raise hub.HubError(f"{name}: its frozen parts are missing: {'; '.join(missing)}")
        device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = build(config, device, build_encoder(config).to(device))
        load_projection(model, config, folder)
        model.config = config
        return model.eval()

    def train(self, mode: bool = True) -> SkinGPT4:
        """Put only what is trained (the projection, and LoRA if there is any) into training mode."""
        super().train(False)
        self.projection.train(mode)
        lora.set_training(self.language_model, mode)
        return self

    def encode_images(self, image: Tensor) -> Tensor:
        """Map pictures (b, 3, h, w) to queries (b, q, d)."""
        if self.encoder is None:
            raise RuntimeError("this model was built without an image encoder; give it queries")
        return self.encoder(image)

    def embed(self, input_ids: Tensor, queries: Tensor | None) -> Tensor:
        """Input embeddings (b, t, width) with projected queries at IMAGE_TOKEN, in order of occurrence.

        Args:
            input_ids: (b, t) int64.
            queries: (images, q, d), one for each picture in the batch, or None without pictures.

        Raises:
            ValueError: the places do not match the queries.
        """
        input_ids = input_ids.to(input_device(self.language_model))
        embeds = self.language_model.get_input_embeddings()(input_ids.clamp(min=0))
        places = input_ids == IMAGE_TOKEN
        num_places, num_queries = (
            int(places.sum()),
            0 if queries is None else queries.shape[0] * queries.shape[1],
        )
        if num_places != num_queries:
            raise ValueError(
                f"the text has {num_places} image positions, the pictures give {num_queries} vectors"
            )
        if queries is None:
            return embeds
        with torch.autocast(embeds.device.type, enabled=False):  # the projection stays in fp32
            projected = self.projection(queries.to(self.projection.weight.device).float())
        return embeds.masked_scatter(places[..., None], projected.flatten(0, 1).to(embeds))

    def forward(
        self,
        input_ids: Tensor,
        labels: Tensor,
        attention_mask: Tensor | None = None,
        image: Tensor | None = None,
        queries: Tensor | None = None,
        position_ids: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Summed cross-entropy over supervised tokens.

        Args:
            input_ids: (b, t) with IMAGE_TOKEN where queries go, right padded.
            labels: (b, t), IGNORED where not supervised.
            attention_mask: (b, t), 0 at padding; None where there is none, or with `position_ids`.
            image: (images, 3, h, w), or
            queries: (images, q, d) precomputed.
            position_ids: (b, t), anew from 0 with each sample, where a row holds several.

        Returns:
            (loss summed over the supervised tokens, fp32 scalar on `input_ids`' device; their number, int64 scalar).
        """
        if queries is None and image is not None:
            queries = self.encode_images(image)
        embeds = self.embed(input_ids, queries)
        mask, positions = (None if x is None else x.to(embeds.device) for x in (attention_mask, position_ids))
        loss, count = supervised_loss(
            self.language_model, embeds, labels, mask, positions, self.loss_chunk_bytes, self.all_logits
        )
        return loss.to(input_ids.device), torch.tensor(count)

    @torch.no_grad()
    def generate(
        self, encoded: Sequence[Encoded], queries: Tensor | None, stop: Sequence[str] = (), **options: Any
    ) -> list[str]:
        """Answer prompts in one batch, left padded, each row stopped on its own decoded text.

        Args:
            encoded: one prompt per row.
            queries: (images, q, d) of all rows in order.
            stop: strings that end an answer and are cut off.
            options: passed to the language model's `generate`, e.g. `max_new_tokens`, `do_sample`, `streamer`.
        """
        input_ids, attention_mask = pad_left([e.input_ids for e in encoded])
        device = input_device(self.language_model)
        embeds = self.embed(input_ids, queries)
        # A stop string that is one special token is cheaper to see as an id than in decoded text.
        ends = self.end_tokens(stop)
        options["eos_token_id"] = sorted(ends.values()) or None
        if strings := [s for s in stop if s not in ends]:
            options |= {"stop_strings": strings, "tokenizer": self.tokenizer}
        pad = self.tokenizer.pad_token_id
        pads = tuple(filter(None, [self.tokenizer.pad_token]))
        ids = self.language_model.generate(
            inputs_embeds=embeds,
            attention_mask=attention_mask.to(device),
            pad_token_id=self.tokenizer.eos_token_id if pad is None else pad,
            **options,
        )
        return [
            cut_at(self.tokenizer.decode(row, skip_special_tokens=False), (*stop, *ends, *pads))
            for row in ids
        ]

    def end_tokens(self, stop: Sequence[str]) -> dict[str, int]:
        """Special tokens that end an answer, text to id: the model's own, the tokenizer's, those of `stop`."""
        own = self.language_model.generation_config.eos_token_id
        ids = own if isinstance(own, list) else [own] if own is not None else []
        special = {s: self.tokenizer.convert_tokens_to_ids(s) for s in special_tokens(self.tokenizer)}
        named = {s: special[s] for s in (*stop, self.tokenizer.eos_token) if s in special}
        return named | {
            s: i for s, i in zip(self.tokenizer.convert_ids_to_tokens(ids), ids, strict=True) if s
        }

    def num_parameters(self) -> tuple[int, int]:
        """(trainable, all) numbers of parameters."""
        parameters = list(self.parameters())
        return sum(p.numel() for p in parameters if p.requires_grad), sum(p.numel() for p in parameters)


def cut_at(text: str, stops: Sequence[str]) -> str:
    """The text before the first of the stop strings, without surrounding blanks."""
    for stop in stops:
        text = text.split(stop)[0]
    return text.strip()


def pad_left(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """(input_ids, attention_mask), both (b, t) int64; padding stands before the text, never inside it."""
    length = max(map(len, rows))
    ids = torch.tensor([[0] * (length - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


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
    model.loss_chunk_bytes = config.loss_chunk_mb * 2**20
    model.all_logits = config.logits == "all"
    model.cuda_graphs = config.cuda_graphs


def encoder_files(config: Config) -> list[Path]:
    """Every file that the encoder's weights are read from."""
    named = (
        (config.vision.weights, VISION_PREFIXES),
        (config.qformer.weights, QFORMER_PREFIXES + NORM_NAMES),
    )
    return [file for weights, prefixes in named if weights for file in source_files(weights, prefixes)]


def encoder_identity(config: Config) -> str:
    """16 hex digits that change whenever the encoder, its weights or the picture's transform do.

    Not with `encoder.backend`: both backends give the same queries within 1e-5 (docs/parity.md), less than half
    precision moves them, so a projection or kept features of one serve the other.
    """
    parts: dict[str, Any] = {
        "vision": asdict(config.vision),
        "qformer": asdict(config.qformer),
        "files": [file_sha256(file) for file in encoder_files(config)],
    }
    for group in ("vision", "qformer"):
        del parts[group]["weights"]  # its content counts, not where it lies
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def identity(config: Config, model: SkinGPT4) -> dict[str, Any]:
    """What a projection depends on, as a checkpoint stores it: encoder, language model, template."""
    name = config.language.model
    return {
        "encoder": encoder_identity(config),
        "language_model": checkpoint.language_identity(model.language_model, model.tokenizer, name),
        "template": config.prompt.template,
    }


def known_queries(config: Config, get_encoder: Callable[[], ImageEncoder]) -> Tensor:
    """Queries (1, q, d) of the self-test's picture, kept on disk under the encoder's identity."""
    name = f"known-{encoder_identity(config)}.safetensors"
    folder = Path(config.data.feature_cache or "runs/features")
    return known_answer.kept_queries(folder / name, get_encoder, config.vision.image_size)


def require_projection_width(config: Config, path: str | Path) -> None:
    """Refuse a MiniGPT-4 `.pth` of another width from headers alone, before anything heavy is loaded.

    Raises:
        WeightsMismatch: names both widths; or no projection of this kind.
        LanguageModelError: the language model's configuration cannot be read.
    """
    if checkpoint.is_minigpt4(path):
        width = configuration(config.language.model).hidden_size
        minigpt4.require_width(path, width, config.qformer.width)


def load_projection(
    model: SkinGPT4, config: Config, path: str | Path, queries: Tensor | None = None
) -> dict[str, Any]:
    """Load a checkpoint's projection, and its LoRA if it has any, and return the checkpoint's card.

    LoRA that the model has and the checkpoint has not is taken off: the model becomes what was saved. It is
    then asked for the checkpoint's known answer. A `.pth` of MiniGPT-4 or the published SkinGPT-4 loads too; whether
    its encoder, language model and template are these, nobody can tell from the file.

    Args:
        model: the network.
        config: its configuration.
        path: a checkpoint or a run's folder.
        queries: of the self-test's picture, (1, q, d); by default from the model's encoder, or `known_queries`.

    Raises:
        CheckpointError: missing, damaged, or made for another encoder, language model or template.
        WeightsMismatch: a projection of another width.
        KnownAnswerError: all of it fits by name and shape, and yet the network says something else.
    """
    if checkpoint.is_minigpt4(path):  # it records widths alone
        minigpt4.require_width(path, model.projection.out_features, model.projection.in_features)
        tensors, card = checkpoint.load(path)
    else:
        tensors, card = checkpoint.load(path)
        checkpoint.require_fit(card, identity(config, model), path)
    require_same_tensors(tensors, model.projection.state_dict(), str(path), "projection")
    branches = checkpoint.load_lora(path, card)
    lora.restore(model.language_model, card.get("lora"), branches, str(path))
    model.projection.load_state_dict(tensors, strict=True)
    if queries is None and card.get("known_answer"):
        if model.encoder is not None:
            queries = known_answer.queries_of(model.encoder, config.vision.image_size)
        else:
            queries = known_queries(config, lambda: build_encoder(config).to(model.projection.weight.device))
    known_answer.check(model, queries, card, str(path))
    return card
