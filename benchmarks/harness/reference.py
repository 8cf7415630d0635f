"""The original's training step and chat written plainly, as the baseline for correctness and speed.

Only benchmarks and tests use it. It does what the original does, even where the product fixes it: the encoder runs at
every step, each piece of text is tokenised and embedded separately, logits are computed over the complete sequence,
an answer is cut without its end symbol, and the chat reads the conversation again at every turn. docs/parity.md lists
all.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

END = "###"
IGNORED = -100
STOP_IDS = ((835,), (2277, 29937))  # "###" in Llama's vocabulary, after a blank and inside a word
SYSTEM = (
    "Give the following image: <Img>ImageContent</Img>. You will be able to see the image once I provide it to you. "
    "Please answer my questions."
)


@dataclass
class Original:
    """The parts. `encode` maps images (b, 3, h, w) to queries (b, q, d); only `projection` is trained."""

    encode: Callable[[Tensor], Tensor]
    projection: nn.Module
    language_model: Any
    tokenizer: Any
    max_txt_len: int = 160

    def project(self, image: Tensor) -> Tensor:
        """Images (b, 3, h, w) as vectors (b, q, width) of the language model, in its precision."""
        with torch.no_grad():
            queries = self.encode(image)
        return self.projection(queries).to(self.table.weight.dtype)

    @property
    def table(self) -> Any:
        """The language model's input embeddings."""
        return self.language_model.get_input_embeddings()

    def embed(self, text: str) -> Tensor:
        """(1, t, width) of a text tokenised on its own, without special tokens."""
        ids = self.tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        return self.table(ids.to(self.table.weight.device))

    def begin(self) -> Tensor:
        """(1, 1, width) of the tokenizer's first token; (1, 0, width) where it has none, as Falcon."""
        bos = self.tokenizer.bos_token_id
        ids = torch.tensor([[] if bos is None else [bos]], dtype=torch.long)
        return self.table(ids.to(self.table.weight.device))


def training_loss(parts: Original, image: Tensor, question: str, answers: Sequence[str]) -> Tensor:
    """Mean cross-entropy over the answers' tokens of a batch; every row has the same question.

    Args:
        parts: the network.
        image: (b, 3, h, w).
        question: of all rows.
        answers: b texts.
    """
    vectors = parts.project(image)
    rows = len(vectors)
    before, after = f"###Human: <Img><ImageHere></Img> {question} ###Assistant: ".split("<ImageHere>")
    prompt = torch.cat(
        [parts.begin().expand(rows, -1, -1), parts.embed(before).expand(rows, -1, -1), vectors,
         parts.embed(after).expand(rows, -1, -1)], dim=1,
    )  # fmt: skip

    tokenizer = parts.tokenizer
    tokenizer.padding_side = "right"
    text = tokenizer(
        [answer + END for answer in answers], return_tensors="pt", padding="longest", truncation=True,
        max_length=parts.max_txt_len, add_special_tokens=False,
    )  # fmt: skip
    device = vectors.device
    ids, mask = text["input_ids"].to(device), text["attention_mask"].to(device)
    targets = ids.masked_fill(ids == tokenizer.pad_token_id, IGNORED)
    labels = torch.cat([torch.full(prompt.shape[:2], IGNORED, device=device), targets], dim=1)
    embeds = torch.cat([prompt, parts.table(ids)], dim=1)
    attention = torch.cat([torch.ones(prompt.shape[:2], dtype=mask.dtype, device=device), mask], dim=1)
    logits = parts.language_model(inputs_embeds=embeds, attention_mask=attention).logits.float()
    return nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED
    )


def make_optimizer(projection: nn.Module, weight_decay: float = 0.05) -> torch.optim.AdamW:
    """AdamW; the bias is not decayed. The rate is set before each step."""
    return torch.optim.AdamW(
        [{"params": [projection.weight], "weight_decay": weight_decay},
         {"params": [projection.bias], "weight_decay": 0.0}],
        betas=(0.9, 0.999),
    )  # fmt: skip


@dataclass
class Schedule:
    """The learning rate: linear warm-up counted within the epoch, then cosine counted over the complete run."""

    max_epoch: int
    iters_per_epoch: int
    warmup_steps: int
    init_lr: float
    min_lr: float
    warmup_lr: float

    def rate(self, epoch: int, step: int) -> float:
        """Of step `step` (from 0) of an epoch (from 0)."""
        total = epoch * self.iters_per_epoch + step
        if total < self.warmup_steps:
            return min(
                self.init_lr, self.warmup_lr + (self.init_lr - self.warmup_lr) * step / self.warmup_steps
            )
        done = total / (self.max_epoch * self.iters_per_epoch)
        return self.min_lr + 0.5 * (self.init_lr - self.min_lr) * (1 + math.cos(math.pi * done))


@dataclass
class Batch:
    """One batch as a loader gives it."""

    image: Tensor  # (b, 3, h, w)
    answers: Sequence[str]


def training_step(
    parts: Original,
    optimizer: torch.optim.Optimizer,
    batches: Sequence[Batch],
    questions: Sequence[str],
    rate: float,
    draw: Callable[[Sequence[str]], str] = random.choice,
) -> list[float]:
    """One step over the batches it accumulates: losses are not divided by their number, gradients not clipped.

    Args:
        parts: the network.
        optimizer: of its projection.
        batches: one or more.
        questions: one is drawn for each batch.
        rate: the learning rate.
        draw: how; the original's draw is not seeded.

    Returns:
        Each batch's loss in nats a token.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate
    losses = []
    for batch in batches:
        loss = training_loss(parts, batch.image, draw(questions), batch.answers)
        loss.backward()
        losses.append(loss.item())
    optimizer.step()
    optimizer.zero_grad()
    return losses


@dataclass
class Chat:
    """A conversation; `messages` are the texts between two "###"."""

    parts: Original
    stop_ids: Sequence[Sequence[int]] = STOP_IDS
    messages: list[str] = field(default_factory=list)
    vectors: list[Tensor] = field(default_factory=list)

    def show(self, image: Tensor) -> None:
        """Add an image (1, 3, h, w) to the conversation."""
        with torch.no_grad():
            self.vectors.append(self.parts.project(image))
        self.messages.append("Human: <Img><ImageHere></Img>")

    def ask(self, question: str) -> None:
        """Add a question; right after an image it belongs to the image's message."""
        if self.messages and self.messages[-1].endswith("</Img>"):
            self.messages[-1] += f" {question}"
        else:
            self.messages.append(f"Human: {question}")

    @torch.no_grad()
    def embeds(self) -> Tensor:
        """(1, t, width) of the complete conversation, up to where the model continues."""
        text = END.join([SYSTEM, *self.messages, "Assistant:"])
        pieces = text.split("<ImageHere>")
        mixed = [self.parts.begin(), self.parts.embed(pieces[0])]
        for vectors, piece in zip(self.vectors, pieces[1:], strict=True):
            mixed += [vectors, self.parts.embed(piece)]
        return torch.cat(mixed, dim=1)

    def answer(self, sample: bool = True, max_new_tokens: int = 300, max_length: int = 2000) -> list[int]:
        """Generate an answer and add it to the conversation; returns its token ids.

        A conversation that would exceed `max_length` with the answer is cut at its start, the image included.
        """
        embeds = self.embeds()
        embeds = embeds[:, max(0, embeds.shape[1] + max_new_tokens - max_length) :]
        ids = generate(self.parts, embeds, self.stop_ids, sample, max_new_tokens)
        text = self.parts.tokenizer.decode(ids).split(END)[0].split("Assistant:")[-1].strip()
        self.messages.append(f"Assistant: {text}")
        return ids


@torch.no_grad()
def generate(
    parts: Original, embeds: Tensor, stop_ids: Sequence[Sequence[int]], sample: bool, max_new_tokens: int
) -> list[int]:
    """Token ids that follow embeddings (1, t, width), up to a stop sequence, the end token, or the limit.

    Sampling keeps the 50 likeliest tokens, of these the fewest that make up 0.9, at temperature 1.
    """
    model, past = parts.language_model, None
    ids: list[int] = []
    while len(ids) < max_new_tokens:
        out = model(inputs_embeds=embeds, past_key_values=past, use_cache=True)
        past, logits = out.past_key_values, out.logits[0, -1].float()
        ids.append(_draw(logits) if sample else int(logits.argmax()))
        ended = ids[-1] == parts.tokenizer.eos_token_id
        if ended or any(ids[-len(stop) :] == list(stop) for stop in stop_ids):
            break
        embeds = model.get_input_embeddings()(torch.tensor([[ids[-1]]], device=embeds.device))
    return ids


def _draw(logits: Tensor, top_k: int = 50, top_p: float = 0.9) -> int:
    likeliest = logits.topk(min(top_k, len(logits)))
    chances = likeliest.values.softmax(-1)
    in_top_p = chances.cumsum(-1) - chances < top_p
    return int(likeliest.indices[torch.multinomial(chances * in_top_p, 1)])
