"""The warning of skin cancer: which diseases raise it, from which probability, and how often it is right."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
from statsmodels.stats.proportion import proportion_confint

from skingpt4.chat.checks import alarm
from skingpt4.chat.checks.alarm import MALIGNANT, Alarm, alarm_class, fit_alarm, is_malignant
from skingpt4.chat.exporting.sections import alarm_sentences
from skingpt4.chat.texts import load
from skingpt4.taxonomy import taxonomy
from skingpt4.taxonomy.closed_set import ClosedSet, Disease
from skingpt4.taxonomy.taxonomy import CLASSES

MOLES = "melanoma_nevi_moles"


@pytest.mark.parametrize(
    ("disease", "class_name", "expected"),
    [
        ("melanoma", MOLES, MOLES),
        ("Malignant Melanoma", MOLES, MOLES),
        ("lentigo maligna melanoma", MOLES, MOLES),
        ("a melanoma nobody listed", MOLES, MOLES),
        ("melanocytic nevus", MOLES, None),
        ("mole", MOLES, None),
        ("dysplastic nevus", MOLES, None),
        ("lentigo", MOLES, None),
        ("basal cell carcinoma", "malignant_lesions", "malignant_lesions"),
        ("actinic keratosis", "malignant_lesions", "malignant_lesions"),
        ("something", "malignant_lesions", "malignant_lesions"),
        ("Kaposi's sarcoma", "vascular_tumors", "malignant_lesions"),
        ("angiosarcoma", "vascular_tumors", "malignant_lesions"),
        ("hemangioma", "vascular_tumors", None),
        ("acne", "acne_and_rosacea", None),
    ],
)
def test_which_diseases_raise_it(disease, class_name, expected):
    assert alarm_class(disease, class_name) == expected
    assert is_malignant(disease, class_name) is (expected is not None)


def test_a_class_that_holds_both_says_nothing_without_a_disease():
    assert is_malignant(None, MOLES) is None
    assert is_malignant(None, "malignant_lesions") is True
    assert is_malignant(None, "herpes") is False


def test_the_names_of_the_list_are_those_of_the_taxonomy():
    table = alarm._table()
    for name in (*table[MOLES], *table["malignant_lesions"]):
        assert taxonomy.disease(name).usual == name


def planted(seed: int = 3, n: int = 400, rate: float = 0.25) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of malignant cases around 0.6, of others around 0.2."""
    rng = np.random.default_rng(seed)
    malignant = rng.random(n) < rate
    return np.where(malignant, rng.beta(6, 4, n), rng.beta(2, 8, n)), malignant


def test_the_threshold_is_the_highest_that_catches_the_fraction():
    probability, malignant = planted()
    fitted = fit_alarm(probability, malignant)
    of_malignant = probability[malignant]
    assert (of_malignant >= fitted.threshold).mean() >= 0.95
    assert (of_malignant > fitted.threshold).mean() < 0.95
    assert (fitted.malignant, fitted.others) == (malignant.sum(), (~malignant).sum())


def test_what_is_measured_is_what_new_cases_do():
    probability, malignant = planted()
    fitted = fit_alarm(probability, malignant)
    new_probability, new_malignant = planted(seed=4, n=20_000)
    raised = new_probability >= fitted.threshold
    for (value, low, high), others in (
        (fitted.sensitivity, raised[new_malignant]), (fitted.false_alarm_rate, raised[~new_malignant]),
    ):  # fmt: skip
        assert low <= value <= high
        assert low <= others.mean() <= high


def test_a_threshold_does_not_measure_itself(monkeypatch):
    """The lowest malignant case sets the threshold; measured on itself it would always be caught."""
    monkeypatch.setattr(alarm, "_table", lambda: {"target_sensitivity": 1.0})
    probability, malignant = planted()
    fitted = fit_alarm(probability, malignant)
    assert fitted.threshold == probability[malignant].min()
    assert fitted.caught < fitted.malignant


def test_intervals_are_wilson_s():
    fitted = Alarm(0.2, 0.95, 47, 50, 30, 200)
    assert fitted.sensitivity == pytest.approx((0.94, *proportion_confint(47, 50, method="wilson")))
    assert fitted.false_alarm_rate == pytest.approx((0.15, *proportion_confint(30, 200, method="wilson")))


def test_too_few_malignant_cases_fit_nothing():
    malignant = np.arange(100) < alarm.MIN_MALIGNANT - 1
    assert fit_alarm(np.linspace(1, 0, 100), malignant) is None
    assert alarm.describe({}) == [
        "skin cancer warning: fewer than 20 malignant cases, so its threshold is not fitted"
    ]


def test_the_sum_over_malignant_diseases_is_fitted_where_they_are_known():
    names = {name: taxonomy.class_disease(name) for name in CLASSES} | {MOLES: "melanocytic nevus"}
    rows = [Disease(disease, name, 1) for name, disease in names.items()] + [Disease("melanoma", MOLES, 1)]
    closed_set = ClosedSet(rows)
    probabilities = np.zeros((80, len(rows)))
    probabilities[:40, -1], probabilities[40:, 8] = 0.9, 0.9  # melanomas and moles
    probabilities[:, 0] = 0.1
    assert rows[8].name == "melanocytic nevus"
    malignant = [True] * 39 + [None] + [False] * 40
    (fitted,) = alarm.disease_alarms(probabilities, closed_set, malignant).values()
    assert (fitted.caught, fitted.malignant, fitted.false_alarms, fitted.others) == (39, 39, 0, 40)
    by_class = np.zeros((80, 15))
    by_class[:, 8], by_class[:, 0] = 0.9, 0.1  # the class alone does not tell them apart
    (fitted,) = alarm.class_alarms(by_class, np.full(80, 8), malignant).values()
    assert (fitted.caught, fitted.malignant, fitted.false_alarms, fitted.others) == (39, 39, 40, 40)
    assert "39 of 39 malignant cases" in alarm.describe({MOLES: fitted})[0]
    assert "40 of 40 others" in alarm.describe({MOLES: fitted})[0]


@pytest.mark.parametrize(
    "change", [{"threshold": 1.5}, {"caught": 51}, {"others": -1}, {"threshold": float("nan")}]
)
def test_impossible_values_are_refused(change):
    with pytest.raises(ValueError, match="alarm"):
        Alarm(**asdict(Alarm(0.2, 0.95, 47, 50, 30, 200)) | change)


@pytest.mark.parametrize("code", ["en", "de"])
def test_people_read_what_a_warning_is_worth(code):
    measured = alarm.AlarmReading(MALIGNANT, 0.34, 0.2, Alarm(0.2, 0.95, 47, 50, 30, 200))
    guessed = alarm.AlarmReading(MOLES, 0.05, 0.1)
    rows = json.loads(json.dumps([measured.to_dict(), guessed.to_dict()]))
    first, second = alarm_sentences(rows, load(code))
    for number in ("34.0 %", "20.0 %", "47", "50", "94.0 %", "83.8 %", "97.9 %", "30", "200", "15.0 %"):
        assert number in first, number
    assert load(code)["alarm.not_measured"] in second
    assert load(code)[f"classes.{MOLES}"] in second
