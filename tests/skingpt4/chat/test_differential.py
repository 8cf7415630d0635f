import json
import re
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import softmax

from skingpt4.chat import calibration as calibrations
from skingpt4.chat.calibration import Calibration, CalibrationError, Platt
from skingpt4.chat.checks.alarm import ALARM_CLASSES, Alarm
from skingpt4.chat.differential import (
    NEVER,
    TOP_DISEASES,
    ClassProbability,
    ConceptProbability,
    DifferentialError,
    Ranker,
    Rule,
    advise,
    from_scores,
    score_images,
    warnings,
)
from skingpt4.chat.texts import TextError, languages
from skingpt4.chat.texts import load as load_texts
from skingpt4.checkpoints import checkpoint
from skingpt4.generation.questions import DIAGNOSIS_QUESTION, class_sentences
from skingpt4.generation.scoring import score_answers
from skingpt4.model.prompts import Turn, encode_turns, get_template
from skingpt4.taxonomy.closed_set import ClosedSet
from skingpt4.taxonomy.taxonomy import CLASSES, CONCEPTS, class_disease
from tests.support.tiny import make_model, make_queries, tiny_config

DISEASES = {name: class_disease(name) for name in CLASSES}
CALIBRATION = Calibration(
    2.0, 0.5, 0.8, 90, DISEASES, {"Bulla": Platt(1.0, 3.0, 20), "Papule": Platt(0.5, 0.0, 40)},
    data={"manifest": "validation.jsonl"},
)  # fmt: skip
CONCEPT_SCORES = np.full(len(CONCEPTS), -2.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("differential")


@pytest.fixture(scope="module")
def tiny(folder):
    return make_model(folder), tiny_config(folder, output_dir=str(folder / "run"))


def scores_of(**given: float) -> np.ndarray:
    return np.array([given.get(name, 0.0) for name in CLASSES])


def test_a_differential_is_the_softmax_of_the_sentences_likelihoods(tiny):
    model, config = tiny
    queries = make_queries(1)
    ranking = Ranker(model, config).rank([queries])
    prompt = encode_turns(
        get_template(config.prompt.template), [Turn(DIAGNOSIS_QUESTION, None, 1)], model.tokenizer, 4
    )
    sentences = class_sentences(config.prompt.disease_sentence, DISEASES)
    logits = score_answers(model, [prompt], queries, sentences)[0]
    expected = dict(zip(CLASSES, logits.softmax(-1).tolist(), strict=True))
    assert {row.class_name: row.probability for row in ranking.ranked} == pytest.approx(expected, abs=1e-5)
    assert [row.class_name for row in ranking.ranked] == sorted(expected, key=lambda name: -expected[name])
    assert sum(row.probability for row in ranking.ranked) == pytest.approx(1)
    assert ranking.calibration == "none"
    assert not ranking.confident
    assert ranking.threshold == NEVER
    assert ranking.concepts == ()  # a likelihood alone is not a probability


def test_several_views_are_scored_together(tiny):
    model, config = tiny
    queries = make_queries(2)
    with pytest.raises(DifferentialError, match="no picture"):
        Ranker(model, config).rank([])
    both = Ranker(model, config).rank([queries[:1], queries[1:]])
    assert both == from_scores(*score_images(model, config, queries, DISEASES), DISEASES)
    assert both != Ranker(model, config).rank([queries[:1]])


TAUGHT = [
    {"disease": "Tinea pedis", "class": "fungal_infections", "records": 30},
    {"disease": "Tinea corporis", "class": "fungal_infections", "records": 10},
    {"disease": "Alopecia areata", "class": "others", "records": 7},
]


@pytest.mark.parametrize("calibrated", [False, True, "with its prior"])
def test_a_checkpoint_that_knows_its_diseases_is_scored_with_all_of_them(calibrated, tiny):
    model, config = tiny
    queries, closed_set = make_queries(2), ClosedSet.of_training(TAUGHT)
    fitted = replace(CALIBRATION, closed_set=closed_set.to_rows(), prior_weight=0.7) if calibrated else None
    own_prior = np.random.default_rng(0).normal(-9, 4, len(closed_set)).tolist()
    if calibrated == "with its prior":
        fitted = replace(fitted, prior=own_prior)
    ranking = Ranker(model, config, Rule(fitted, closed_set)).rank([queries[:1], queries[1:]])
    template, form = get_template(config.prompt.template), config.prompt.disease_sentence
    turns = [Turn(DIAGNOSIS_QUESTION, None, 2)], [Turn(DIAGNOSIS_QUESTION, None, 0)]
    shown, unseen = (encode_turns(template, turn, model.tokenizer, 4) for turn in turns)
    scores = score_answers(model, [shown], queries, closed_set.sentences(form))[0].double().numpy()
    prior = score_answers(model, [unseen], None, closed_set.sentences(form))[0].double().numpy()
    if calibrated == "with its prior":
        prior = np.array(own_prior)
    weight, temperature = (0.7, CALIBRATION.temperature) if calibrated else (0.0, 1.0)
    logits = closed_set.class_scores(scores, prior, weight) / temperature
    expected = dict(zip(CLASSES, softmax(logits), strict=True))
    assert {row.class_name: row.probability for row in ranking.ranked} == pytest.approx(expected, abs=1e-4)
    p = closed_set.probabilities(scores, prior, weight, temperature)
    best = [closed_set.diseases[n].name for n in np.argsort(-p)[:TOP_DISEASES]]
    assert [row.name for row in ranking.diseases] == best
    assert [row.probability for row in ranking.diseases] == pytest.approx(
        sorted(p)[: -TOP_DISEASES - 1 : -1], abs=1e-4
    )
    fungal = next(row for row in ranking.ranked if row.class_name == "fungal_infections")
    assert fungal.disease in ("Tinea pedis", "Tinea corporis", "ringworm")
    assert len(json.loads(json.dumps(ranking.to_dict()))["diseases"]) == TOP_DISEASES


def test_a_rule_is_the_calibrations_else_what_the_card_names(run):
    assert Rule.of(None) == Rule.of(run) == Rule()
    folder = checkpoint.find(run)
    card = json.loads((folder / checkpoint.CARD).read_text())
    (folder / checkpoint.CARD).write_text(json.dumps({**card, "diseases": TAUGHT}))
    assert Rule.of(run).closed_set.diseases == ClosedSet.of_training(TAUGHT).diseases
    assert Rule.of(run).prior_weight == 0
    own = replace(CALIBRATION, tensors_sha256=calibrations.weights_sha256(run))
    calibrations.save(own, run)
    assert Rule.of(run) == Rule(own, None), "it was fitted with one disease of each class"
    rows = ClosedSet.of_training(TAUGHT[:1]).to_rows()
    calibrations.save(replace(own, closed_set=rows, prior_weight=0.3), run)
    assert Rule.of(run).prior_weight == 0.3
    assert Rule.of(run).closed_set.to_rows() == rows
    for change in (
        {"prior_weight": 2},
        {"closed_set": rows[:3]},
        {"closed_set": [{"name": 3}]},
        {"prior": [0.0]},
    ):
        path = calibrations.path_of(run)
        path.write_text(
            json.dumps({**json.loads(path.read_text()), "prior_weight": 0.3, "closed_set": rows} | change)
        )
        with pytest.raises(CalibrationError, match="damaged"):
            Rule.of(run)


def test_calibration_flattens_and_decides(tiny):
    scores = scores_of(herpes=3.0)
    sharp = from_scores(scores, CONCEPT_SCORES, DISEASES)
    flat = from_scores(scores, CONCEPT_SCORES, DISEASES, CALIBRATION)
    assert sharp.ranked[0].class_name == flat.ranked[0].class_name == "herpes"
    e = np.exp(1.5)
    assert flat.ranked[0].probability == pytest.approx(e / (e + 14))
    assert sharp.ranked[0].probability > flat.ranked[0].probability
    assert not flat.confident
    sure = from_scores(scores * 3, CONCEPT_SCORES, DISEASES, CALIBRATION)
    assert sure.confident
    assert sure.threshold == 0.5
    assert sure.calibration == "validation.jsonl, n = 90"
    never = from_scores(scores * 99, CONCEPT_SCORES, DISEASES, replace(CALIBRATION, threshold=None))
    assert not never.confident  # no threshold held what was asked of it
    # sigmoid(1 * -2 + 3), sigmoid(0.5 * -2): best first, the others were never fitted
    assert [(row.name, round(row.probability, 3)) for row in sure.concepts] == [
        ("Bulla", 0.731), ("Papule", 0.269),
    ]  # fmt: skip


def test_images_have_scores_for_all_classes_and_concepts(tiny):
    model, config = tiny
    classes, concepts = score_images(model, config, make_queries(1), DISEASES)
    assert classes.shape == (15,)
    assert concepts.shape == (48,)
    assert np.isfinite(classes).all()
    assert np.isfinite(concepts).all()


def test_to_dict_is_json():
    ranking = from_scores(scores_of(herpes=3.0), CONCEPT_SCORES, DISEASES, CALIBRATION)
    data = json.loads(json.dumps(ranking.to_dict()))
    assert set(data) == {
        "ranked", "concepts", "confident", "threshold", "red_flags", "next_steps", "calibration", "alarms",
    }  # fmt: skip
    p = np.exp(1.5) / (np.exp(1.5) + 14)
    assert data["ranked"][0] == {
        "class_name": "herpes", "disease": DISEASES["herpes"], "probability": round(p, 4),
    }  # fmt: skip


# --- advice --------------------------------------------------------------------------------------------


def ranked(**given: float) -> list[ClassProbability]:
    rows = [ClassProbability(name, DISEASES[name], given.get(name, 0.0)) for name in CLASSES]
    return sorted(rows, key=lambda row: -row.probability)


def test_a_possible_melanoma_warns_though_it_is_not_first():
    rows = ranked(benign_tumors=0.85, melanoma_nevi_moles=0.12)
    flags, steps = advise(rows, [], confident=True, alarms=("melanoma_nevi_moles",))
    assert len(flags) == 1
    assert "Melanoma" in flags[0]
    assert steps[0] == load_texts()["advice.classes.benign_tumors.next"]
    assert "emergency services" in steps[-1]
    flags, steps = advise(ranked(benign_tumors=0.96, melanoma_nevi_moles=0.04), [], confident=False)
    assert flags == ()
    assert "not confident" in steps[0]


def test_concepts_warn_too_and_in_the_language_asked_for():
    seen = [ConceptProbability("Purpura/Petechiae", 0.6), ConceptProbability("Bulla", 0.2)]
    flags, steps = advise(ranked(acne_and_rosacea=0.9), seen, confident=True, language="de")
    assert len(flags) == 1
    assert "Notruf" in flags[0]
    assert "Notruf" in steps[-1]
    with pytest.raises(TextError, match="'fr'"):
        advise(ranked(), seen, confident=True, language="fr")


def test_the_advice_covers_all_classes_in_every_language_without_a_dose():
    starts = warnings()
    assert set(starts["classes"]) <= set(CLASSES)
    assert set(starts["concepts"]) <= set(CONCEPTS)
    assert all(0 < start < 1 for group in starts.values() for start in group.values())
    for name in ALARM_CLASSES:
        assert starts["classes"][name] <= 0.1
    for code in languages():
        table = load_texts(code).table["advice"]
        assert all(table["classes"][name]["next"] for name in CLASSES)
        for group in ("classes", "concepts"):
            assert {name for name, entry in table[group].items() if "flag" in entry} == set(starts[group])
        every = [
            words
            for group in ("classes", "concepts")
            for entry in table[group].values()
            for words in entry.values()
        ]
        assert len(every) > 25
        for words in (*every, table["always"], table["not_confident"]):
            assert 20 < len(words) < 280
            assert words == " ".join(words.split())
            assert not re.search(r"\d", words)  # no dose, no count of tablets
            assert not re.search(r"\b(mg|ml|mcg|µg|IU|tablets?|Tabletten?)\b|%", words)


def test_a_class_warns_without_a_calibration_and_says_that_nothing_was_measured():
    warned = from_scores(scores_of(melanoma_nevi_moles=3.0), CONCEPT_SCORES, DISEASES)
    assert [alarm.raised for alarm in warned.alarms] == [False, True]
    assert [alarm.measured for alarm in warned.alarms] == [None, None]
    assert any("Melanoma" in flag for flag in warned.red_flags)
    quiet = from_scores(scores_of(herpes=9.0), CONCEPT_SCORES, DISEASES)
    assert not any("Melanoma" in flag for flag in quiet.red_flags)


def test_a_mole_raises_no_warning_where_the_diseases_are_known():
    fitted = Alarm(0.3, 0.95, 19, 20, 8, 80)
    calibration = replace(CALIBRATION, alarms={"malignant": fitted})
    scores = scores_of(melanoma_nevi_moles=9.0)
    for malignant, words in (
        ({"malignant_lesions": 0.02, "melanoma_nevi_moles": 0.1}, ()),
        ({"malignant_lesions": 0.02, "melanoma_nevi_moles": 0.6}, ("Melanoma",)),
        ({"malignant_lesions": 0.2, "melanoma_nevi_moles": 0.15}, ("Skin cancer",)),
        ({"malignant_lesions": 0.4, "melanoma_nevi_moles": 0.4}, ("Skin cancer", "Melanoma")),
    ):
        ranking = from_scores(scores, CONCEPT_SCORES, DISEASES, calibration, malignant=malignant)
        (alarm,) = ranking.alarms
        assert alarm.probability == pytest.approx(sum(malignant.values()))
        assert alarm.measured == fitted
        cancer = {flag.split(" is among")[0] for flag in ranking.red_flags if "is among" in flag}
        assert cancer == set(words)


# --- the file ------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path):
    checkpoint.save(
        tmp_path / "run" / "checkpoints" / "000001", {"weight": make_queries(1)[0]}, {"step": "step2"}
    )
    return tmp_path / "run"


def test_a_calibration_is_saved_beside_its_checkpoint(run):
    assert calibrations.load(run) is None
    assert calibrations.load(None) is None
    own = replace(CALIBRATION, tensors_sha256=calibrations.weights_sha256(run))
    path = calibrations.save(own, run)
    assert path == run / "checkpoints" / "000001" / "calibration.json"
    assert calibrations.load(run) == own


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tensors_sha256": "0" * 64}, "other weights"),
        ({"temperature": 0.0}, "damaged"),
        ({"temperature": float("nan")}, "damaged"),
    ],
)
def test_a_calibration_of_other_weights_or_nonsense_is_refused(run, change, message):
    own = replace(CALIBRATION, tensors_sha256=calibrations.weights_sha256(run))
    calibrations.save(replace(own, **change), run)
    with pytest.raises(CalibrationError, match=message):
        calibrations.load(run)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 1}', '{"format": 9}', '"x"'])
def test_a_damaged_calibration_is_refused_in_a_sentence(run, text):
    calibrations.path_of(run).write_text(text)
    with pytest.raises(CalibrationError, match=r"skingpt4 calibrate again"):
        calibrations.load(run)


def test_a_threshold_that_too_few_cases_reach_does_not_count():
    confidence, right = np.linspace(1, 0.1, 10), np.array([1.0, 1, 0, 0, 0, 0, 0, 0, 0, 0])
    assert calibrations.choose_threshold(confidence, right, 0.2) == 0.9
    assert calibrations.choose_threshold(confidence, right, 0.2, min_cases=3) is None
