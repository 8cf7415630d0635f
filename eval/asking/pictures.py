"""What an arm is shown: each case's own pictures, changed ones, or a control's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from PIL import Image
from torch import Tensor

from eval.asking import perturbations
from eval.asking.cases import Case
from eval.asking.perturbations import BLANK, NOISE, OTHER
from skingpt4.config.schema import Config
from skingpt4.model.build import build_encoder
from skingpt4.model.network import ImageEncoder
from skingpt4.records.feature_store import FeatureStore
from skingpt4.records.images import open_image, to_tensor
from skingpt4.support.threads import in_own_thread

Pictures = Callable[[Sequence[int]], list[Tensor]]  # numbers of cases -> queries (pictures, q, d) of each


def first_equal(queries: Sequence[Tensor]) -> list[int]:
    """For each tensor the number, from 0, of the first one that equals it."""
    first: dict[tuple[torch.Size, bytes], int] = {}
    return [first.setdefault((q.shape, q.cpu().numpy().tobytes()), n) for n, q in enumerate(queries)]


class Shown:
    """Queries of what an arm is shown; the encoder is built only for pictures without cached features."""

    def __init__(
        self, cases: Sequence[Case], features: Tensor | FeatureStore, config: Config, device: torch.device
    ) -> None:
        """`features` (n, q, d) are those of all pictures in the order of the manifest."""
        self.cases, self.features, self.config, self.device = cases, features, config, device
        self._encoder: ImageEncoder | None = None

    def pictures(
        self, control: str | None, perturbation: str | None, numbers: Sequence[int], seed: int
    ) -> Pictures:
        """A source of queries for the cases with these numbers (the k-th asked is `numbers[k]`)."""
        others = []
        if control == OTHER:
            others = perturbations.other_cases([case.label for case in self.cases], seed)

        def of(places: Sequence[int]) -> list[Tensor]:
            return [self._of(numbers[place], control, perturbation, others, seed) for place in places]

        return of

    def _of(
        self, number: int, control: str | None, perturbation: str | None, others: list[int], seed: int
    ) -> Tensor:
        case = self.cases[number]
        if control == OTHER:
            return self.features[list(self.cases[others[number]].rows[:1]) * len(case.rows)]
        if control == BLANK:  # the encoder's mean colour
            size, crops = self.config.vision.image_size, self.config.vision.crops
            each = (3, size, size) if crops == 1 else (crops, 3, size, size)
            return self._encode(lambda: torch.zeros(len(case.rows), *each))
        if control == NOISE:
            size = self.config.vision.image_size
            return self._encode_images(
                [perturbations.noise((size, size), seed * 1_000_003 + row) for row in case.rows]
            )
        if perturbation is None:
            return self.features[list(case.rows)]
        return self._encode_images(
            [perturbations.perturb(open_image(record.image_path), perturbation) for record in case.records]
        )

    def _encode_images(self, images: Iterable[Image.Image]) -> Tensor:
        vision = self.encoder().vision_encoder
        size, crops = self.config.vision.image_size, self.config.vision.crops
        return self._encode(
            lambda: torch.stack(
                [
                    to_tensor(image, size, vision.mean, vision.std, None, crops, vision.interpolation)
                    for image in images
                ]
            )
        )

    def _encode(self, image: Callable[[], Tensor]) -> Tensor:
        return in_own_thread(lambda: self.encoder()(image()).cpu().half())  # the dtype of cached features

    def encoder(self) -> ImageEncoder:
        """The encoder, built at its first use."""
        if self._encoder is None:
            self._encoder = in_own_thread(lambda: build_encoder(self.config, self.device))
        return self._encoder
