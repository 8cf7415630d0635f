import numpy as np
import pytest
from PIL import Image

from eval.asking import perturbations
from eval.asking.perturbations import PerturbationError, perturb


@pytest.fixture
def image():
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(60, 255, (12, 16, 3), dtype=np.uint8))
    return small.resize((160, 120), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("name", perturbations.STANDARD)
def test_every_standard_change_changes_little_and_leaves_the_original(image, name):
    before = image.copy()
    changed = perturb(image, name)
    assert changed.mode == "RGB"
    assert np.array_equal(np.asarray(image), np.asarray(before))
    same_size = np.asarray(changed.resize(image.size), dtype=float)
    difference = np.abs(same_size - np.asarray(image, dtype=float)).mean()
    assert 0.2 < difference < 80


def test_turning_leaves_no_empty_corner():
    for degrees in (5, 15, 45, 90, -30, 135):
        turned = np.asarray(perturb(Image.new("RGB", (160, 120), "white"), f"rotate:{degrees}"))
        assert turned.min() > 200, degrees


@pytest.mark.parametrize("name", ["rotate:0", "light:1", "blur:0", "crop:1", "resolution:1"])
def test_no_strength_is_no_change(image, name):
    assert np.abs(np.asarray(perturb(image, name), int) - np.asarray(image, int)).max() <= 1


def test_stronger_is_farther(image):
    def far(name):
        return np.abs(np.asarray(perturb(image, name), int) - np.asarray(image, int)).mean()

    assert far("blur:1") < far("blur:4")
    assert far("jpeg:90") < far("jpeg:10")
    assert far("resolution:0.5") < far("resolution:0.1")
    assert far("light:0.9") < far("light:0.5")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("tilt:3", "there are rotate:15"),
        ("jpeg:0", "from 1 to 95"),
        ("blur:x", "a number"),
        ("crop", "a number"),
    ],
)
def test_unknown_changes_get_a_sentence(image, name, sentence):
    with pytest.raises(PerturbationError, match=sentence):
        perturb(image, name)


def test_noise_and_other_cases_are_functions_of_the_seed():
    assert perturbations.noise((20, 10), 3).tobytes() == perturbations.noise((20, 10), 3).tobytes()
    assert perturbations.noise((20, 10), 3).tobytes() != perturbations.noise((20, 10), 4).tobytes()
    classes = ["a"] * 5 + ["b"] * 5 + ["c"] * 5
    chosen = perturbations.other_cases(classes, 0)
    assert chosen == perturbations.other_cases(classes, 0)
    assert all(classes[i] != own for i, own in zip(chosen, classes, strict=True))
    assert np.bincount(chosen, minlength=15).max() <= 2
    assert perturbations.other_cases(["a", "a"], 0) == [1, 0]
    with pytest.raises(PerturbationError, match="two cases"):
        perturbations.other_cases(["a"], 0)
