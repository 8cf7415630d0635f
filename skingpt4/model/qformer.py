"""The frozen Q-Former (BLIP-2, arXiv 2301.12597): learned queries that read the vision tokens."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel

from skingpt4.weights.files.layouts import QFORMER_PREFIXES, qformer_recipes, unused
from skingpt4.weights.files.source import TensorSource, load_into, open_source


class QFormer(nn.Module):
    """`num_query_tokens` learned queries, a BERT-like encoder with cross-attention every n-th layer."""

    def __init__(
        self,
        encoder_width: int,
        num_query_tokens: int = 32,
        width: int = 768,
        num_layers: int = 12,
        num_heads: int = 12,
        intermediate_width: int = 3072,
        cross_attention_every: int = 2,
    ) -> None:
        """Build with random weights; the defaults are BLIP-2's."""
        super().__init__()
        self.model = Blip2QFormerModel(
            Blip2QFormerConfig(
                hidden_size=width,
                num_hidden_layers=num_layers,
                num_attention_heads=num_heads,
                intermediate_size=intermediate_width,
                cross_attention_frequency=cross_attention_every,
                encoder_hidden_size=encoder_width,
                # The vocabulary belongs to the text branch, which is never built.
                use_qformer_text_input=False,
            )
        )
        self.query_tokens = nn.Parameter(torch.randn(1, num_query_tokens, width) * 0.02)
        self.width, self.num_query_tokens = width, num_query_tokens

    def load(
        self,
        path: str | Path | TensorSource,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> list[str]:
        """Load weights strictly: our safetensors, a LAVIS BLIP-2 `.pth`, or a Hugging Face directory of BLIP-2.

        The text branch is left out. InstructBLIP trained its Q-Former to read the instruction beside the
        queries; without that text its weights load, but it is not the model that was published.

        Args:
            path: the file or directory.
            device: where the Q-Former will be.
            dtype: of its weights; None keeps the module's own (fp32).

        Returns:
            The names of the file's tensors that were not used.

        Raises:
            WeightsMismatch: a tensor is missing, of another shape, or not expected.
        """
        source = open_source(path, QFORMER_PREFIXES)
        recipes = qformer_recipes(source)
        load_into(self, source, recipes, "Q-Former", device, dtype)
        return unused(source, recipes.values())

    def forward(self, tokens: Tensor) -> Tensor:
        """Map vision tokens (b, n, encoder width) to queries (b, q, d)."""
        queries = self.query_tokens.expand(len(tokens), -1, -1)
        return self.model(query_embeds=queries, encoder_hidden_states=tokens).last_hidden_state
