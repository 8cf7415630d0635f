import pytest

from eval.measures.by_task.figures import balanced_accuracy, fairness_pairs, task_figures, top_k
from eval.measures.by_task.table import pair_lines, task_rows, task_text
from eval.tasks.task import Label, Task


def line(number, name, best, cluster=None, sex="f"):
    scores = {"A": -3.0, "B": -2.0, "C": -4.0, "D": -5.0} | {best: -1.0}
    return {
        "case_id": f"c{number}", "class": name, "class_scores": scores, "concept_scores": None, "concepts": None,
        "groups": {"x_sex": sex}, "cluster": number if cluster is None else cluster, "answer": None,
        "differential": {}, "references": (),
    }  # fmt: skip


# Patient 0: three cases of A, called A, A, B; patient 1: one case of B, called A; patient 2: one of C, called C.
LINES = [
    line(0, "A", "A", 0),
    line(1, "A", "A", 0),
    line(2, "A", "B", 0),
    line(3, "B", "A", 1),
    line(4, "C", "C", 2),
]


def test_top_k_by_hand():
    figures = top_k(LINES)
    assert list(figures) == ["top1", "top3"]  # five of four labels would be all
    assert figures["top1"]["value"] == pytest.approx(3 / 5)
    # Rankings: A B C D; A B C D; B A C D; A B C D; C B A D. All five are among the best three.
    assert figures["top3"]["value"] == 1.0
    # Three patients are drawn; without a right one, patient 1 three times: 0 of 3.
    assert figures["top1"]["low"] == 0.0
    assert figures["top1"]["high"] == 1.0  # patient 2 three times


def test_balanced_accuracy_by_hand():
    # Recall of A 2/3, of B 0, of C 1: their mean.
    figure = balanced_accuracy(LINES)
    assert figure["value"] == pytest.approx((2 / 3 + 0 + 1) / 3)
    assert figure["num_classes"] == 3


TASK = Task(
    name="mine", title="Mine", about="A test.", classes=("A", "B", "C", "D"),
    options={name: (name,) for name in "ABCD"}, label=Label(), group_columns=("x_sex",),
    metrics=("top_k", "multiple_choice", "text_overlap"),
)  # fmt: skip


def test_an_arm_without_scores_lacks_what_needs_them():
    silent = [each | {"class_scores": None} for each in LINES]
    assert task_figures(TASK, silent) == {}
    assert list(task_figures(TASK, LINES)) == ["top_k", "multiple_choice"]


def test_rows_of_two_arms_of_which_one_has_nothing():
    results = {
        "arms": {"ours": {"task": task_figures(TASK, LINES)}, "silent": {"task": {}}},
        "task": {"name": "mine", "clusters": None, "published": []},
    }
    rows = dict(task_rows(results))
    assert list(rows["class in top 1"]) == ["ours"]
    assert "not measured" in task_text(results)
    assert task_text({"arms": {}}) == ""


def test_pairs_of_arms_share_their_cases():
    task = Task(
        name="two", title="Two", about="A test.", classes=("A", "B"), options={"A": ("A",), "B": ("B",)},
        positive="A", group_columns=("x_sex",), metrics=("fairness",),
    )  # fmt: skip

    def arm(right):
        rows = [(n, "A" if n % 2 else "B", "fm"[n // 6]) for n in range(12)]
        return [
            line(n, name, "A", sex=sex)
            | {"class_scores": {"A": 1.0 if (name == "A") == right else -1.0, "B": 0.0}}
            for n, name, sex in rows
        ]

    arms = {
        "good": arm(True),
        "bad": arm(False)[:10],
        "silent": [each | {"class_scores": None} for each in arm(True)],
    }
    pairs = fairness_pairs(task, arms)
    assert list(pairs) == ["good_minus_bad"]
    # Right against wrong everywhere, on the ten cases that both answered.
    figure = pairs["good_minus_bad"]["x_sex"]["auc"]["difference"]
    assert (figure["value"], figure["n"]) == (1.0, 10)
    words = pair_lines({"task": {"pairs": pairs}})
    assert "good_minus_bad: AUC, x_sex all +100.0 points (100.0 to 100.0, n = 10)" in words
