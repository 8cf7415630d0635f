"""How the original code differs from ours, as data: `compat: minigpt4` in a configuration selects all of it at once.

Our own behaviour is the default; docs/parity.md gives the reason for each difference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Behaviour:
    """One way to train and to chat; the defaults are ours.

    `needs` are configuration keys, each with the only value that fits.
    """

    question_per_batch: bool = False  # one question for a batch instead of one for each sample
    cut_blindly: bool = False  # a long answer ends at the last token that fits, without an end symbol
    warmup_restarts: bool = False  # the warm-up starts again with each epoch
    clips: bool = True  # the gradient is clipped to optim.max_grad_norm
    mean_of_means: bool = False  # batches' mean losses have equal weight; accumulation adds them undivided
    chat_template: str | None = None  # a prompt for the chat that differs from the one in training
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
        # The original trains on random crops; cached features are of complete images.
        needs=(
            ("prompt.template", "vicuna"),
            ("prompt.concepts_question", None),
            ("prompt.other_questions", {}),
            ("data.augment", True),
            ("projector", "qformer"),
            ("projection.inputs", "raw"),
            ("data.sampling", "uniform"),
            ("optim.disease_weight", 1.0),
            ("optim.class_weight", "none"),
            ("optim.name", "adamw"),
        ),
    ),
}
