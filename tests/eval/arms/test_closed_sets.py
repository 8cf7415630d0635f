import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.arms.closed_sets import LETTERS, chosen, letters_question
from skingpt4.taxonomy.taxonomy import CLASSES


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        ("acne and rosacea", "acne_and_rosacea"),
        ("It is Urticaria  hives.", "urticaria_hives"),
        ("melanoma nevi moles", "melanoma_nevi_moles"),
        ("herpes; scabies", "herpes"),
        ("herpes or urticaria hives", None),
        ("Herpesvirus", None),
        ("", None),
    ],
)
def test_the_one_label_that_an_answer_names(answer, label):
    assert chosen(answer, CLASSES) == label


def test_a_label_inside_a_longer_one_does_not_count():
    labels = ["benign", "non-neoplastic", "benign dermal", "benign epidermal"]
    assert chosen("Benign dermal.", labels) == "benign dermal"
    assert chosen("benign", labels) == "benign"
    assert chosen("benign dermal or just benign", labels) is None


@given(st.sampled_from(CLASSES), st.text(alphabet=" .,;:!?\n", max_size=5), st.booleans())
def test_every_label_comes_back_from_a_sentence(label, mark, upper):
    text = f"{mark}The image shows {label.replace('_', ' ')}{mark or '.'}"
    assert chosen(text.upper() if upper else text, CLASSES) == label


def test_a_question_with_letters_names_every_label_once():
    lines = letters_question("What is it?", CLASSES).splitlines()
    assert lines[1:16] == [f"{x}. {c.replace('_', ' ')}" for x, c in zip(LETTERS, CLASSES, strict=False)]
