"""The image encoder run by LAVIS's own modules on our tensors: the backend `lavis`.

Ours is built and loaded first, then LAVIS's modules take over its very tensors. So every layout of weights that
we read serves both, memory holds them once, and the same map leads back to LAVIS's files.
"""

from __future__ import annotations

from functools import partial

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from skingpt4.lavis_bridge import LavisError, lavis_classes
from skingpt4.layouts import LAVIS_QFORMER
from skingpt4.qformer import QFormer
from skingpt4.vision import VisionEncoder


class LavisVision(nn.Module):
    """LAVIS's EVA-ViT and `ln_vision` in the place of a `VisionEncoder`."""

    def __init__(self, ours: VisionEncoder) -> None:
        """Take over the tensors of ours.

        Raises:
            LavisError: the backbone is no EVA-ViT as LAVIS has it, or LAVIS is not installed.
        """
        super().__init__()
        timm_vit = ours.backbone
        if "blocks.0.attn.q_bias" not in timm_vit.state_dict():
            raise LavisError(
                "encoder.backend: lavis runs EVA-ViT-g alone; set vision.model: eva_giant_patch14_clip_224, "
                "or encoder.backend: native"
            )
        if ours.block is not None or not ours.norm or timm_vit.norm.eps != 1e-5:
            raise LavisError(
                "encoder.backend: lavis takes the last block and ln_vision; set vision.block: null, "
                "vision.norm: true and vision.norm_eps: 1.0e-5, or encoder.backend: native"
            )
        first, width = timm_vit.blocks[0], timm_vit.embed_dim
        with init_empty_weights(include_buffers=False):
            self.visual_encoder = lavis_classes().VisionTransformer(
                img_size=timm_vit.patch_embed.img_size[0],
                patch_size=timm_vit.patch_embed.patch_size[0],
                embed_dim=width,
                depth=len(timm_vit.blocks),
                num_heads=first.attn.num_heads,
                mlp_ratio=(first.mlp.fc1.out_features + 0.5) / width,  # LAVIS rounds the product down
                qkv_bias=True,
                norm_layer=partial(nn.LayerNorm, eps=1e-6),
            )
        self.visual_encoder.load_state_dict(vision_to_lavis(ours), strict=True, assign=True)
        self.ln_vision = timm_vit.norm
        self.mean, self.std, self.width, self.num_tokens = ours.mean, ours.std, ours.width, ours.num_tokens
        self.image_size, self.num_prefix = ours.image_size, ours.num_prefix

    def forward(self, image: Tensor) -> Tensor:
        """Map pictures (b, 3, h, w), normalised, to tokens (b, n, d)."""
        return self.ln_vision(self.visual_encoder(image))


class LavisQFormer(nn.Module):
    """LAVIS's Q-Former without its text branch in the place of a `QFormer`."""

    def __init__(self, ours: QFormer) -> None:
        """Take over the tensors of ours.

        Raises:
            LavisError: LAVIS is not installed.
        """
        super().__init__()
        lavis, sizes = lavis_classes(), ours.model.config
        config = lavis.BertConfig(
            hidden_size=ours.width,
            num_hidden_layers=sizes.num_hidden_layers,
            num_attention_heads=sizes.num_attention_heads,
            intermediate_size=sizes.intermediate_size,
            vocab_size=1,  # the text branch is taken away below, as MiniGPT-4 does
            max_position_embeddings=1,
        )
        config.encoder_width, config.query_length = sizes.encoder_hidden_size, ours.num_query_tokens
        config.add_cross_attention, config.cross_attention_freq = True, sizes.cross_attention_frequency
        with init_empty_weights(include_buffers=False):
            self.bert = lavis.BertModel(config)
        embeddings = self.bert.embeddings
        embeddings.word_embeddings = embeddings.position_embeddings = None
        embeddings.register_buffer("position_ids", embeddings.position_ids, persistent=False)
        for layer in self.bert.encoder.layer:
            layer.intermediate = layer.output = None
        self.query_tokens = ours.query_tokens
        tensors = {key.removeprefix("Qformer."): value for key, value in qformer_to_lavis(ours).items()}
        self.load_state_dict(tensors, strict=True, assign=True)
        self.to(ours.query_tokens.device)  # LAVIS's own buffer
        self.width, self.num_query_tokens = ours.width, ours.num_query_tokens

    def forward(self, tokens: Tensor) -> Tensor:
        """Map vision tokens (b, n, encoder width) to queries (b, q, d)."""
        output = self.bert(
            query_embeds=self.query_tokens.expand(len(tokens), -1, -1),
            encoder_hidden_states=tokens,
            encoder_attention_mask=torch.ones(tokens.shape[:2], dtype=torch.long, device=tokens.device),
            output_attentions=False,
            output_hidden_states=False,
            return_dict=True,
        )
        return output.last_hidden_state


def vision_to_lavis(vision: VisionEncoder) -> dict[str, Tensor]:
    """Our EVA-ViT's tensors as `eva_vit_g.pth` names them: timm's names, without the final norm."""
    return {k: v for k, v in vision.backbone.state_dict().items() if not k.startswith("norm.")}


def qformer_to_lavis(qformer: QFormer) -> dict[str, Tensor]:
    """Our Q-Former's tensors as LAVIS's `blip2_pretrained_*.pth` names them; the inverse of loading that file."""
    renamed = {}
    for key, value in qformer.state_dict().items():
        for theirs, ours in LAVIS_QFORMER:
            key = key.replace(ours, theirs)
        renamed[key if key == "query_tokens" else f"Qformer.bert.{key.removeprefix('model.')}"] = value
    return renamed


def to_lavis(vision: VisionEncoder, qformer: QFormer) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """An encoder of ours as the contents of LAVIS's two files.

    Returns:
        (tensors of `eva_vit_g.pth`, tensors under `model` in `blip2_pretrained_*.pth`); they share our memory.
    """
    norm = {f"ln_vision.{key}": value for key, value in vision.backbone.norm.state_dict().items()}
    return vision_to_lavis(vision), norm | qformer_to_lavis(qformer)
