"""The frozen Q-Former (BLIP-2, arXiv 2301.12597): learned queries that read the vision tokens."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel

from skingpt4.tensors import load_tensors, require_same_tensors

_LAVIS_NAMES = (
    ("embeddings.LayerNorm.", "layernorm."),
    (".attention.self.", ".attention.attention."),
    (".crossattention.self.", ".crossattention.attention."),
)


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

    def load(self, path: str | Path) -> None:
        """Load weights strictly: our safetensors, or a LAVIS BLIP-2 `.pth`.

        Raises:
            WeightsMismatch: a tensor is missing, of another shape, or not expected.
        """
        tensors = load_tensors(path)
        if Path(path).suffix == ".pth":
            tensors = from_lavis(tensors)
        require_same_tensors(tensors, self.state_dict(), str(path), "Q-Former")
        self.load_state_dict(tensors, strict=True)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map vision tokens (b, n, encoder width) to queries (b, q, d)."""
        queries = self.query_tokens.expand(len(tokens), -1, -1)
        return self.model(query_embeds=queries, encoder_hidden_states=tokens).last_hidden_state


def from_lavis(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of LAVIS's `blip2_pretrained_*.pth` to `QFormer`'s, leaving out the text branch."""
    renamed = {"query_tokens": tensors["query_tokens"]} if "query_tokens" in tensors else {}
    for key, value in tensors.items():
        if not key.startswith("Qformer.bert."):
            continue
        key = key.removeprefix("Qformer.bert.")
        text_feed_forward = re.match(r"encoder\.layer\.\d+\.(intermediate|output)\.", key)
        if text_feed_forward or re.match(r"embeddings\.(word|position)", key):
            continue
        for old, new in _LAVIS_NAMES:
            key = key.replace(old, new)
        renamed[f"model.{key}"] = value
    return renamed
