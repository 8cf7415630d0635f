"""How the language model responds to the vectors of a picture: which ask for its words, and the derivatives there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from skingpt4.config.schema import Config
from skingpt4.model.network import SkinGPT4
from skingpt4.model.projection import Projection
from skingpt4.records.manifest import Manifest
from skingpt4.records.record import Record
from skingpt4.training.batches import Collate, make_collate
from skingpt4.training.samples import SampleEncoder, TrainingSamples
from skingpt4.training.start.labels import Labels

RATE = 0.15  # of the spread of the language model's embeddings
WARM_UP, LAST_RATE = 5, 0.1
NOISE = 0.1  # added to each label while words are learned: what a regression finds is a mixture
DAMPING = 0.03  # of the largest singular value of the responses


class Shifted(nn.Module):
    """A projection, a constant that is added to all its vectors, and a shift of them for each label.

    Args:
        base: of the picture's vectors (width d).
        num_labels: each input vector is followed by so many numbers, the factors of the shifts.
    """

    def __init__(self, base: Projection, num_labels: int) -> None:
        super().__init__()
        self.base, width = base, base.out_features
        self.constant = nn.Parameter(torch.zeros(width, device=base.weight.device))
        self.shifts = nn.Parameter(torch.zeros(num_labels, width, device=base.weight.device))

    def forward(self, inputs: Tensor) -> Tensor:
        """Map vectors and factors (images, q, d + labels) to (images, q, width)."""
        inputs = inputs.to(self.shifts.device).float()
        width = self.base.in_features
        return self.base(inputs[..., :width]) + inputs[..., width:] @ self.shifts + self.constant


class Responses:
    """Measures a model's responses to the vectors of pictures, through the loss of the run itself.

    Args:
        model: the network.
        vectors: (q, d) of the picture of a row.
        records: of the training.
        labels: of the same rows.
        config: of the run.
    """

    def __init__(
        self,
        model: SkinGPT4,
        vectors: Callable[[int], Tensor],
        records: Manifest,
        labels: Labels,
        config: Config,
    ) -> None:
        assert isinstance(model.projection, Projection)
        self.model, self.labels, self.config = model, labels, config
        self.shifted = Shifted(model.projection, len(labels.names))
        # Answers to later questions name no label, and as complete conversations they would be most of the tokens.
        prompt = replace(config.prompt, other_share=0.0)
        self._texts = SampleEncoder.from_config(replace(config, prompt=prompt), model.tokenizer)

        def with_labels(row: int, rng: np.random.Generator | None) -> dict[str, Tensor]:
            assert rng is not None
            noise = torch.from_numpy(rng.standard_normal(len(labels.names), dtype=np.float32))
            return {"queries": _with(vectors(row), labels.values[row] + NOISE * noise)}

        sampling = config.data.sampling
        self._samples = TrainingSamples(records, self._texts, with_labels, config.seed, sampling=sampling)
        self._collate: Collate = make_collate(config, model.language_model)
        self._record = records[int(self._samples.rows[0])]

    def learn_words(self, iterations: int) -> Tensor:
        """Train a shift for each label, and a constant, with the step's loss and the labels in place of the pictures.

        Returns:
            (width,): the constant with the mean of the records' shifts, a vector after which the model answers in
            the words of the training, but not yet about a picture.
        """
        optim, embeddings = self.config.optim, self.model.language_model.get_input_embeddings()
        size, spread = optim.batch_size * optim.accumulation, float(embeddings.weight.std())
        with torch.no_grad():
            self.shifted.shifts.copy_(self._word_means() * spread)
        learned = [self.shifted.shifts, self.shifted.constant]
        rate, optimizer = RATE * spread, torch.optim.Adam(learned, betas=(0.8, 0.95))
        bar = tqdm(range(iterations), desc="words of the labels", unit="it")
        for number in bar:
            progress = min(1.0, (number + 1) / WARM_UP) * (1 - (1 - LAST_RATE) * number / iterations)
            optimizer.param_groups[0]["lr"] = rate * progress
            samples = [self._samples[i] for i in range(number * size, (number + 1) * size)]
            bar.set_postfix(loss=f"{self._backward(samples):.3f}", refresh=False)
            nn.utils.clip_grad_norm_(learned, 1.0)
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad():
            shifts = self.shifted.shifts.clone()
            self.shifted.shifts.zero_()
            return self.shifted.constant.add_(self.labels.values.mean(0).to(shifts) @ shifts)

    def of_labels(self, mean: Tensor) -> Tensor:
        """Derivatives of the log-probability of each label's answer by all vectors of the mean picture alike.

        They are taken where `learn_words` ended.

        Args:
            mean: (q, d) of the mean picture.

        Returns:
            (labels, width) fp32.
        """
        factors = torch.eye(len(self.labels.names))
        size = self.config.optim.batch_size * self.config.optim.accumulation
        samples = [
            {"encoded": self._texts(record, question), "queries": _with(mean, own)}
            for (record, question), own in zip(self._answers(), factors, strict=True)
        ]
        for first in tqdm(range(0, len(samples), size), desc="responses to the labels", unit="batch"):
            self._backward(samples[first : first + size], mean=False)
        return -self.shifted.shifts.grad  # type: ignore[operator]

    @torch.no_grad()
    def _word_means(self) -> Tensor:
        """(labels, width): the mean embedding of each label's tokens, with the norm of one token of spread 1."""
        embeddings = self.model.language_model.get_input_embeddings()
        rows = []
        for name in self.labels.names:
            ids = self.model.tokenizer(f" {name.lower()}", add_special_tokens=False)["input_ids"]
            ids = torch.tensor(ids, device=embeddings.weight.device)
            rows.append(embeddings(ids).float().mean(0))
        means = torch.stack(rows)
        return means / means.norm(dim=1, keepdim=True) * means.shape[1] ** 0.5

    def _answers(self) -> list[tuple[Record, str]]:
        """For each label a record that has nothing else, and a question that it answers."""
        prompt, names = self.config.prompt, self.labels.names
        plain = replace(self._record, concepts=None, disease=None, note=None, caption=None, turns=())
        return [
            (replace(plain, concepts=(name,)), prompt.concepts_question or prompt.questions[0])
            if number < self.labels.num_concepts
            else (replace(plain, disease=name), prompt.questions[0])
            for number, name in enumerate(names)
        ]

    def _backward(self, samples: Sequence[dict[str, Any]], mean: bool = True) -> float:
        """Add the gradient of the loss a token, or of its sum; returns nats a token."""
        model, base, inputs = self.model, self.shifted.base, self.model.input_map
        required = base.weight.requires_grad
        base.requires_grad_(False)
        model.projection, model.input_map = self.shifted, None  # type: ignore[assignment]
        try:
            groups = self._collate(samples)
            count = sum(int((group["labels"][:, 1:] >= 0).sum()) for group in groups)
            total = 0.0
            for group in groups:
                loss, _ = model(**group)
                (loss / count if mean else loss).backward()
                total += float(loss.detach())
        finally:
            model.projection, model.input_map = base, inputs
            base.requires_grad_(required)
        return total / count


def _with(vectors: Tensor, factors: Tensor) -> Tensor:
    return torch.cat([vectors.float(), factors.expand(len(vectors), -1)], 1)


def inverse(responses: Tensor, kinds: Sequence[slice]) -> Tensor:
    """The shifts that raise the log-probability of one label over the others of its kind by 1, to first order.

    Shifts of least norm; combinations to which the model hardly responds are left out smoothly (DAMPING), since
    nothing is linear over the shifts that they would need.

    Args:
        responses: (labels, width).
        kinds: the rows of labels that stand against each other.

    Returns:
        (width, labels) fp64.
    """
    centred = torch.cat([part - part.mean(0) for kind in kinds if len(part := responses[kind].double())])
    damping = (DAMPING * torch.linalg.matrix_norm(centred, 2)) ** 2
    return torch.linalg.solve(centred @ centred.T + damping * torch.eye(len(centred)), centred).T
