"""Whether an engine has the language model that this program has: a few of its tokens, read here too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from skingpt4.generation.engine.client import EngineError
from skingpt4.generation.engine.wire import embedded, encoded, tokens_of
from skingpt4.model.network import SkinGPT4

PROMPT = (
    "The picture shows a skin disease, and what is known about such diseases of the skin is the following:"
)
NUM_TOKENS = 8
# Mean differences of log-probabilities that rounding explains: where both are in fp32, and in 16 or fewer bits.
FINE, COARSE = 0.05, 0.3


def trial_ids(model: SkinGPT4) -> list[int]:
    """The prompt's token ids."""
    return model.tokenizer(PROMPT, add_special_tokens=False)["input_ids"]


def trial_request(model: SkinGPT4, served: str) -> dict[str, Any]:
    """The body of the request for the tokens; the model computes."""
    return {
        "model": served,
        "prompt": [],
        "prompt_embeds": encoded(embedded(model, trial_ids(model), None)),
        "max_tokens": NUM_TOKENS,
        "temperature": 0.0,
        "logprobs": 0,
        "return_token_ids": True,
        "ignore_eos": True,
    }


def require_same_model(model: SkinGPT4, answer: Mapping[str, Any], url: str) -> None:
    """Refuse a server whose tokens have other probabilities here; the model computes.

    Args:
        model: the network.
        answer: to `trial_request`.
        url: for the message.

    Raises:
        EngineError: the server has another language model, or gives no probabilities.
    """
    tokens = tokens_of(answer, url)
    try:
        theirs = [float(value) for value in answer["choices"][0]["logprobs"]["token_logprobs"]]
    except (LookupError, TypeError, ValueError):
        theirs = []
    if not tokens or len(theirs) != len(tokens):
        raise EngineError(f"{url} gives no log-probabilities of its tokens; is it a vLLM server?")
    difference = mean_difference(model, tokens, theirs)
    language = model.language_model
    is_fine = language.dtype is torch.float32 and language.quantization == "none"
    if not difference <= (limit := FINE if is_fine else COARSE):
        raise EngineError(
            f"{url} serves another language model than this checkpoint's: after a trial prompt the log-probabilities "
            f"of its tokens differ by {difference:.3f} on average (at most {limit}); export the checkpoint again "
            "(skingpt4 export --vllm) and serve that folder"
        )


def mean_difference(model: SkinGPT4, tokens: Sequence[int], theirs: Sequence[float]) -> float:
    """Of an engine's log-probabilities of tokens after the trial prompt, from this program's; the model computes."""
    ours = _log_probabilities(model, trial_ids(model), tokens)
    return sum(abs(a - b) for a, b in zip(ours, theirs, strict=True)) / len(tokens)


@torch.no_grad()
def _log_probabilities(model: SkinGPT4, ids: Sequence[int], tokens: Sequence[int]) -> list[float]:
    """Of tokens after a prompt; none that the model does not have is likely."""
    if max(tokens) >= model.language_model.get_input_embeddings().weight.shape[0]:
        return [float("-inf")] * len(tokens)
    embeds = model.embed(torch.tensor([[*ids, *tokens]]), None)
    logits = model.language_model.logits(embeds)[0, len(ids) - 1 : -1].float().log_softmax(-1).cpu()
    return logits.gather(1, torch.tensor(tokens)[:, None])[:, 0].tolist()
