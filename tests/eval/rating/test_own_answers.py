"""A dermatologist's own answers from the form to an arm of the run, and the list's urgencies to the results."""

import json

from eval import add, review
from eval.asking.answers import read_run
from eval.page import report
from eval.rating.desk import Desk, select
from eval.rating.questionnaire import FLAG, ITEMS
from eval.rating.store import Store
from eval.rating.study import change_study
from skingpt4.generation.questions import CLINICAL_PROMPTS
from tests.support.respondents import write_cases

COUNT = 6
URGENT = ("today", "soon", "soon", "routine", "self-care", "today")


def test_own_answers_become_an_arm_and_urgencies_of_the_list_are_the_reference(tmp_path, capsys, monkeypatch):
    cases, run_dir = write_cases(tmp_path / "cases.jsonl", COUNT), tmp_path / "run"
    rows = [json.loads(line) for line in cases.read_text().splitlines()]
    cases.write_text(
        "".join(json.dumps({**row, "x_urgency": URGENT[n].title()}) + "\n" for n, row in enumerate(rows))
    )
    model = tmp_path / "model.csv"
    model.write_text(
        "case,turn,text,seconds\n"
        + "".join(f"case-{n},{turn},words {turn},{turn}\n" for n in range(COUNT) for turn in range(1, 5))
    )

    def imported(table, name, *options):
        words = ["import", str(table), "--run-dir", str(run_dir), "--cases", str(cases), "--name", name]
        assert add.main([*words, *options]) == 0, capsys.readouterr().err

    imported(model, "model")
    store = Store(run_dir)
    change_study(store, {"own_answers": True, "urgency": True})
    store.set_roles({"anna": "dermatologist", "bert": "lay"})
    desk = Desk(store, select(read_run(run_dir), tmp_path))
    for name in ("anna", "bert"):
        desk.agree(name)
    form = {**dict.fromkeys(ITEMS, "4"), FLAG: "0"}
    for _ in range(COUNT):
        view = desk.open("anna")
        desk.answer(
            "anna",
            view.k,
            ["own_diagnosis", "own_urgency"],
            {"own_diagnosis": "acne", "own_urgency": "soon"},
            9.0,
        )
        for turn in range(1, 5):
            desk.answer(
                "anna", view.k, [f"own_answer_{turn}"], {f"own_answer_{turn}": f"=mine {turn}"}, 10.0 * turn
            )
        desk.rate("anna", view.k, {**form, "urgency": "today"}, 60.0)
    for sheet in store.sheets("bert", ["model"], [f"case-{n}" for n in range(COUNT)]):
        urgency = URGENT[int(sheet.case_id[-1])]
        desk.answer("bert", sheet.place, ["own_urgency"], {"own_urgency": "self-care"}, 3.0)
        desk.rate("bert", sheet.place, {"suggestions": "2", "helps_patients": "5", "urgency": urgency}, 30.0)
    for table in ("own-answers", "ratings"):
        path = run_dir / f"{table}.csv"
        assert review.main(["--run-dir", str(run_dir), "--export", str(path), "--table", table]) == 0
    imported(run_dir / "own-answers.csv", "anna", "--where", "rater=anna")

    run = read_run(run_dir)
    assert [run.cases[f"case-{n}"]["urgency"] for n in range(COUNT)] == list(URGENT)
    turns = run.arms["anna"].of("turn")
    assert len(turns) == 4 * COUNT
    for answer in turns:
        turn = answer.key.number
        assert (answer.text, answer.fields["seconds"]) == (f"=mine {turn}", 10.0 * turn)
        assert answer.fields["prompt"] == CLINICAL_PROMPTS[turn - 1]

    monkeypatch.setattr(report, "write_pdf", lambda *_: None)
    report.write_report(run_dir)
    rated = json.loads((run_dir / "results.json").read_text())["ratings"]
    assert rated["roles"] == {"dermatologist": 1, "lay": 1}
    assert list(rated["by_role"]["lay"]["arms"]["model"]) == ["suggestions", "helps_patients"]
    triage = rated["urgency"]
    assert (triage["reference"], triage["num_cases"]) == ("x_urgency of the cases", COUNT)
    assert triage["arms"]["model"]["lay"]["kappa"]["value"] == 1
    assert triage["arms"]["model"]["dermatologist"]["more_urgent"]["value"] == 4 / 6
    assert triage["own"]["lay"]["less_urgent"]["value"] == 5 / 6
    assert "anna" in read_run(run_dir).arms
