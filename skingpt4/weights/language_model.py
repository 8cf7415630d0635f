"""What can be known of a language model before its gigabytes are read: whether it is complete, and its vocabulary.

Everything is read from headers and configurations, except one tensor of a few kilobytes: the final norm of a Llama,
which tells an unmerged Vicuna delta from a model (`skingpt4.weights.files.inspect_directory.delta_evidence`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError
from transformers import AutoConfig

from skingpt4.support.errors import UserError
from skingpt4.weights.files.inspect_directory import inspect
from skingpt4.weights.files.inspection import KINDS


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


def configuration(name: str) -> Any:
    """The part of a model's `config.json` that describes its text network.

    Raises:
        LanguageModelError: it cannot be read, or the family is not known to transformers.
    """
    try:
        return AutoConfig.from_pretrained(name).get_text_config()
    except (OSError, ValueError, KeyError) as error:
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
    else:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        why = f"cannot be loaded ({lines[0][:300]})"
    return LanguageModelError(f"language.model: {name} {why}")


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
