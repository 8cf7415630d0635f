"""A checkpoint's language model as other engines read it: LoRA multiplied in, tokenizer, template, and how to use it.

The projection stays in the checkpoint: pictures are encoded by this program, which sends embeddings.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from skingpt4.checkpoints import checkpoint
from skingpt4.checkpoints.load import ModelSource, load_model
from skingpt4.config.schema import DTYPES, Config
from skingpt4.model import lora
from skingpt4.model.network import SkinGPT4
from skingpt4.model.prompts import get_template
from skingpt4.support.cli import DISCLAIMER
from skingpt4.support.errors import UserError
from skingpt4.support.files import write_text
from skingpt4.weights import gguf_file
from skingpt4.weights.language_model import configuration

ENGINE, CARD, GGUF = "engine.yaml", "skingpt4.json", "model.gguf"
PORT = 8001


def options(name: str) -> str:
    """Of `vllm serve FOLDER`, for one card."""
    return f"--served-model-name {name} --enable-prompt-embeds --host 127.0.0.1 --port {PORT}"


class MergeError(UserError):
    """A language model that cannot be written for another engine; the message says why."""


def write_folder(
    source: ModelSource,
    out: Path,
    overwrite: bool = False,
    on_progress: Callable[[str], None] = lambda part: None,
    gguf_precision: str | None = None,
) -> str:
    """Write the language model of a checkpoint for another engine, completely or not at all.

    Args:
        source: the checkpoint, with its configuration; without one, its language model as it is.
        out: the folder.
        overwrite: replace the folder if it exists.
        on_progress: called with what is done next.
        gguf_precision: of `gguf_file.PRECISIONS`, for llama.cpp; None writes tensors and tokenizer for vLLM.

    Returns:
        The name under which to serve it: it changes whenever the checkpoint does.

    Raises:
        MergeError: the folder exists, or the language model has fewer bits than can be added to.
        GgufError: llama.cpp is not installed, or cannot have this language model.
        UserError: the checkpoint cannot be loaded, as of `load_model`.
        OSError: it cannot be written.
    """
    if out.exists() and not (overwrite and (out / CARD).is_file()):
        why = (
            "exists; add --overwrite"
            if (out / CARD).is_file()
            else "exists and is no such folder; name another"
        )
        raise MergeError(f"{out}: {why}")
    if gguf_precision not in (None, "f32"):
        gguf_file.llama_cpp_package()
    config = _as_stored(source.loadable)
    on_progress("loading the language model")
    model = load_model(config, source.checkpoint_path, with_encoder=False)
    card = checkpoint.load(source.checkpoint_path)[1] if source.checkpoint_path else {}
    has_lora = lora.merge(model.language_model)
    parts = {name: card.get(name) for name in ("tensors_sha256", "lora_sha256")}
    parts["language_model"] = os.path.basename(os.path.normpath(config.language.model))
    name = f"skingpt4-{hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]}"
    about = {
        "served_model_name": name,
        **parts,
        "lora_merged": has_lora,
        "dtype": gguf_precision or str(model.language_model.dtype).removeprefix("torch."),
        "template": _template(config, model),
        "stop_strings": list(model.end_tokens(())),
        "disclaimer": DISCLAIMER,
    }
    with _in_place(out, overwrite) as part:
        on_progress("writing its tensors")
        if gguf_precision:
            gguf_file.write(model.language_model.model, part / GGUF, gguf_precision)
        else:
            model.language_model.model.save_pretrained(part)
            model.tokenizer.save_pretrained(part)
        for file in part.iterdir():  # safetensors makes its own for their owner alone
            file.chmod(0o644)
        write_text(part / CARD, json.dumps(about, indent=1, ensure_ascii=False) + "\n")
        write_text(part / ENGINE, _llama_cpp_yaml(out / GGUF) if gguf_precision else _engine_yaml(name))
    return name


def _as_stored(config: Config) -> Config:
    """The configuration to load by: whole numbers of bits as the language model's files have them, on one device."""
    stored = str(getattr(configuration(config.language.model), "dtype", None)).removeprefix("torch.")
    dtype = config.language.dtype
    if dtype == "auto":
        dtype = stored if stored in DTYPES else "float32"
    language = replace(config.language, dtype=dtype, quantization="none", device_map=None, max_memory={})
    return replace(config, language=language)


def _template(config: Config, model: SkinGPT4) -> dict[str, Any]:
    """How a conversation is written; for people, and for programs that embed it themselves."""
    template = get_template(config.prompt.template)
    if template is None:
        return {"name": config.prompt.template, "jinja": model.tokenizer.chat_template}
    return asdict(template)


def _engine_yaml(name: str) -> str:
    return (
        f"# {DISCLAIMER}\n"
        "# Start the engine (docs/engines.md has more), then add --engine and this file's path to the page, the\n"
        "# API, chat or batch:\n"
        f"#   vllm serve THIS_FOLDER {options(name)}\n"
        "engine:\n"
        "  name: vllm\n"
        f"  url: http://127.0.0.1:{PORT}/v1\n"
        f"  model: {name}\n"
    )


def _llama_cpp_yaml(path: Path) -> str:
    return (
        f"# {DISCLAIMER}\n"
        "# Add --engine and this file's path to the page, the API, chat or batch; docs/engines.md has more.\n"
        f"engine:\n  name: llama_cpp\n  file: {path}\n"
    )


@contextmanager
def _in_place(out: Path, overwrite: bool) -> Iterator[Path]:
    """An empty folder that takes the name `out` when all of it is written."""
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        if overwrite and out.exists():
            shutil.rmtree(out)
        os.replace(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
