import numpy as np
import pytest

from eval.asking.answers import Answer, ArmAnswers, Key, Run
from eval.measures import agreement, consistency
from eval.tasks import load_task
from skingpt4.taxonomy.taxonomy import CLASSES
from tests.support.simulated import covers

TASK = load_task()
META = {"decoding": {"temperature": 0.7, "max_new_tokens": 8}, "prompts": ["?"], "probes": ["!"]}


def arm_of(table, change=None, meta=META, concepts=()):
    """An arm whose diagnosis probe says the classes of the table (cases x repeats)."""
    arm = ArmAnswers("two_step", meta)
    for case, row in enumerate(table):
        for repeat, name in enumerate(row):
            add(arm, f"case-{case}", repeat, change, name, concepts)
    return arm


def add(arm, case, repeat, change, name, concepts=()):
    text = f"This could be a skin disease image of {name}." if name else "I do not know."
    for kind, said in (
        ("turn", {"prompt": "?", "answer": text}),
        (
            "probe",
            {"question": "!", "answer": text, "text_class": name, "predicted_concepts": list(concepts)},
        ),
    ):
        key = Key(case, repeat, change, kind, 1)
        arm.lines[key] = Answer(arm.name, key, said)


def test_repeats_by_hand():
    table = [["psoriasis", "psoriasis", "eczema"], [None, None, None]]
    found = consistency.repeat_consistency(arm_of(table), TASK)
    probe = found["diagnosis probe"]
    assert (found["repeats"], found["temperature"], found["trivial"]) == (3, 0.7, False)
    assert probe["pairwise"]["value"] == pytest.approx((1 / 3 + 1) / 2)
    assert probe["modal"]["value"] == pytest.approx((2 / 3 + 1) / 2)
    assert (probe["always_same"]["value"], probe["always_same"]["n"]) == (0.5, 2)
    assert probe["matrix"] == table
    assert probe["case_ids"] == ["case-0", "case-1"]
    assert probe["between_repeats"] == [[1, 1, 0.5], [1, 1, 0.5], [0.5, 0.5, 1]]
    first = found["turn 1"]["matrix"]
    assert first == [["psoriasis_and_lichen_planus"] * 2 + ["dermatitis"], [None] * 3]
    assert found["concepts_jaccard"]["value"] == 1


def test_greedy_repeats_are_trivial_and_no_result():
    meta = META | {"decoding": {"temperature": 0.0}}
    found = consistency.repeat_consistency(arm_of([["acne", "acne"]], meta=meta), TASK)
    assert found["trivial"]
    assert found["identical_texts"]["value"] == 1
    assert "not a result" in found["reason"]
    assert "diagnosis probe" not in found


def test_one_repeat_no_lines_and_cases_without_all_repeats():
    assert consistency.repeat_consistency(arm_of([["acne"]]), TASK) is None
    assert consistency.repeat_consistency(ArmAnswers("x", META), TASK) is None
    arm = arm_of([["acne", "acne"], ["acne", "acne"]])
    del arm.lines[Key("case-1", 1, None, "probe", 1)]
    assert consistency.repeat_consistency(arm, TASK)["diagnosis probe"]["pairwise"]["n"] == 1


def test_kappa_of_one_category_is_not_defined():
    found = consistency.repeat_consistency(arm_of([["acne", "acne"]] * 3), TASK)
    assert found["diagnosis probe"]["fleiss_kappa"] == {"value": None, "low": None, "high": None, "n": 3}


def test_kappa_of_resamples_is_that_of_the_drawn_cases():
    rng = np.random.default_rng(0)
    rows = [[str(x) for x in rng.choice(list("abc"), 4)] for _ in range(25)]
    found = consistency.fleiss_interval(rows, seed=1)
    drawn = [agreement.fleiss([rows[i] for i in rng.integers(25, size=25)]) for _ in range(800)]
    assert found.value == pytest.approx(agreement.fleiss(rows))
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])), abs=0.04)


def test_planted_agreement_is_recovered():
    # Each repeat says the case's class with 0.8, else one of the other 14: pairs agree with 0.8^2 + 0.2^2 / 14.
    true, rng = 0.8**2 + 0.2**2 / 14, np.random.default_rng(4)
    chance = 1 / 15
    held, kappa = 0, 0
    for _ in range(20):
        rows = []
        for case in range(150):
            own = CLASSES[case % 15]
            others = [name for name in CLASSES if name != own]
            rows.append([own if rng.random() < 0.8 else str(rng.choice(others)) for _ in range(5)])
        held += covers(consistency.ratio_interval(agreement.pairwise_agreement(rows)).to_dict(), true)
        kappa += covers(consistency.fleiss_interval(rows).to_dict(), (true - chance) / (1 - chance))
    assert held >= 17
    assert kappa >= 17


def test_perturbations_by_hand():
    arm = arm_of([["acne"], ["acne"], [None]], concepts=["Papule"])
    for case, name, concepts in (("case-0", "acne", ["Papule"]), ("case-1", None, ["Papule", "Scale"])):
        add(arm, case, 0, "jpeg:20", name, concepts)
    for change, best in ((None, "a"), ("jpeg:20", "b")):
        key = Key("case-0", 0, change, "scores")
        arm.lines[key] = Answer(
            arm.name, key, {"class_scores": {"a": -1.0 if best == "a" else -9.0, "b": -2.0}}
        )
    run = Run(None, {f"case-{n}": {"class": "a"} for n in range(3)}, {"two_step": arm})
    found = consistency.perturbation_consistency(run, arm)["jpeg:20"]
    assert (found["kind"], found["strength"]) == ("jpeg", 20)
    assert (found["diagnosis probe"]["value"], found["diagnosis probe"]["n"]) == (0.5, 2)
    assert found["concepts_jaccard"]["value"] == pytest.approx((1 + 1 / 2) / 2)
    assert (found["class_scored"]["value"], found["top1"]["value"], found["top1_change"]["value"]) == (
        0,
        0,
        -1,
    )
    assert consistency.consistency(run)["two_step"]["repeats"] is None
    assert consistency.consistency(Run(None, {}, {"x": ArmAnswers("x", META)})) == {}


def test_jaccard_of_two_empty_sets_is_agreement():
    assert consistency.jaccard(frozenset(), frozenset()) == 1
    assert consistency.jaccard(frozenset("a"), frozenset()) == 0
