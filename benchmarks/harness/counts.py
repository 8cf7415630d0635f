"""Operations counted from shapes: what a training step, a pass and a token cost, whoever computes them.

A frozen language model costs 2N operations for a token forward and 2N backward (through activations, without
gradients of weights), where N is the number of entries in its layers' matrices. Its head is counted separately, at
the positions it is applied to; the encoder by its matrix products. Attention's own products (a few per cent at these
lengths) and everything that is not a matrix product are left out, on both sides.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from skingpt4.doctor.memory import LanguageShape

WHAT = (
    "4 N a token that a batch holds, padding included (N: numbers in the layers' matrices; 2 N forward, 2 N backward "
    "through activations), 4 x width x vocabulary a position whose logits are computed, and the encoder's forward; "
    "attention's own products are left out"
)


@dataclass(frozen=True)
class Step:
    """What one side computes in a run."""

    tokens: int  # that go through the layers, padding included
    logits: int  # positions whose logits are computed
    pictures: int  # that go through the encoder

    def flops(self, shape: LanguageShape, encoder_flops: float) -> dict[str, float]:
        """By part, for a training step.

        Args:
            shape: of the language model.
            encoder_flops: of one picture.
        """
        return {
            "layers forward": 2.0 * shape.num_in_matrices * self.tokens,
            "layers backward": 2.0 * shape.num_in_matrices * self.tokens,
            "head": 4.0 * shape.width * shape.vocabulary * self.logits,
            "encoder": encoder_flops * self.pictures,
        }

    def to_dict(self) -> dict[str, Any]:
        """For a result's JSON."""
        return asdict(self)


@torch.no_grad()
def forward_flops(module: nn.Module, inputs: Tensor) -> float:
    """Operations in one forward pass, of matrix products and convolutions with weights; attention's own left out."""
    with FlopCounterMode(display=False) as counter:
        module(inputs)
    operations = counter.get_flop_counts()["Global"]
    return float(
        sum(n for op, n in operations.items() if "attention" not in str(op) and "bmm" not in str(op))
    )


def decode_bytes(model: Any) -> int:
    """Bytes that a decoded token must read: all weights but the input table, the head's (or the shared one) once."""
    table = model.get_input_embeddings().weight
    shared = table is model.get_output_embeddings().weight
    total = sum(p.numel() * p.element_size() for p in model.parameters())
    return total - (0 if shared else table.numel() * table.element_size())
