"""What can be known of a language model before its gigabytes are read: whether it is complete, and its vocabulary.

Everything is read from headers and configurations, except one tensor of a few kilobytes: the final norm of a Llama,
which tells an unmerged Vicuna delta from a model (`skingpt4.weights.files.inspect_directory.delta_evidence`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoTokenizer

from skingpt4.support.errors import UserError
from skingpt4.weights.files.inspect_directory import inspect
from skingpt4.weights.files.inspection import KINDS
from skingpt4.weights.names import is_local

SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "intermediate_size")
# Multimodal families of which the language model alone is used, by the model type in `config.json`: how the names of
# its tensors become those of the language model (older and newer files), and what else their files hold.
_TEXT_PARTS = {
    "gemma3": (
        {r"^(model\.)?language_model\.(model\.)?": "model.", r"^language_model\.lm_head": "lm_head"},
        ("vision_tower", "multi_modal_projector"),
    )
}
MAX_SIZE, MAX_LAYERS = 10_000_000, 1000  # far above any model's, and small enough that nothing hangs


class LanguageModelError(UserError):
    """A language model that cannot be loaded; the message says which and what to do."""


def require_complete(folder: str | Path) -> None:
    """Refuse a directory that is not a complete language model.

    Raises:
        LanguageModelError: a delta used unmerged, a truncated or missing shard, or another kind of directory.
    """
    inspection = inspect(folder)
    if inspection.problem:
        raise LanguageModelError(f"language.model: {inspection.problem}")
    if inspection.kind != "language_model":
        kind = KINDS[inspection.kind]
        raise LanguageModelError(f"language.model: {folder} is not a language model but: {kind}")
    # Only files: transformers knows better than a header which tensors a family needs.
    missing = [name for name in inspection.missing if re.search(r"\.(safetensors|bin)$", name)]
    if missing:
        raise LanguageModelError(f"language.model: {folder} lacks {', '.join(missing[:3])}; fetch it again")


def local_folder(name: str) -> str:
    """The folder of a language model on this machine, without fetching: a path as it is, of a hub id the cached copy.

    Raises:
        LanguageModelError: the hub's cache has no such model.
    """
    if is_local(name):
        return name
    try:
        return snapshot_download(name, local_files_only=True)
    except (LocalEntryNotFoundError, HFValidationError):
        raise LanguageModelError(
            f"language.model: the checkpoint names {name!r}, which is not on this machine, and what a checkpoint "
            f"names is not fetched unasked; if you trust it, run `hf download {name}` or name it in a --config"
        ) from None


def read_configuration(name: str, local_only: bool = False) -> Any:
    """A model's `config.json` as transformers' configuration; code that comes with it is never run.

    Of Gemma 3 and MedGemma with their own vision tower it is the configuration of the language model alone.

    Args:
        name: a directory or a hub id.
        local_only: ask nobody for what is not here.

    Raises:
        LanguageModelError: it cannot be read, or describes no network that transformers can build.
    """
    try:
        config = AutoConfig.from_pretrained(name, local_files_only=local_only, trust_remote_code=False)
        text = config.get_text_config()
    except (
        Exception
    ) as error:  # transformers takes the file's word for every type, and trips over it anywhere
        raise cannot_load(name, error) from None
    for key in SIZES:
        value = getattr(text, key, None)
        if value is not None and not (type(value) is int and 0 < value <= MAX_SIZE):
            raise LanguageModelError(
                f"language.model: {name}: the {key} in its config.json is {value!r}; it must be a whole number "
                f"from 1 to {MAX_SIZE:,}; get the file again"
            )
    if (layers := getattr(text, "num_hidden_layers", None)) is not None and layers > MAX_LAYERS:
        raise LanguageModelError(
            f"language.model: {name}: its config.json asks for {layers:,} layers; at most {MAX_LAYERS:,} are built"
        )
    if config.model_type in _TEXT_PARTS:
        text.name_or_path = config.name_or_path
        return text
    return config


@contextmanager
def text_part(name: str) -> Iterator[dict[str, Any]]:
    """What `from_pretrained` needs to load only the language model of a multimodal directory; usually nothing.

    Meanwhile the tensors of its other parts are passed over without a report.

    Args:
        name: a directory or a hub id.

    Raises:
        OSError, ValueError: its configuration cannot be read, as transformers says it.
    """
    kind = AutoConfig.from_pretrained(name, trust_remote_code=False).model_type
    if kind not in _TEXT_PARTS:
        yield {}
        return
    renaming, others = _TEXT_PARTS[kind]
    text = read_configuration(name)
    network = MODEL_FOR_CAUSAL_LM_MAPPING[type(text)]
    with mock.patch.object(network, "_keys_to_ignore_on_load_unexpected", list(others)):
        yield {"config": text, "key_mapping": renaming}


def configuration(name: str) -> Any:
    """The part of a model's `config.json` that describes its text network; errors as of `read_configuration`."""
    return read_configuration(name).get_text_config()


def read_tokenizer(name: str, local_only: bool = False) -> Any:
    """A model's tokenizer; code that comes with it is never run.

    Args:
        name: a directory or a hub id.
        local_only: ask nobody for what is not here.

    Raises:
        LanguageModelError: it cannot be read.
    """
    try:
        return AutoTokenizer.from_pretrained(name, local_files_only=local_only, trust_remote_code=False)
    except Exception as error:  # as in `read_configuration`; the library in Rust raises plain exceptions
        raise cannot_load(name, error) from None


def cannot_load(name: str, error: Exception) -> LanguageModelError:
    """What failed in transformers with a model, in one sentence; where the hub refused, with the way out.

    Args:
        name: of the model.
        error: transformers'; huggingface_hub's own is its cause.
    """
    reasons = {type(each) for each in (error, error.__cause__)}
    if GatedRepoError in reasons:
        why = "is gated; accept its terms on its page, then set a token with `hf auth login` (or HF_TOKEN)"
    elif RepositoryNotFoundError in reasons:
        why = (
            "is neither a directory here nor a public model of the hub; check the name, or run `hf auth login` "
            "if it is yours"
        )
    elif LocalEntryNotFoundError in reasons:
        why = (
            "is not in the hub's cache, and the hub cannot be reached or is forbidden (HF_HUB_OFFLINE); fetch it "
            "with `skingpt4 weights fetch`, or name a local directory"
        )
    elif HFValidationError in reasons:
        why = "is neither a directory here nor a name that the hub may have, such as lmsys/vicuna-7b-v1.5"
    elif isinstance(error, TypeError | AttributeError | LookupError | RecursionError) and is_local(name):
        why = (
            f"cannot be loaded: its config.json or tokenizer has a value that transformers cannot use "
            f"({_shortened(error)})"
        )
    elif "trust_remote_code" in str(error):
        why = "brings Python code of its own, which is not run; name a model whose family transformers knows"
    else:
        why = f"cannot be loaded ({_shortened(error)})"
    return LanguageModelError(f"language.model: {name} {why}")


def _shortened(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def require_vocabulary(name: str, tokenizer: Any) -> None:
    """Refuse a tokenizer with tokens that the model has no embedding for: its ids belong to another model.

    A model with more rows than its tokenizer has tokens is common (padding to a round number) and passes.

    Raises:
        LanguageModelError: names both numbers.
    """
    rows, tokens = getattr(configuration(name), "vocab_size", None), len(tokenizer)
    if rows is None or tokens <= rows:
        return
    hint = ""
    if (rows, tokens) == (32000, 32001):
        hint = " (32001 is Vicuna v0's, 32000 LLaMA's and Vicuna v1.1's)"
    raise LanguageModelError(
        f"language.model: the tokenizer in {name} knows {tokens} tokens, the model has {rows}{hint}; "
        "take the tokenizer files of the model itself"
    )
