"""What the original does otherwise, as data: `compat: minigpt4` in a configuration chooses all of it at once.

Our own behaviour is the default; docs/parity.md says for each difference why it was mended.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Behaviour:
    """One way to train and to chat; the defaults are ours.

    `needs` are configuration keys with the only value that fits.
    """

    question_per_batch: bool = False  # one question for a whole batch instead of one a sample
    cut_blindly: bool = False  # a long answer ends at the last token that fits, without its end symbol
    warmup_restarts: bool = False  # the warm-up counts its iterations from each epoch's start
    clips: bool = True  # the gradient is clipped to optim.max_grad_norm
    mean_of_means: bool = False  # each batch's mean loss counts alike; accumulation adds them up undivided
    chat_template: str | None = None  # another prompt in the chat than in training
    needs: tuple[tuple[str, Any], ...] = ()


OURS = Behaviour()
BEHAVIOURS = {
    "none": OURS,
    "minigpt4": Behaviour(
        question_per_batch=True,
        cut_blindly=True,
        warmup_restarts=True,
        clips=False,
        mean_of_means=True,
        chat_template="minigpt4_chat",
        # The random crop of training; features are kept of whole pictures only.
        needs=(("prompt.template", "vicuna"), ("prompt.concepts_question", None), ("data.augment", True)),
    ),
}
