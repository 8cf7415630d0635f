"""The frozen Q-Former (BLIP-2, arXiv 2301.12597): learned queries that read the vision tokens."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel

from skingpt4.config.schema import QFormerConfig
from skingpt4.weights.files.layouts import QFORMER_PREFIXES, qformer_recipes, unused
from skingpt4.weights.files.source import Recipe, TensorSource, load_into, open_source
from skingpt4.weights.files.tensors import WeightsMismatch


class QFormer(nn.Module):
    """`num_query_tokens` learned queries, a BERT-like encoder with cross-attention every n-th layer.

    It starts with random weights.

    Args:
        config: its sizes; the defaults are BLIP-2's. `config.weights` is not read here.
        encoder_width: of the vision tokens.
        text: also build the text branch, which only pretraining needs (`training.qformer`).
    """

    def __init__(self, config: QFormerConfig, encoder_width: int, text: bool = False) -> None:
        super().__init__()
        self.model = Blip2QFormerModel(
            Blip2QFormerConfig(
                hidden_size=config.width,
                num_hidden_layers=config.num_layers,
                num_attention_heads=config.num_heads,
                intermediate_size=config.intermediate_width,
                cross_attention_frequency=config.cross_attention_every,
                encoder_hidden_size=encoder_width,
                use_qformer_text_input=text,
            )
        )
        self.width, self.num_query_tokens = config.width, config.num_query_tokens
        self.query_tokens = nn.Parameter(torch.randn(1, self.num_query_tokens, self.width) * 0.02)

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
            dtype: of its weights; None leaves the module's own (fp32).

        Returns:
            The names of the file's tensors that were not used.

        Raises:
            WeightsMismatch: a tensor is missing, of another shape, not expected, or made for other tokens.
        """
        source = open_source(path, QFORMER_PREFIXES)
        recipes = qformer_recipes(source)
        self._require_width(source, recipes)
        load_into(self, source, recipes, "Q-Former", device, dtype)
        return unused(source, recipes.values())

    def _require_width(self, source: TensorSource, recipes: Mapping[str, Recipe]) -> None:
        """Refuse weights whose cross-attention reads tokens of another width than the vision encoder gives."""
        ours = self.model.config.encoder_hidden_size
        for name, (key, _) in recipes.items():
            if re.search(r"crossattention\.\w+\.key\.weight$", name) and source.header[key].shape[-1] != ours:
                raise WeightsMismatch(
                    f"{source.path}: this Q-Former reads vision tokens {source.header[key].shape[-1]} wide, and the "
                    f"vision encoder's are {ours} wide; set projector: mlp or linear, or train a Q-Former for it "
                    "(skingpt4 pretrain-qformer)"
                )

    def forward(self, tokens: Tensor) -> Tensor:
        """Map vision tokens (b, n, encoder width) to queries (b, q, d)."""
        queries = self.query_tokens.expand(len(tokens), -1, -1)  # (b, q, d)
        return self.model(query_embeds=queries, encoder_hidden_states=tokens).last_hidden_state
