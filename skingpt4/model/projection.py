"""The projection: the one layer that both steps train, from query vectors to the language model's embeddings."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Projection(nn.Linear):
    """One linear layer, in fp32 wherever it is called (`llama_proj` of MiniGPT-4 and SkinGPT-4)."""

    def forward(self, queries: Tensor) -> Tensor:
        """Map query vectors (images, q, d) to vectors (images, q, width) in fp32, on the projection's device."""
        with torch.autocast(self.weight.device.type, enabled=False):
            return super().forward(queries.to(self.weight.device).float())
