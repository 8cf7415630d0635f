"""SkinGPT-4 composed: frozen vision encoder and Q-Former, one trainable projection, frozen language model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from skingpt4.config.schema import Config
from skingpt4.model import lora
from skingpt4.model.encoders.encoder import VisionEncoder
from skingpt4.model.language import LanguageModel
from skingpt4.model.lavis import LavisQFormer, LavisVision
from skingpt4.model.loss import preference_loss, supervised_loss
from skingpt4.model.precision import DTYPES, describe_precision, half_precision, num_bytes
from skingpt4.model.projection import InputMap, Pooling, make_projection
from skingpt4.model.prompts import IMAGE_TOKEN, Encoded
from skingpt4.model.qformer import QFormer
from skingpt4.support.marks import special_tokens


class ImageEncoder(nn.Module):
    """Vision encoder and Q-Former (or pooling) as one frozen map from images to queries, always in eval mode.

    Args:
        vision_encoder: images to tokens.
        qformer: tokens to queries; with the projectors mlp and linear `Pooling` stands in its place.
        precision: auto stores fp32 weights and computes in the precision that the device is fast in. A half precision
            by name is also that of the stored matrices; norms, positions and the residual stream stay fp32, since
            an encoder that is converted completely has about three times the error.
    """

    def __init__(
        self,
        vision_encoder: VisionEncoder | LavisVision,
        qformer: QFormer | LavisQFormer | Pooling,
        precision: str = "auto",
    ) -> None:
        super().__init__()
        self.vision_encoder, self.qformer, self.precision = vision_encoder, qformer, precision
        if precision in ("float16", "bfloat16"):
            for module in self.modules():
                if isinstance(module, nn.Linear | nn.Conv2d):
                    module.to(DTYPES[precision])
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> ImageEncoder:
        """Stay in eval mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """Map images (b, 3, h, w), or several crops of each (b, c, 3, h, w), to queries (b, q, d) in fp32."""
        if image.dim() == 5:
            return self(image.flatten(0, 1)).unflatten(0, image.shape[:2]).flatten(1, 2)  # (b, c * q, d)
        device = next(self.parameters()).device
        with half_precision(device, self.precision):
            tokens = self.vision_encoder(image.to(device))  # (b, n, encoder width)
            return self.qformer(tokens).float()  # (b, q, d)

    def describe_place(self) -> str:
        """A line on how it is stored, e.g. ``computes in bfloat16 on cpu, 0.093 GiB``."""
        device = next(self.parameters()).device
        size = sum(map(num_bytes, self.parameters()))
        return f"{describe_precision(self.precision, device)}, {size / 2**30:.2g} GiB"


class SkinGPT4(nn.Module):
    """The network. Only `projection` (and LoRA, if added) is trained.

    Args:
        encoder: the image encoder, or None where only precomputed queries are used.
        language_model: the frozen language model.
        query_width: width d of the queries.
        projector: qformer, linear or mlp.
        hidden_width: of mlp.

    Attributes:
        input_map: the coordinates in which the projection is trained, if they are not the queries' own.
    """

    def __init__(
        self,
        encoder: ImageEncoder | None,
        language_model: LanguageModel,
        query_width: int,
        projector: str = "qformer",
        hidden_width: int | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.language_model = language_model
        width = language_model.get_input_embeddings().weight.shape[1]
        self.projection = make_projection(projector, query_width, width, hidden_width)
        self.input_map: InputMap | None = None
        self.config: Config | None = None  # only of a model `from_pretrained`

    @property
    def tokenizer(self) -> Any:
        """The language model's."""
        return self.language_model.tokenizer

    def plain_projection(self) -> dict[str, Tensor]:
        """The projection's tensors as a checkpoint holds them: plain layers, the `input_map` multiplied in."""
        tensors = self.projection.state_dict()
        if self.input_map is None:
            return tensors
        return self.input_map.folded(tensors, self.projection.first_layer)

    def train(self, mode: bool = True) -> SkinGPT4:
        """Put only what is trained (the projection, and LoRA if there is any) into training mode."""
        super().train(False)
        self.projection.train(mode)
        lora.set_training(self.language_model, mode)
        return self

    def encode_images(self, image: Tensor) -> Tensor:
        """Map images (b, 3, h, w), or crops of them (b, c, 3, h, w), to queries (b, q, d)."""
        if self.encoder is None:
            raise RuntimeError("this model was built without an image encoder; give it queries")
        return self.encoder(image)

    def embed(self, input_ids: Tensor, queries: Tensor | None) -> Tensor:
        """Input embeddings (b, t, width) with projected queries at IMAGE_TOKEN, in order of occurrence.

        Args:
            input_ids: (b, t) int64.
            queries: (images, q, d), one for each image in the batch, or None without images.

        Raises:
            ValueError: there are more or fewer image positions than vectors for them.
        """
        input_ids = input_ids.to(self.language_model.input_device)
        embeds = self.language_model.get_input_embeddings()(input_ids.clamp(min=0))  # (b, t, width)
        is_image = input_ids == IMAGE_TOKEN  # (b, t)
        num_positions = int(is_image.sum())
        num_vectors = 0 if queries is None else queries.shape[0] * queries.shape[1]
        if num_positions != num_vectors:
            raise ValueError(
                f"the text has {num_positions} image positions, the pictures give {num_vectors} vectors"
            )
        if queries is None:
            return embeds
        if self.input_map is not None:
            queries = self.input_map(queries)
        projected = self.projection(queries)  # (images, q, width)
        return embeds.masked_scatter(is_image[..., None], projected.flatten(0, 1).to(embeds))

    def forward(
        self,
        input_ids: Tensor,
        labels: Tensor,
        attention_mask: Tensor | None = None,
        image: Tensor | None = None,
        queries: Tensor | None = None,
        weights: Tensor | None = None,
        reference: Tensor | None = None,
        beta: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Summed cross-entropy over supervised tokens; with `reference` the loss of preferences over pairs of rows.

        Args:
            input_ids: (b, t) with IMAGE_TOKEN where queries go, right padded.
            labels: (b, t), IGNORED where not supervised.
            attention_mask: (b, t), 0 at padding; None where there is none.
            image: (images, 3, h, w) or (images, c, 3, h, w), or
            queries: (images, q, d) precomputed.
            weights: (b, t) fp32, of the labels in the sum; None is 1 for all.
            reference: (b / 2,) fp32, with
            beta: as of `preference_loss`; the first half of the rows has the preferred answers.

        Returns:
            (loss summed over the supervised tokens or pairs, fp32 scalar on `input_ids`' device; their number, int64
            scalar).
        """
        if queries is None and image is not None:
            queries = self.encode_images(image)  # (images, q, d)
        embeds = self.embed(input_ids, queries)  # (b, t, width)
        mask = None if attention_mask is None else attention_mask.to(embeds.device)
        if reference is not None:
            assert beta is not None
            beta = beta.to(embeds.device)
            loss, count = preference_loss(self.language_model, embeds, labels, mask, reference, beta)
        else:
            loss, count = supervised_loss(self.language_model, embeds, labels, mask, weights)
        return loss.to(input_ids.device), torch.tensor(count)

    @torch.no_grad()
    def generate(
        self, encoded: Sequence[Encoded], queries: Tensor | None, stop: Sequence[str] = (), **options: Any
    ) -> list[str]:
        """Answer prompts in one batch, left padded, each row stopped on its own decoded text.

        Args:
            encoded: one prompt per row.
            queries: (images, q, d) of all rows in order.
            stop: strings that end an answer and are cut off.
            options: passed to the language model's `generate`, e.g. `max_new_tokens`, `do_sample`, `streamer`.
        """
        input_ids, attention_mask = pad_left([e.input_ids for e in encoded])
        embeds = self.embed(input_ids, queries)  # (b, t, width)
        # A stop string that is one special token is cheaper to recognise as an id than in decoded text.
        ends = self.end_tokens(stop)
        options["eos_token_id"] = sorted(ends.values()) or None
        if strings := [s for s in stop if s not in ends]:
            options |= {"stop_strings": strings, "tokenizer": self.tokenizer}
        pad = self.tokenizer.pad_token_id
        pads = tuple(filter(None, [self.tokenizer.pad_token]))
        ids = self.language_model.generate(
            inputs_embeds=embeds,
            attention_mask=attention_mask.to(embeds.device),
            pad_token_id=self.tokenizer.eos_token_id if pad is None else pad,
            **options,
        )
        return [
            cut_at(self.tokenizer.decode(row, skip_special_tokens=False), (*stop, *ends, *pads))
            for row in ids
        ]

    def end_tokens(self, stop: Sequence[str]) -> dict[str, int]:
        """Special tokens that end an answer, text to id: the model's own, the tokenizer's, those of `stop`."""
        own = self.language_model.generation_config.eos_token_id
        ids = own if isinstance(own, list) else [own] if own is not None else []
        special = {s: self.tokenizer.convert_tokens_to_ids(s) for s in special_tokens(self.tokenizer)}
        named = {s: special[s] for s in (*stop, self.tokenizer.eos_token) if s in special}
        return named | {
            s: i for s, i in zip(self.tokenizer.convert_ids_to_tokens(ids), ids, strict=True) if s
        }

    def num_parameters(self) -> tuple[int, int]:
        """(trainable, all) numbers of parameters."""
        parameters = list(self.parameters())
        return sum(p.numel() for p in parameters if p.requires_grad), sum(p.numel() for p in parameters)


def num_parameters(module: nn.Module) -> int:
    """All parameters of a module."""
    return sum(p.numel() for p in module.parameters())


def cut_at(text: str, stops: Sequence[str]) -> str:
    """The text before the first of the stop strings, without surrounding blanks."""
    for stop in stops:
        text = text.split(stop)[0]
    return text.strip()


def pad_left(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """(input_ids, attention_mask), both (b, t) int64; padding precedes the text."""
    length = max(map(len, rows))
    ids = torch.tensor([[0] * (length - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    return ids, mask
