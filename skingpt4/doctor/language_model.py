"""The doctor's look at the language model, its tokenizer and the prompt template, from small files and headers."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from skingpt4.doctor import memory
from skingpt4.doctor.findings import MISSING, OK, WARNING, Finding, Patient, first_line, is_local, mend_for
from skingpt4.model.prompts import get_template
from skingpt4.support.errors import UserError
from skingpt4.weights.files.inspect_directory import inspect


def language_model(patient: Patient) -> Iterator[Finding]:
    """Family, sizes and completeness of the language model's files, or what a download would bring."""
    name = patient.config.language.model
    if not is_local(name):
        yield from _hub_model(patient, name)
    elif not (Path(name) / "config.json").is_file():
        yield Finding("language model", MISSING, f"{name}: {_why_no_folder(Path(name))}", mend_for(name))
        return
    else:
        found = inspect(name)
        if not found.usable or found.kind != "language_model":
            gone = (
                f"{len(found.missing)} tensors are missing, e.g. {found.missing[0]}" if found.missing else ""
            )
            why = found.problem or gone or f"is no language model but: {found.kind}"
            text = why if name in why else f"{name}: {why}"
            yield Finding("language model", MISSING, text, mend_for(name))
        else:
            size = found.num_bytes / 1e9
            yield Finding(
                "language model", OK, f"{name}: {len(found.tensors)} tensors, {size:.1f} GB, complete"
            )
    try:
        patient.language_config = AutoConfig.from_pretrained(name, local_files_only=not patient.online)
        patient.shape = memory.language_shape(patient.language_config)
    except (OSError, ValueError, KeyError) as error:
        patient.shape = memory.shape_of(name)
        if is_local(name):
            yield Finding(
                "language model", MISSING, f"{name}: its config.json is not usable ({first_line(error)})"
            )
    if patient.language_config is not None and is_local(name):
        yield from _lacking(patient, name)
    if patient.shape:
        s = patient.shape
        known = "" if patient.language_config else " (published sizes)"
        text = f"{s.family}, {s.num_layers} layers of {s.width}, {s.num_parameters / 1e6:,.0f} M parameters{known}"
        yield Finding("family and sizes", OK, text)
    else:
        yield Finding(
            "family and sizes", WARNING, "unknown until config.json is here; what follows is partial"
        )


def _why_no_folder(path: Path) -> str:
    if path.is_file():
        return "is a file; name a language model's directory, with config.json and tokenizer"
    return "holds no config.json" if path.is_dir() else "is not there"


def _lacking(patient: Patient, name: str) -> Iterator[Finding]:
    """Tensors that the network wants and its files have not; only where both use the same names."""
    with torch.device("meta"):
        laid_out = AutoModelForCausalLM.from_config(patient.language_config)
    head = laid_out.get_output_embeddings()
    wanted = {n for n, _ in laid_out.named_parameters()}
    if patient.language_config.get_text_config().tie_word_embeddings:
        wanted -= {n for n in wanted if laid_out.get_parameter(n) is head.weight and "lm_head" in n}
    gone = sorted(wanted - inspect(name).tensors.keys())
    if gone and len(gone) < len(wanted) / 2:
        shown = ", ".join(gone[:3]) + (", ..." if len(gone) > 3 else "")
        yield Finding(
            "its tensors", MISSING, f"{name}: lacks {len(gone)} of {len(wanted)}: {shown}", mend_for(name)
        )


def _hub_model(patient: Patient, name: str) -> Iterator[Finding]:
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(try_to_load_from_cache(name, "config.json"), str):
        yield Finding("language model", OK, f"{name}: in the hub's cache")
        return
    fetch = f"hf download {name}"
    shape = memory.shape_of(name)
    size = f"about {memory.weight_bytes(shape, 'float16') / 1e9:.0f} GB" if shape else "size unknown offline"
    patient.download_bytes = memory.weight_bytes(shape, "float16") if shape else 0
    if patient.online:
        try:
            info = HfApi().model_info(name, files_metadata=True)
            wanted = [
                f.size or 0 for f in info.siblings or [] if f.rfilename.endswith((".safetensors", ".json"))
            ]
            patient.download_bytes = sum(wanted)
            gate = (
                "; gated: accept its terms on its page and log in with `hf auth login`" if info.gated else ""
            )
            size = f"{sum(wanted) / 1e9:.1f} GB{gate}"
        except (HfHubHTTPError, OfflineModeIsEnabled, OSError, ValueError) as error:
            yield Finding(
                "language model", MISSING, f"{name}: the hub does not give it ({first_line(error)})", fetch
            )
            return
    elif name.startswith("meta-llama/"):
        size += "; gated: accept its terms on its page and log in with `hf auth login`"
    offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
    text = f"{name}: is not here; the run would download it ({size})"
    if offline:
        text = f"{name}: is not here, and HF_HUB_OFFLINE forbids the download ({size})"
    yield Finding("language model", MISSING if offline else WARNING, text, fetch)


def tokenizer(patient: Patient) -> Iterator[Finding]:
    """The tokenizer against the model's vocabulary, and the prompt template against both."""
    name = patient.config.language.model
    try:
        patient.tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=not patient.online)
    except (OSError, ValueError, KeyError, ImportError) as error:
        if is_local(name) and Path(name).is_dir():
            yield Finding(
                "tokenizer", MISSING, f"{name}: cannot be read ({first_line(error)})", mend_for(name)
            )
        else:
            yield Finding(
                "tokenizer", WARNING, f"{name}: has none here, so it and the template are unchecked"
            )
        try:
            get_template(patient.config.prompt.template)
        except UserError as error:
            yield Finding("prompt template", MISSING, str(error), "prompt.template=...")
        return
    words, size = patient.tokenizer, len(patient.tokenizer)
    rows = patient.shape.vocabulary if patient.shape else size
    special = ", ".join(f"{k} {v}" for k, v in words.special_tokens_map.items() if isinstance(v, str))
    text = f"{size:,} tokens ({special})"
    if size > rows:
        text += f", but the model has {rows:,} embeddings: another model's tokenizer"
        yield Finding("tokenizer", MISSING, text, mend_for(name))
    else:
        yield Finding(
            "tokenizer", OK, text + (f"; the model has {rows:,} embeddings" if rows != size else "")
        )
    yield template(patient.config.prompt.template, words, name)


def template(name: str, words: Any, model: str) -> Finding:
    """Whether a template's special tokens are single tokens of the vocabulary, and whether it is the model's own."""
    title = "prompt template"
    try:
        chosen = get_template(name)
    except UserError as error:
        return Finding(title, MISSING, str(error), "prompt.template=...")
    if chosen is None:
        if getattr(words, "chat_template", None):
            return Finding(title, OK, "the tokenizer's own chat template")
        return Finding(
            title, MISSING, "the tokenizer has no chat template of its own", "prompt.template=vicuna"
        )
    texts = (chosen.system, chosen.user, chosen.assistant, chosen.end, chosen.image, *chosen.stop)
    marks = sorted({m for text in texts for m in re.findall(r"<\|[^|>]+\|>|</?s>", text)})
    vocabulary = words.get_vocab()
    broken = [mark for mark in marks if mark not in vocabulary]
    if broken:
        own = (
            "prompt.template=tokenizer" if getattr(words, "chat_template", None) else "prompt.template=vicuna"
        )
        return Finding(
            title,
            MISSING,
            f"{name}: {', '.join(broken)} is no token of this vocabulary, so answers never end",
            own,
        )
    wanted = _usual_template(model)
    if wanted and name not in wanted:
        return Finding(
            title, WARNING, f"{name}, but {model} was tuned with {wanted[0]}", f"prompt.template={wanted[0]}"
        )
    return Finding(
        title, OK, name + (f"; {', '.join(marks)} are tokens" if marks else f"; ends at {chosen.end!r}")
    )


def _usual_template(model: str) -> Sequence[str]:
    name = model.lower()
    if "vicuna" in name:
        return ("vicuna", "vicuna_system", "instruction")
    if "llama-2" in name and "chat" in name:
        return ("llama2", "tokenizer")
    return ("falcon", "tokenizer") if "falcon" in name else ()
