"""Scores of the diseases of a closed set: after images, and without any."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from skingpt4.config.schema import PromptConfig
from skingpt4.generation.decoder import Decoder
from skingpt4.generation.engine.decoder import EngineDecoder
from skingpt4.generation.questions import DIAGNOSIS_QUESTION
from skingpt4.generation.scoring import score_tree
from skingpt4.model.network import SkinGPT4
from skingpt4.model.prompts import Turn, encode_turns, get_template
from skingpt4.taxonomy.closed_set import ClosedSet


class DiseaseScorer:
    """Scores the disease sentence with each disease of a closed set, for one checkpoint.

    Args:
        model: the network with the checkpoint's projection, and its LoRA if it has any.
        prompt: the template and the sentence.
        closed_set: the diseases.
        decoder: computes between the tokens of answers under way; by default the model's own.
    """

    def __init__(
        self,
        model: SkinGPT4,
        prompt: PromptConfig,
        closed_set: ClosedSet,
        decoder: Decoder | EngineDecoder | None = None,
    ) -> None:
        self.closed_set = closed_set
        self._model, self._decoder = model, decoder
        self._template = get_template(prompt.template)
        self._sentences = closed_set.sentences(prompt.disease_sentence)

    @cached_property
    def prior(self) -> np.ndarray:
        """(diseases,) log-probabilities, fp64, of the sentences after the same question without an image."""
        return self._score([0], None)[0]

    def scores(self, queries: Sequence[Tensor]) -> np.ndarray:
        """Log-probabilities (cases, diseases), fp64, of the sentences after the images of each case.

        Args:
            queries: (images, q, d) of each case.
        """
        return self._score([len(shown) for shown in queries], torch.cat(list(queries)))

    def _score(self, num_images: Sequence[int], queries: Tensor | None) -> np.ndarray:
        width = 0 if queries is None else queries.shape[1]
        prompts = [
            encode_turns(
                self._template, [Turn(DIAGNOSIS_QUESTION, None, count)], self._model.tokenizer, width
            )
            for count in num_images
        ]
        decoder = self._decoder or Decoder.of(self._model)
        scores = decoder.run(lambda: score_tree(self._model, prompts, queries, self._sentences))
        return scores.double().numpy()
