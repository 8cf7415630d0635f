"""What an arm is shown, as images: each case's own, changed ones, or a control's."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from eval.asking import perturbations
from eval.asking.cases import Case
from eval.asking.perturbations import BLANK, NOISE, OTHER
from skingpt4.records.images import open_image

SIZE = (448, 448)  # of a control's images
MEAN_COLOUR = (
    123,
    117,
    104,
)  # of the photographs that most encoders are normalised with, as in `model.vision`


class ShownImages:
    """The images of every case under one control."""

    def __init__(self, cases: Sequence[Case], control: str | None, seed: int) -> None:
        """`seed` is of noise and of the choice of another case.

        Raises:
            PerturbationError: another case's image of a single case.
        """
        self.cases, self.control, self.seed = cases, control, seed
        self._others: list[int] = []
        if control == OTHER:
            classes = [case.known.class_name or case.known.disease for case in cases]
            self._others = perturbations.other_cases(classes, seed)

    def of(self, number: int, change: str | None = None) -> list[Image.Image]:
        """The images of a case, upright RGB; `change` names a perturbation.

        Raises:
            ImageError: one is missing or damaged.
        """
        case = self.cases[number]
        if self.control == BLANK:
            images = [Image.new("RGB", SIZE, MEAN_COLOUR) for _ in case.rows]
        elif self.control == NOISE:
            images = [perturbations.noise(SIZE, self.seed * 1_000_003 + row) for row in case.rows]
        elif self.control == OTHER:
            other = self.cases[self._others[number]].records[0]
            images = [open_image(other.image_path)] * len(case.rows)
        else:
            images = [open_image(record.image_path) for record in case.records]
        return images if change is None else [perturbations.perturb(image, change) for image in images]
