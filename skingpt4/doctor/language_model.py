"""The doctor's checks of language model, tokenizer and prompt template, from small files and headers."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
from transformers import AutoModelForCausalLM

from skingpt4.checkpoints.paths import how_to_get
from skingpt4.doctor import memory
from skingpt4.doctor.findings import MISSING, OK, WARNING, Facts, Finding, first_line
from skingpt4.doctor.shapes import language_shape, shape_of
from skingpt4.model.prompts import get_template
from skingpt4.support.errors import UserError
from skingpt4.weights.fetch.catalogue import fetch_command
from skingpt4.weights.files.inspect_directory import inspect
from skingpt4.weights.files.source import shapes_alone
from skingpt4.weights.language_model import LanguageModelError, read_configuration, read_tokenizer
from skingpt4.weights.names import is_hub_id, is_local


def language_model(facts: Facts) -> Iterator[Finding]:
    """Family, sizes and completeness of the language model's files, or what a download would bring."""
    name = facts.config.language.model
    if not (is_local(name) or is_hub_id(name)):
        text = f"{name!r}: is neither a directory here nor a name that the hub may have"
        yield Finding("language model", MISSING, text, "language.model=...")
        return
    if not is_local(name):
        yield _hub_model(facts, name)
    elif not (Path(name) / "config.json").is_file():
        yield Finding("language model", MISSING, f"{name}: {_why_no_folder(Path(name))}", how_to_get(name))
        facts.shape = shape_of(name)
        yield _sizes(facts)
        return
    else:
        yield _local_model(name)
    try:
        facts.language_config = read_configuration(name, local_only=not facts.online)
        facts.shape = language_shape(facts.language_config)
    except LanguageModelError as error:
        facts.language_config, facts.shape = None, shape_of(name)
        if is_local(name):
            text = str(error).removeprefix("language.model: ")
            yield Finding("language model", MISSING, f"its config.json is not usable: {text}")
    if facts.language_config is not None and is_local(name):
        yield from _missing_tensors(facts, name)
    yield _sizes(facts)


def _sizes(facts: Facts) -> Finding:
    s = facts.shape
    if s is None:
        return Finding(
            "family and sizes", WARNING, "unknown until config.json is here; what follows is partial"
        )
    origin = "" if facts.language_config else " (published sizes)"
    text = (
        f"{s.family}, {s.num_layers} layers of {s.width}, {s.num_parameters / 1e6:,.0f} M parameters{origin}"
    )
    return Finding("family and sizes", OK, text)


def _local_model(name: str) -> Finding:
    inspection = inspect(name)
    if inspection.usable and inspection.kind == "language_model":
        size = inspection.num_bytes / 1e9
        text = f"{name}: {len(inspection.tensors)} tensors, {size:.1f} GB, complete"
        return Finding("language model", OK, text)
    why = inspection.problem or f"is not a language model but: {inspection.kind}"
    if inspection.missing and not inspection.problem:
        why = f"{len(inspection.missing)} tensors are missing, e.g. {inspection.missing[0]}"
    return Finding("language model", MISSING, why if name in why else f"{name}: {why}", how_to_get(name))


def _why_no_folder(path: Path) -> str:
    if path.is_file():
        return "is a file; name a language model's directory, with config.json and tokenizer"
    return "holds no config.json" if path.is_dir() else "is not there"


def _missing_tensors(facts: Facts, name: str) -> Iterator[Finding]:
    """Tensors that the network needs and its files lack; only where both use the same names."""
    with shapes_alone():
        empty = AutoModelForCausalLM.from_config(facts.language_config, trust_remote_code=False)
    head = empty.get_output_embeddings()
    needed = {n for n, _ in empty.named_parameters()}
    if facts.language_config.get_text_config().tie_word_embeddings:
        needed -= {n for n in needed if empty.get_parameter(n) is head.weight and "lm_head" in n}
    missing = sorted(needed - inspect(name).tensors.keys())
    if missing and len(missing) < len(needed) / 2:
        shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        text = f"{name}: lacks {len(missing)} of {len(needed)}: {shown}"
        yield Finding("its tensors", MISSING, text, how_to_get(name))


def _hub_model(facts: Facts, name: str) -> Finding:
    """A language model that the hub's cache holds, or that a download would bring."""
    from huggingface_hub import HfApi, try_to_load_from_cache

    if isinstance(try_to_load_from_cache(name, "config.json"), str):
        return Finding("language model", OK, f"{name}: in the hub's cache")
    fetch = f"hf download {name}"
    if command := fetch_command(name):
        fetch = f"{command}, then language.model=weights/{command.split()[-1]}"
    shape = shape_of(name)
    facts.download_bytes = memory.weight_bytes(shape, "float16") if shape else 0
    size = f"about {facts.download_bytes / 1e9:.0f} GB" if shape else "size unknown offline"
    gated = name.startswith("meta-llama/")
    if facts.online:
        try:
            info = HfApi().model_info(name, files_metadata=True)
        except (httpx.HTTPError, OSError, ValueError) as error:  # no network, refused, or no such name
            text = f"{name}: the hub does not provide it ({first_line(error)})"
            return Finding("language model", MISSING, text, fetch)
        files = [f for f in info.siblings or [] if f.rfilename.endswith((".safetensors", ".json"))]
        facts.download_bytes = sum(f.size or 0 for f in files)
        size, gated = f"{facts.download_bytes / 1e9:.1f} GB", bool(info.gated)
    if gated:
        size += "; gated: accept its terms on its page and log in with `hf auth login`"
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        text = f"{name}: is not here, and HF_HUB_OFFLINE forbids the download ({size})"
        return Finding("language model", MISSING, text, fetch)
    return Finding(
        "language model", WARNING, f"{name}: is not here; the run would download it ({size})", fetch
    )


def tokenizer(facts: Facts) -> Iterator[Finding]:
    """The tokenizer against the model's vocabulary, and the prompt template against both."""
    name = facts.config.language.model
    try:
        facts.tokenizer = read_tokenizer(name, local_only=not facts.online)
    except LanguageModelError as error:
        if is_local(name) and Path(name).is_dir():
            yield Finding(
                "tokenizer", MISSING, f"{name}: cannot be read ({first_line(error)})", how_to_get(name)
            )
        else:
            yield Finding("tokenizer", WARNING, f"{name}: is not here, so it and the template are unchecked")
        try:
            get_template(facts.config.prompt.template)
        except UserError as error:
            yield Finding("prompt template", MISSING, str(error), "prompt.template=...")
        return
    words, size = facts.tokenizer, len(facts.tokenizer)
    rows = facts.shape.vocabulary if facts.shape else size
    special = ", ".join(f"{k} {v}" for k, v in words.special_tokens_map.items() if isinstance(v, str))
    text = f"{size:,} tokens ({special})"
    if size > rows:
        text += f", but the model has {rows:,} embeddings: another model's tokenizer"
        yield Finding("tokenizer", MISSING, text, how_to_get(name))
    else:
        yield Finding(
            "tokenizer", OK, text + (f"; the model has {rows:,} embeddings" if rows != size else "")
        )
    yield template(facts.config.prompt.template, words, name)


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
    marks = sorted({m for text in texts for m in re.findall(r"<\|[^|>]+\|>|</?s>|<\w+_of_turn>", text)})
    vocabulary = words.get_vocab()
    broken = [mark for mark in marks if mark not in vocabulary]
    if broken:
        own = (
            "prompt.template=tokenizer" if getattr(words, "chat_template", None) else "prompt.template=vicuna"
        )
        return Finding(
            title,
            MISSING,
            f"{name}: {', '.join(broken)} is not a token of this vocabulary, so answers never end",
            own,
        )
    usual = _usual_templates(model)
    if usual and name not in usual:
        return Finding(
            title, WARNING, f"{name}, but {model} was tuned with {usual[0]}", f"prompt.template={usual[0]}"
        )
    return Finding(
        title, OK, name + (f"; {', '.join(marks)} are tokens" if marks else f"; ends at {chosen.end!r}")
    )


# Parts of a language model's name, all in lower case, and the templates that it was tuned with.
_USUAL_TEMPLATES = {
    ("vicuna",): ("vicuna", "vicuna_system", "instruction"),
    ("llama-2", "chat"): ("llama2", "tokenizer"),
    ("llama-3",): ("llama3", "tokenizer"),
    ("falcon",): ("falcon", "tokenizer"),
    ("qwen3",): ("qwen3", "tokenizer"),
    ("gemma",): ("gemma", "tokenizer"),
}


def _usual_templates(model: str) -> Sequence[str]:
    name = model.lower()
    return next((usual for parts, usual in _USUAL_TEMPLATES.items() if all(p in name for p in parts)), ())
