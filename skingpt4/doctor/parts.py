"""The doctor's checks of image encoder, checkpoint and trained parts, from headers alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import AutoModelForCausalLM

from skingpt4.checkpoints import checkpoint, minigpt4
from skingpt4.checkpoints.identity import encoder_identity, projector_identity
from skingpt4.checkpoints.paths import how_to_get
from skingpt4.config.schema import Config
from skingpt4.doctor import memory
from skingpt4.doctor.findings import MISSING, OK, WARNING, Facts, Finding
from skingpt4.model import lora
from skingpt4.model.build import empty_encoder
from skingpt4.model.encoders.encoder import VisionEncoder
from skingpt4.model.network import num_parameters
from skingpt4.model.projection import Pooling, make_projection, picture_shape
from skingpt4.model.qformer import QFormer
from skingpt4.support.errors import UserError
from skingpt4.weights.files.inspect_file import projection_fits
from skingpt4.weights.files.layouts import NORM_NAMES, QFORMER_PREFIXES, VISION_PREFIXES, brings_norm
from skingpt4.weights.files.source import header_source, shapes_alone

PARENT = "starts from"


def encoder(facts: Facts) -> Iterator[Finding]:
    """Vision encoder, Q-Former and projector: built without memory, their files' headers compared name by name."""
    config = facts.config
    try:
        vision, qformer = empty_encoder(config)
    except UserError as error:
        yield Finding("vision encoder", MISSING, str(error))
        return
    facts.encoder_parameters = num_parameters(vision) + num_parameters(qformer)
    facts.encoding_operations = 2.0 * num_parameters(vision) * vision.num_tokens * config.vision.crops
    facts.encoding_bytes = memory.encoding(config, vision.num_tokens, vision.width)
    text = f"{config.vision.model}, {_layout(vision)}"
    yield _weights("vision encoder", text, config.vision.weights, VISION_PREFIXES, vision)
    if isinstance(qformer, QFormer):
        text = f"{config.qformer.num_query_tokens} queries of {config.qformer.width}"
        yield _weights("Q-Former", text, config.qformer.weights, QFORMER_PREFIXES, qformer)
    yield _projector(config, qformer)
    yield from _final_norm(config.vision.weights, config.qformer.weights, vision)


def _layout(vision: VisionEncoder) -> str:
    """Which tokens the encoder gives, e.g. 197 tokens of 768: a class token and 14 x 14 patches of 224 pixels."""
    patches = vision.num_tokens - vision.num_prefix
    side = math.isqrt(patches)
    shown = f"{side} x {side}" if side**2 == patches else str(patches)
    class_token = "a class token and " if vision.num_prefix else ""
    left_out = f", {vision.num_registers} registers left out" if vision.num_registers else ""
    tokens = f"{vision.num_tokens} tokens of {vision.width}: {class_token}{shown} patches"
    return f"{tokens} of {vision.image_size} pixels{left_out}"


def _projector(config: Config, reads: QFormer | Pooling) -> Finding:
    """The way from a picture to tokens of the prompt, and how many these are."""
    shape = picture_shape(config)
    layers = "2 linear layers" if config.projector == "mlp" else "1 linear layer"
    what = "the Q-Former's queries"
    if isinstance(reads, Pooling):
        class_token = " and the class token" if reads.has_class_token else ""
        what = f"{reads.side} x {reads.side} patches ({reads.method}){class_token}"
    crops = f" of {config.vision.crops} crops" if config.vision.crops > 1 else ""
    tokens = f"{shape.num_vectors} tokens of the prompt a picture, from vectors of {shape.width}"
    return Finding("projector", OK, f"{config.projector}: {layers} on {what}{crops}; {tokens}")


def _weights(
    name: str, text: str, path: str | None, prefixes: tuple[str, ...], module: VisionEncoder | QFormer
) -> Finding:
    if not path:
        return Finding(name, WARNING, f"{text}; random weights, since the config names no file")
    if not Path(path).exists():
        return Finding(name, MISSING, f"{path} is not there", how_to_get(path))
    try:
        module.load(header_source(path, prefixes), "meta")
    except UserError as error:
        return Finding(name, MISSING, str(error), how_to_get(path))
    return Finding(name, OK, f"{text}; every tensor of {path} fits")


def _final_norm(
    vision_path: str | None, qformer_path: str | None, vision: VisionEncoder
) -> Iterator[Finding]:
    """The vision encoder's final norm, which LAVIS stores in the Q-Former's file."""
    paths = [path for path in (vision_path, qformer_path) if path and Path(path).exists()]
    if len(paths) < 2 or not qformer_path or not vision.norm or not vision.strict:
        return
    if brings_norm(qformer_path):
        try:
            vision.load_ln_vision(header_source(qformer_path, NORM_NAMES), "meta")
        except UserError as error:
            yield Finding("ln_vision", MISSING, str(error))
    elif not vision.has_norm_weights:
        yield Finding(
            "ln_vision", MISSING, f"neither {vision_path} nor {qformer_path} holds it",
            "set qformer.weights to the BLIP-2 checkpoint",
        )  # fmt: skip


def parent(facts: Facts) -> Finding:
    """The checkpoint that the run starts from: encoder, language model, template, LoRA and width."""
    path = facts.config.initial_checkpoint
    if path and facts.follows and not checkpoint.saved(Path(path)):
        return Finding(PARENT, OK, f"{path}, which the step before will have trained")
    if not path:
        text = f"an untrained projection (seed {facts.config.seed})"
        if facts.config.step in ("step1", "step2"):
            text += (
                "; this step then has to learn what the vectors mean at all beside what it teaches: the paper starts "
                "from MiniGPT-4's projection, aligned on captions (step: align, see docs/training.md)"
            )
        return Finding(PARENT, OK, text)
    return _minigpt4_projection(facts, path) if checkpoint.is_minigpt4(path) else _checkpoint(facts, path)


def _checkpoint(facts: Facts, path: str) -> Finding:
    config = facts.config
    try:
        tensors, card = checkpoint.load(path)
        checkpoint.load_lora(path, card)
    except UserError as error:
        fix = f"train step 1 into {path} first" if config.step == "step2" else ""
        return Finding(PARENT, MISSING, str(error), fix)
    identity, unchecked = _identity(facts)
    try:
        checkpoint.require_fit(card, identity, path)
        lora.require_same(card.get("lora"), config.lora, path)
    except UserError as error:
        fix = "start from a checkpoint of the same parts, or train step 1 with them"
        return Finding(PARENT, MISSING, str(error), fix)
    if facts.shape and (problem := _misfit(config, tensors, facts.shape.width)):
        return Finding(PARENT, MISSING, f"{path}: {problem}")
    text = f"{checkpoint.find(path)} ({card.get('step')}, iteration {card.get('iteration')})"
    if unchecked:
        text += f"; not compared, since its files are not here: {', '.join(unchecked)}"
    elif not card.get("known_answer"):
        text += "; saved without a known answer, so wrong weights would go unnoticed"
    else:
        return Finding(PARENT, OK, f"{text}; encoder, language model and template are the same")
    return Finding(PARENT, WARNING, text)


def _misfit(config: Config, tensors: dict[str, Tensor], out_features: int) -> str:
    """How a checkpoint's projection differs from the configuration's; empty where it does not."""
    with shapes_alone():
        empty = make_projection(
            config.projector, picture_shape(config).width, out_features, config.projection.hidden_width
        )
    theirs, ours = ({k: tuple(v.shape) for k, v in t.items()} for t in (tensors, empty.state_dict()))
    if theirs == ours:
        return ""
    name = next(name for name in [*ours, *theirs] if ours.get(name) != theirs.get(name))
    return f"its projection's {name} is {theirs.get(name, ())}, here it must be {ours.get(name, ())}"


def _identity(facts: Facts) -> tuple[dict[str, Any], list[str]]:
    """What a checkpoint must fit, and the parts that cannot be compared because their files are not here."""
    config = facts.config
    identity: dict[str, Any] = {"projector": projector_identity(config), "template": config.prompt.template}
    unchecked = []
    try:
        identity["encoder"] = encoder_identity(facts.config)
    except (UserError, OSError):
        unchecked.append("encoder")
    if facts.language_config is not None and facts.tokenizer is not None:
        with shapes_alone():
            empty = AutoModelForCausalLM.from_config(facts.language_config, trust_remote_code=False)
        identity["language_model"] = checkpoint.language_identity(
            empty, facts.tokenizer, facts.config.language.model
        )
    else:
        unchecked.append("language model")
    return identity, unchecked


def _minigpt4_projection(facts: Facts, path: str) -> Finding:
    """A `.pth` of MiniGPT-4 or the published SkinGPT-4: it records widths alone."""
    try:
        minigpt4.require_qformer(path, facts.config.projector)
        width, query_width = minigpt4.shape_of(path)
        minigpt4.require_width(path, facts.shape.width if facts.shape else width, facts.config.qformer.width)
    except UserError as error:
        return Finding(PARENT, MISSING, str(error), "bring a projection of these widths")
    text = f"{path}: MiniGPT-4's layout, for {projection_fits(width, query_width)}; "
    shape = facts.shape
    if shape and (mismatch := minigpt4.mismatched_vicuna(shape.width, shape.vocabulary)):
        return Finding(PARENT, WARNING, text + mismatch, "language.model=weights/vicuna-13b-v0 (or 7b)")
    text += "whether it was trained with this encoder, language model and template, the file does not say"
    return Finding(PARENT, WARNING, text)


def _has_qformer(facts: Facts) -> bool:
    return facts.config.projector == "qformer"


def trainable(facts: Facts) -> Iterator[Finding]:
    """How many numbers are trained."""
    if facts.shape and facts.encoder_parameters:
        num_trained = memory.num_trainable(facts.config, facts.shape)
        total = num_trained + facts.shape.num_parameters + facts.encoder_parameters
        rank = facts.config.lora.rank
        layers = "2 linear layers" if facts.config.projector == "mlp" else "1 linear layer"
        layers = "no linear layer" if "projection" in facts.config.freeze else layers
        parts = layers + (f" and LoRA of rank {rank} on the language model" if rank else "")
        frozen = ", ".join(part for part in facts.config.freeze if part != "qformer" or _has_qformer(facts))
        text = (
            f"{parts}: {num_trained / 1e6:.2f} M of {total / 1e6:,.0f} M parameters, encoder included; "
            f"frozen: {frozen}"
        )
        yield Finding("trained", OK, text)
