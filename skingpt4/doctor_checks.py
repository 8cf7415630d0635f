"""The single checks of the doctor: each looks at headers and small files alone and returns findings."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from skingpt4 import checkpoint, lora, memory, run_dir
from skingpt4.catalogue import fetch_command
from skingpt4.config import LOCAL, Config, to_yaml
from skingpt4.errors import UserError
from skingpt4.inspection import inspect
from skingpt4.language import choose_dtype
from skingpt4.layouts import NORM_NAMES, QFORMER_PREFIXES, VISION_PREFIXES, brings_norm
from skingpt4.manifests import read_manifest
from skingpt4.model import encoder_identity
from skingpt4.prompts import get_template
from skingpt4.qformer import QFormer
from skingpt4.tensor_source import built_without_memory, header_source
from skingpt4.vision import VisionEncoder

OK, WARNING, MISSING = "ok", "warning", "missing"


@dataclass(frozen=True)
class Finding:
    """One line of the doctor: `mend` is the command or the key that helps, empty where nothing is wrong.

    `missing` would stop the run; `warning` would not, but somebody should look.
    """

    name: str
    state: str
    text: str
    mend: str = ""


@dataclass
class Patient:
    """A configuration and what the checks have found out about it so far."""

    config: Config
    online: bool = False
    language_config: Any = None  # transformers' configuration of the language model
    tokenizer: Any = None
    shape: memory.LanguageShape | None = None
    encoder_parameters: int = 0
    encoder_width: int | None = None
    num_pictures: int = 0
    download_bytes: int = 0

    @property
    def device(self) -> torch.device:
        """Where the language model will compute."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def dtype(self) -> str:
        """In which precision it will."""
        return str(choose_dtype(self.config.language.dtype, self.device)).removeprefix("torch.")


def is_local(name: str) -> bool:
    """Whether a language model's name is a path."""
    return name.startswith(LOCAL) or Path(name).is_dir()


def language_model(patient: Patient) -> Iterator[Finding]:
    """Family, sizes and completeness of the language model's files, or what a download would bring."""
    name = patient.config.language.model
    if not is_local(name):
        yield from _hub_model(patient, name)
    elif not (Path(name) / "config.json").is_file():
        yield Finding("language model", MISSING, f"{name}: holds no config.json", mend_for(name))
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
                "language model", MISSING, f"{name}: its config.json is not usable ({_line(error)})"
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
                "language model", MISSING, f"{name}: the hub does not give it ({_line(error)})", fetch
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
            yield Finding("tokenizer", MISSING, f"{name}: cannot be read ({_line(error)})", mend_for(name))
        else:
            yield Finding("tokenizer", WARNING, f"{name}: is not here, so it and the template are unchecked")
        try:
            get_template(patient.config.prompt.template)
        except UserError as error:
            yield Finding("prompt template", MISSING, str(error), "prompt.template=...")
        return
    words, size = patient.tokenizer, len(patient.tokenizer)
    rows = patient.shape.vocabulary if patient.shape else size
    special = ", ".join(f"{k} {v}" for k, v in words.special_tokens_map.items() if isinstance(v, str))
    text = f"{type(words).__name__}, {size:,} tokens ({special})"
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


def encoder(patient: Patient) -> Iterator[Finding]:
    """Vision encoder and Q-Former: laid out without memory, their files' headers compared name by name."""
    v, q = patient.config.vision, patient.config.qformer
    try:
        vision = built_without_memory(
            lambda: VisionEncoder(v.model, dict(v.model_args), v.image_size, v.block, v.norm, v.norm_eps)
        )
    except UserError as error:
        yield Finding("vision encoder", MISSING, str(error))
        return
    patient.encoder_width = vision.width
    patient.encoder_parameters += sum(p.numel() for p in vision.parameters())
    text = f"{v.model}, {vision.num_tokens} tokens of {vision.width}"
    yield _weights("vision encoder", text, v.weights, VISION_PREFIXES, vision)
    qformer = built_without_memory(
        lambda: QFormer(
            vision.width, q.num_query_tokens, q.width, q.num_layers, q.num_heads, q.intermediate_width,
            q.cross_attention_every,
        )
    )  # fmt: skip
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


def machine(patient: Patient) -> Iterator[Finding]:
    """Device, precision, memory for training and chat, disk, and the run's own folder."""
    config, device, dtype = patient.config, patient.device, patient.dtype
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info()
        text = f"{torch.cuda.device_count()} GPU, {torch.cuda.get_device_name()}, {free / memory.GIB:.0f} GiB free"
    else:
        text = f"no GPU, {os.cpu_count()} CPU cores"
        free = psutil.virtual_memory().available
    quantised = "" if config.language.quantization == "none" else f", {config.language.quantization} matrices"
    text += f"; computes in {dtype}{quantised}"
    if device.type == "cpu" and dtype == "float16":
        yield Finding("device", MISSING, f"{text}: float16 needs a GPU", "language.dtype=float32")
    else:
        yield Finding("device", OK, text)
    if patient.shape and patient.encoder_parameters:
        spread = config.language.device_map not in (None, "cuda", "cpu")
        yield from _memory(patient, free, spread)
    yield _disk(patient)
    if config.step != "none":
        try:
            run_dir.check(Path(config.output_dir), to_yaml(config), resume=True, overwrite=False)
            told = (
                "holds this run already; --resume goes on" if Path(config.output_dir).exists() else "is free"
            )
            yield Finding("output_dir", OK, f"{config.output_dir}: {told}")
        except UserError as error:
            yield Finding("output_dir", MISSING, str(error))


def _memory(patient: Patient, free: int, spread: bool) -> Iterator[Finding]:
    config, shape, gpu = patient.config, patient.shape, patient.device.type == "cuda"
    assert shape is not None
    quantization = config.language.quantization
    needs = {}
    if config.step != "none":
        needs["memory, training"] = memory.training(
            config,
            shape,
            patient.dtype,
            patient.encoder_parameters,
            patient.num_pictures,
            quantization=quantization,
        )
    needs["memory, chat"] = memory.chat(
        config, shape, patient.dtype, patient.encoder_parameters, quantization=quantization
    )
    mends = {
        "memory, training": "language.quantization=nf4, data.feature_cache=runs/features with data.augment=false, "
        "a smaller optim.batch_size with more optim.accumulation, or a smaller language.model",
        "memory, chat": "language.quantization=nf4, or a smaller language.model",
    }
    for name, parts in needs.items():
        own = memory.CUDA_CONTEXT if gpu else memory.LIBRARIES
        total = sum(parts.values()) + own
        place = "on the GPU" if gpu else "of host memory"
        largest = sorted(parts, key=parts.__getitem__, reverse=True)[:2]
        told = ", ".join(f"{part} {parts[part] / memory.GIB:.1f}" for part in largest if parts[part])
        text = f"about {total / memory.GIB:.1f} GiB {place} ({told}); {free / memory.GIB:.1f} GiB are free"
        if gpu:
            host = memory.LIBRARIES + parts.get("kept features", 0)
            text += f"; host about {host / memory.GIB:.1f} GiB"
        # The estimate was up to 17 % too low (docs/memory.md): near the limit it warns, well above it it refuses.
        if spread or total <= 0.8 * free:
            yield Finding(name, OK, text)
        else:
            yield Finding(name, WARNING if total <= 1.1 * free else MISSING, text, mends[name])


def _disk(patient: Patient) -> Finding:
    config = patient.config
    place = Path(config.output_dir).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    width = patient.shape.width if patient.shape else 4096
    trained = (config.qformer.width + 1) * width
    if patient.shape:
        trained += memory.lora_parameters(patient.shape, config.lora.rank, config.lora.targets)
    need = 12 * trained * (config.log.keep_checkpoints + 1)
    if config.data.feature_cache:
        need += 2 * patient.num_pictures * config.qformer.num_query_tokens * config.qformer.width
    need += patient.download_bytes
    text = f"{free / 1e9:.1f} GB free, the run writes about {need / 1e9:.2g} GB"
    text += (
        f", the download of {patient.download_bytes / 1e9:.0f} GB included" if patient.download_bytes else ""
    )
    mend = "free some space, or name an output_dir (and HF_HOME) on a larger disk"
    return Finding("disk", OK, text) if need < free else Finding("disk", MISSING, text, mend)


def mend_for(path: str) -> str:
    """The command or the page that helps to get a file that is not there."""
    if command := fetch_command(path):
        return command
    if path.startswith("weights/"):
        return (
            "docs/weights.md says where it comes from; `python -m skingpt4.weights list` what can be fetched"
        )
    if path.startswith("runs/phantoms/"):
        return "make quickstart (renders the phantoms, trains on them and evaluates)"
    if path.endswith(".jsonl"):
        return "data/README.md says how to write a manifest"
    return ""


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]
