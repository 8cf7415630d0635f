"""The doctor's look at encoder, checkpoint and manifests, from headers alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from skingpt4.checkpoints import checkpoint, minigpt4
from skingpt4.checkpoints.identity import encoder_identity
from skingpt4.config.schema import Config
from skingpt4.doctor.findings import MISSING, OK, WARNING, Finding, Patient, mend_for
from skingpt4.model import lora
from skingpt4.model.qformer import QFormer
from skingpt4.model.vision import VisionEncoder
from skingpt4.records.manifest import read_manifest
from skingpt4.support.errors import UserError
from skingpt4.weights.files.inspect_file import projection_fits
from skingpt4.weights.files.layouts import NORM_NAMES, QFORMER_PREFIXES, VISION_PREFIXES, brings_norm
from skingpt4.weights.files.source import built_without_memory, header_source


def encoder(patient: Patient) -> Iterator[Finding]:
    """Vision encoder and Q-Former: laid out without memory, their files' headers compared name by name."""
    v, q = patient.config.vision, patient.config.qformer
    try:
        vision = built_without_memory(lambda: VisionEncoder(v))
    except UserError as error:
        yield Finding("vision encoder", MISSING, str(error))
        return
    patient.encoder_width = vision.width
    patient.encoder_parameters += sum(p.numel() for p in vision.parameters())
    text = f"{v.model}, {vision.num_tokens} tokens of {vision.width}"
    yield _weights("vision encoder", text, v.weights, VISION_PREFIXES, vision)
    qformer = built_without_memory(lambda: QFormer(q, vision.width))
    patient.encoder_parameters += sum(p.numel() for p in qformer.parameters())
    text = f"{q.num_query_tokens} queries of {q.width}"
    yield _weights("Q-Former", text, q.weights, QFORMER_PREFIXES, qformer)
    if not (q.weights and Path(q.weights).exists() and v.weights and Path(v.weights).exists() and v.norm):
        return
    if brings_norm(q.weights):
        try:
            vision.load_ln_vision(header_source(q.weights, NORM_NAMES), "meta")
        except UserError as error:
            yield Finding("ln_vision", MISSING, str(error))
    elif not vision.has_norm_weights:
        yield Finding(
            "ln_vision", MISSING, f"neither {v.weights} nor {q.weights} holds it",
            "set qformer.weights to the BLIP-2 checkpoint",
        )  # fmt: skip


def _weights(name: str, text: str, path: str | None, prefixes: tuple[str, ...], module: Any) -> Finding:
    if not path:
        return Finding(name, WARNING, f"{text}; random weights, since the config names no file")
    if not Path(path).exists():
        return Finding(name, MISSING, f"{path} is not there", mend_for(path))
    try:
        module.load(header_source(path, prefixes), "meta")
    except UserError as error:
        return Finding(name, MISSING, str(error), mend_for(path))
    return Finding(name, OK, f"{text}; every tensor of {path} fits")


def parent(patient: Patient) -> Iterator[Finding]:
    """The checkpoint that the run starts from: encoder, language model, template, LoRA and width."""
    config = patient.config
    path = config.initial_checkpoint
    if not path:
        return
    name = "starts from"
    if checkpoint.is_minigpt4(path):
        yield _foreign_projection(patient, path)
        return
    try:
        tensors, card = checkpoint.load(path)
        checkpoint.load_lora(path, card)
    except UserError as error:
        yield Finding(name, MISSING, str(error), _train_first(config))
        return
    identity: dict[str, Any] = {"template": config.prompt.template}
    unchecked = []
    try:
        identity["encoder"] = encoder_identity(config)
    except (UserError, OSError):
        unchecked.append("encoder")
    if patient.language_config is not None and patient.tokenizer is not None:
        with torch.device("meta"):
            laid_out = AutoModelForCausalLM.from_config(patient.language_config)
        found = checkpoint.language_identity(laid_out, patient.tokenizer, config.language.model)
        identity["language_model"] = found
    else:
        unchecked.append("language model")
    try:
        checkpoint.require_fit(card, identity, path)
        lora.require_same(card.get("lora"), config.lora, path)
    except UserError as error:
        yield Finding(
            name, MISSING, str(error), "start from a checkpoint of the same parts, or train step 1 with them"
        )
        return
    shape = tuple(tensors["weight"].shape) if "weight" in tensors else ()
    if patient.shape and shape != (patient.shape.width, config.qformer.width):
        wanted = (patient.shape.width, config.qformer.width)
        yield Finding(name, MISSING, f"{path}: its projection is {shape}, here it must be {wanted}")
        return
    text = f"{checkpoint.find(path)} ({card.get('step')}, iteration {card.get('iteration')})"
    if unchecked:
        yield Finding(
            name, WARNING, f"{text}; not compared, since its files are not here: {', '.join(unchecked)}"
        )
    elif not card.get("known_answer"):
        yield Finding(
            name, WARNING, f"{text}; saved without a known answer, so wrong weights would go unseen"
        )
    else:
        yield Finding(name, OK, f"{text}; encoder, language model and template are the same")


def _foreign_projection(patient: Patient, path: str) -> Finding:
    """A `.pth` of MiniGPT-4 or the published SkinGPT-4: it records widths alone."""
    try:
        width, query_width = minigpt4.shape_of(path)
        minigpt4.require_width(
            path, patient.shape.width if patient.shape else width, patient.config.qformer.width
        )
    except UserError as error:
        return Finding("starts from", MISSING, str(error), "bring a projection of these widths")
    fits = projection_fits(width, query_width)
    return Finding(
        "starts from",
        WARNING,
        f"{path}: MiniGPT-4's layout, for {fits}; whether it was trained with this encoder, language model and "
        "template, the file does not say",
    )


def _train_first(config: Config) -> str:
    return "train step 1 first: python train.py --config STEP1.yaml" if config.step == "step2" else ""


def data(patient: Patient) -> Iterator[Finding]:
    """Manifests: there, readable, with their pictures."""
    if not patient.config.data.train:
        yield Finding("data.train", MISSING, "names no manifest", "data.train=[MANIFEST.jsonl]")
    for key in ("train", "validation"):
        for path in getattr(patient.config.data, key):
            if not Path(path).exists():
                yield Finding(f"data.{key}", MISSING, f"{path} is not there", mend_for(path))
                continue
            try:
                records = read_manifest(path)
            except UserError as error:
                yield Finding(f"data.{key}", MISSING, str(error))
                continue
            patient.num_pictures += len(records)
            gone = [r.image_path for r in records[:50] if not _has_picture(r)]
            if gone:
                text = f"{path}: {len(gone)} of its first 50 pictures are not there, e.g. {gone[0]}"
                yield Finding(f"data.{key}", MISSING, text)
            else:
                yield Finding(f"data.{key}", OK, f"{path}: {len(records):,} records")


def _has_picture(record: Any) -> bool:
    path = Path(record.image_path)
    return path.exists() or any(parent.is_file() for parent in path.parents)  # inside an archive
