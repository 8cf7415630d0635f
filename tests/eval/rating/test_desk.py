"""What raters of each role are shown and asked, and that nothing of a text comes before their own opinion."""

import csv
import io
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from eval import review
from eval.asking import answers
from eval.rating import tables
from eval.rating.desk import BEFORE, CONSENT, RATE, Desk, ReviewError, select
from eval.rating.questionnaire import FLAG, ITEMS, LAY_ITEMS
from eval.rating.ratings import RatingsError
from eval.rating.store import Store
from eval.rating.study import change_study, consents
from skingpt4.generation.questions import CLINICAL_PROMPTS
from tests.support.review_run import FORM, MARK, make_run

ROLES = {"derma": "dermatologist", "phys": "physician", "lay": "lay"}
PASSWORD = "correct horse"


def desk_of(folder: Path, **settings: object) -> Desk:
    run = make_run(folder / "run")
    store = Store(run)
    change_study(store, settings)
    store.set_roles(ROLES)
    desk = Desk(store, select(answers.read_run(run), run))
    for name in (*ROLES, "old"):
        desk.agree(name)
    return desk


def asked(view) -> list[str]:
    return [question.item for question in view.questions]


def test_lay_raters_get_items_3_and_5_in_plain_words_and_nothing_about_a_diagnosis(tmp_path):
    desk = desk_of(tmp_path)
    view = desk.open("lay")
    assert (view.stage, asked(view)) == (RATE, ["suggestions", "helps_patients"])
    assert [list(ITEMS).index(item) + 1 for item in LAY_ITEMS] == [3, 5], "as the paper numbers them"
    assert [question.text for question in view.questions] == list(LAY_ITEMS.values())
    assert "diagnos" not in str(view.questions)
    assert MARK in view.conversation[0][1]
    with pytest.raises(ReviewError, match="Still to be answered: 2"):
        desk.rate("lay", 0, {"suggestions": "4"}, 1.0)
    with pytest.raises(ReviewError, match="at most 8000 characters"):
        desk.rate("lay", 0, {"suggestions": "4", "helps_patients": "2", "comment": 8001 * "x"}, 1.0)
    after = desk.rate(
        "lay", 0, {"suggestions": "4", "helps_patients": "2", "diagnosis": "5", "comment": "ok"}, 8.0
    )
    assert (after.k, desk.progress("lay")) == (1, (1, 6))
    saved = {row.item: (row.value, row.role) for row in desk.store.current()}
    assert saved == {
        "suggestions": ("4", "lay"), "helps_patients": ("2", "lay"), "comment": ("ok", "lay"),
    }, "an item that was not asked is not saved"  # fmt: skip


@pytest.mark.parametrize("name", ["derma", "phys", "old"])
def test_physicians_and_raters_without_a_role_get_the_published_form(tmp_path, name):
    desk = desk_of(tmp_path)
    assert asked(desk.open(name)) == ["own_diagnosis"]
    view = desk.answer(name, 0, ["own_diagnosis"], {"own_diagnosis": "acne"}, 1.0)
    assert (view.stage, asked(view)) == (RATE, [*ITEMS, FLAG])


def test_urgency_is_asked_of_everybody_before_and_after_the_text(tmp_path):
    desk = desk_of(tmp_path, urgency=True)
    view = desk.open("lay")
    assert (view.stage, asked(view), view.conversation) == (BEFORE, ["own_urgency"], ())
    with pytest.raises(RatingsError, match="own_urgency is 'tomorrow'; it must be one of self-care, routine"):
        desk.answer("lay", 0, ["own_urgency"], {"own_urgency": "tomorrow"}, 1.0)
    view = desk.answer("lay", 0, ["own_urgency"], {"own_urgency": "soon"}, 2.0)
    assert asked(view) == ["suggestions", "helps_patients", "urgency"]
    assert [answer for _, answer in view.own] == ["soon"]
    desk.rate("lay", 0, {"suggestions": "4", "helps_patients": "4", "urgency": "today"}, 9.0)
    physician = desk.open("phys")
    assert asked(physician) == ["own_diagnosis", "own_urgency"]
    with pytest.raises(ReviewError, match="Still to be answered: 2"):
        desk.answer("phys", 0, asked(physician), {"own_diagnosis": "acne"}, 1.0)
    view = desk.answer("phys", 0, asked(physician), {"own_diagnosis": "acne", "own_urgency": "routine"}, 1.0)
    assert asked(view) == [*ITEMS, "urgency", FLAG]
    with pytest.raises(ReviewError, match="Still to be answered: 8"):
        desk.rate("phys", 0, FORM, 1.0)


def test_dermatologists_answer_in_their_own_words_and_these_become_an_arm(tmp_path):
    desk = desk_of(tmp_path, own_answers=True)
    for name in ("phys", "lay"):
        items = [question.item for question in desk.open(name).questions]
        assert not any(item.startswith("own_answer") for item in items), "dermatologists alone"
    view = desk.answer("derma", 0, ["own_diagnosis"], {"own_diagnosis": "psoriasis"}, 5.0)
    texts = ["A plaque.\nWith scale.", "", "=cause", "A steroid."]
    for number, (prompt, text) in enumerate(zip(CLINICAL_PROMPTS, texts, strict=True), 1):
        item = f"own_answer_{number}"
        assert (view.stage, asked(view), view.questions[0].text) == (BEFORE, [item], prompt)
        assert view.conversation == (), "no text before the last of them"
        before = view
        view = desk.answer("derma", 0, [item], {item: text}, 10.0 * number)
        again = desk.answer("derma", 0, [item], {item: "what the text says"}, 1.0)
        assert again == view, "a second page changes nothing"
        assert before.steps_left == 4 - number
    assert (view.stage, len(view.conversation)) == (RATE, 4)
    desk.rate("derma", 0, FORM, 30.0)
    case = desk.store.current()[0].case_id
    text, count = tables.own_answers_csv(desk.store)
    assert count == 3
    assert list(csv.reader(io.StringIO(text))) == [
        ["case_id", "turn", "text", "seconds", "rater", "role"],
        [case, "1", "A plaque.\nWith scale.", "10.0", "derma", "dermatologist"],
        [case, "3", "'=cause", "30.0", "derma", "dermatologist"],
        [case, "4", "A steroid.", "40.0", "derma", "dermatologist"],
    ]
    for _ in range(5):  # under the other arm the same case asks for none of it again
        view = desk.open("derma")
        if view.stage == BEFORE:
            desk.answer("derma", view.k, ["own_diagnosis"], {"own_diagnosis": "acne"}, 1.0)
            for number in range(1, 5):
                desk.answer("derma", view.k, [f"own_answer_{number}"], {}, 1.0)
        desk.rate("derma", view.k, FORM, 1.0)
    assert desk.progress("derma") == (6, 6)
    assert tables.own_answers_csv(desk.store)[1] == 3


def test_nothing_is_shown_before_a_rater_agrees(tmp_path):
    from eval.rating import form

    run = make_run(tmp_path / "run")
    store = Store(run)
    change_study(store, {"approval": "EK <17>", "consent": "First\nparagraph.\n\nSecond & last."})
    desk = Desk(store, select(answers.read_run(run), run))
    page, request = form.Page(desk), SimpleNamespace(username="anna")
    now, *shown = page.open(request)
    assert now[1] == CONSENT
    assert "<p>First paragraph.</p><p>Second &amp; last.</p>" in str(shown)
    assert "Approval: EK &lt;17&gt;" in str(shown)
    assert "data:image" not in str(shown)
    assert store.current() == []
    with pytest.raises(ReviewError, match="cannot be taken now"):
        desk.rate("anna", 0, FORM, 1.0)
    assert desk.answer("anna", 0, ["own_diagnosis"], {"own_diagnosis": "acne"}, 1.0).stage == CONSENT
    now, *shown = page.go_on(now, json.dumps({"serial": now[3], "values": {}}), request)
    assert now[1] == BEFORE
    assert [(one.rater, one.approval) for one in consents(store)] == [("anna", "EK <17>")]
    assert page.open(request)[0][1] == BEFORE, "once is enough"
    change_study(store, {"approval": "", "cover": False})
    shown = str(page.open(request))
    assert "No approval number was given for this study." in shown


def test_pictures_are_covered_unless_the_study_says_otherwise(tmp_path):
    from eval.rating import form

    desk = desk_of(tmp_path)
    assert form.pictures(desk.open("derma")).count('<details class="cover" data-key="0-') >= 1
    change_study(desk.store, {"cover": False})
    assert "details" not in form.pictures(desk.open("derma"))


def command(run: Path, *options: str) -> int:
    return review.main(["--run-dir", str(run), *options])


def test_raters_of_a_table_get_passwords_and_roles(tmp_path, capsys):
    run, table = make_run(tmp_path / "run"), tmp_path / "raters.csv"
    store = Store(run)
    store.add_rater("old", PASSWORD)
    table.write_text("rater,role\nold,dermatologist\nanna,Lay user\n")
    assert command(run, "--raters", str(table)) == 0
    old, anna = capsys.readouterr().out.splitlines()
    assert old == "old: dermatologist, has a password already"
    assert anna.startswith("anna: lay user, password ")
    assert store.login("anna", anna.split()[-1])
    assert store.login("old", PASSWORD)
    assert command(run, "--raters", str(table)) == 0, "again changes nothing"
    assert "anna: lay user, has a password already" in capsys.readouterr().out
    table.write_text("rater,role\nbert,lay\nanna,physician\n")
    assert command(run, "--raters", str(table)) == 1
    assert "raters.csv, row 3: the role of anna is physician, who is stored as lay" in capsys.readouterr().err
    table.write_text("rater,role\nbert,lay\nb/c,lay\n")
    assert command(run, "--raters", str(table)) == 1
    assert "rater 'b/c': use up to 40 letters" in capsys.readouterr().err
    assert store.raters() == ["anna", "old"], "nobody was added"
    assert store.roles() == {"anna": "lay", "old": "dermatologist"}


def test_tables_go_out_and_come_in(tmp_path, capsys, monkeypatch):
    desk = desk_of(tmp_path, own_answers=True)
    run = desk.store.path.parent
    assert command(run, "--export", str(tmp_path / "o.csv"), "--table", "own-answers") == 1
    assert "holds no own answers yet" in capsys.readouterr().err
    desk.answer("derma", 0, ["own_diagnosis"], {"own_diagnosis": "acne"}, 1.0)
    desk.answer("derma", 0, ["own_answer_1"], {"own_answer_1": "spots"}, 1.0)
    for table, path in (("ratings", "r.csv"), ("own-answers", "o.csv"), ("consents", "c.csv")):
        assert command(run, "--export", str(tmp_path / path), "--table", table) == 0
    assert "c.csv: 4 lines of consents" in capsys.readouterr().out
    twin = make_run(tmp_path / "twin")
    for path, words in (("r.csv", "2 lines, 2 of them new"), ("c.csv", "4 lines, 4 of them new")):
        assert command(twin, "--import", str(tmp_path / path)) == 0
        assert words in capsys.readouterr().out
    assert Store(twin).current() == desk.store.current()
    assert consents(Store(twin)) == consents(desk.store)
    assert Store(twin).roles() == ROLES
    monkeypatch.setattr("sys.stdin", io.StringIO(PASSWORD + "\n"))
    assert command(twin, "add-rater", "derma", "--role", "lay") == 1
    assert "role of derma is dermatologist and does not change" in capsys.readouterr().err
    text = (tmp_path / "r.csv").read_text()
    (tmp_path / "r.csv").write_text(text.replace(",dermatologist", ",lay"))
    assert command(run, "--import", str(tmp_path / "r.csv")) == 1
    assert "r.csv, row 2: the role of derma is lay, who is stored as dermatologist" in capsys.readouterr().err
    (tmp_path / "r.csv").write_text(text.replace("melanoma_", "other_"))
    assert command(run, "--import", str(tmp_path / "r.csv")) == 1
    assert "r.csv, row 2: the run in" in capsys.readouterr().err


def test_a_consent_text_that_cannot_be_used(tmp_path, capsys):
    run = make_run(tmp_path / "run")
    (tmp_path / "empty.txt").write_text(" \n")
    for name, words in (
        ("empty.txt", "the consent text is empty"),
        ("none.txt", "the consent text cannot be read"),
    ):
        assert command(run, "--consent", str(tmp_path / name), "--status") == 1
        assert words in capsys.readouterr().err
