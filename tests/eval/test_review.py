"""The ratings form without a browser: what is shown when, without names, and what the command says."""

from __future__ import annotations

import io
import json
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from eval import review
from eval.asking import answers
from eval.rating import desk as review_desk
from eval.rating import ratings
from eval.rating.desk import BEFORE, DONE, RATE, Desk, ReviewError, select
from eval.rating.questionnaire import FLAG, FLAG_TEXT, ITEMS
from eval.rating.store import Store
from skingpt4.server import address
from tests.support.review_run import FORM, MARK, make_run

address.stay_local()
PASSWORD, OWN = "correct horse", ["own_diagnosis"]


@pytest.fixture
def desk(tmp_path) -> Desk:
    folder = make_run(tmp_path / "run")
    store = Store(folder)
    store.add_rater("anna", PASSWORD)
    desk = Desk(store, select(answers.read_run(folder), folder))
    for name in ("anna", "bert", "cleo", "dora"):
        desk.agree(name)
    return desk


def own(view) -> str:
    ((question, answer),) = view.own
    assert question.item == "own_diagnosis"
    return answer


def rate_all(desk: Desk, rater: str, forms: int) -> None:
    for _ in range(forms):
        view = desk.open(rater)
        if view.stage == BEFORE:
            desk.answer(rater, view.k, OWN, {"own_diagnosis": "acne"}, 1.0)
        desk.rate(rater, view.k, FORM, 2.0)


def test_own_diagnosis_comes_before_any_text(desk):
    view = desk.open("anna")
    assert (view.stage, view.k, view.n, view.conversation) == (BEFORE, 0, 6, ())
    assert len(view.pictures) >= 1
    with pytest.raises(ReviewError, match="own diagnosis first"):
        desk.answer("anna", 0, OWN, {"own_diagnosis": "  \n"}, 1.0)
    with pytest.raises(ReviewError, match="cannot be taken now"):
        desk.rate("anna", 0, FORM, 1.0)
    assert desk.store.current() == []
    view = desk.answer("anna", 0, OWN, {"own_diagnosis": "psoriasis"}, 7.25)
    assert (view.stage, own(view), len(view.conversation)) == (RATE, "psoriasis", 4)
    assert MARK in view.conversation[0][1]
    again = desk.answer("anna", 0, OWN, {"own_diagnosis": "what the text says"}, 1.0)
    assert own(again) == "psoriasis", "after the text was shown it is not changed any more"
    (row,) = desk.store.current()
    assert (row.item, row.value, row.seconds) == ("own_diagnosis", "psoriasis", "7.2")


def test_a_case_under_the_next_arm_keeps_the_own_diagnosis_and_asks_no_second(desk):
    stages = []
    for _ in range(6):
        view = desk.open("anna")
        stages.append(view.stage)
        if view.stage == BEFORE:
            desk.answer("anna", view.k, OWN, {"own_diagnosis": f"own {view.pictures[0].name}"}, 1.0)
        assert own(desk.open("anna")) == f"own {view.pictures[0].name}"
        desk.rate("anna", view.k, FORM, 1.0)
    assert stages == [BEFORE] * 3 + [RATE] * 3
    assert desk.open("anna").stage == DONE


def test_nobody_sees_a_name(desk):
    texts = [text for said in desk.material.conversations.values() for _, text in said]
    assert len(texts) == 24
    for text in texts:
        assert text.startswith(f"the system (the system) sees a {MARK}") or text.startswith(
            f"the system (untrained) sees a {MARK}"
        )


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("SkinGPT-4's view", "the system's view"),
        ("skin gpt 4 or MiniGPT4", "the system or the system"),
        ("I am Vicuna-13b-v1.5, made of LLaMA-2", "I am the system, made of the system"),
        ("smollm2-135m-instruct says", "the system says"),
        ("arm two_step here", "arm the system here"),
        ("GPT-4o. Or Falcon-40B-instruct?", "the system. Or the system?"),
        ("MedGemma-4b, PaliGemma 2 or InternVL3-8B", "the system, the system or the system"),
        (
            "two steps, blank skin, noise, 2 llamas, gemmate",
            "two steps, blank skin, noise, 2 llamas, gemmate",
        ),
        ("GPT\u20114o, Mini\u200bGPT\u20134 and mini_gpt_4", "the system, the system and the system"),
        ("_SkinGPT-4_ or *Skin\u00a0GPT 4*", "_the system_ or *the system*"),
        ("SmolLM2 135M Instruct, InstructBLIP, Phi-3", "the system, the system, the system"),
        ("made by Alibaba Cloud, OpenAI or Google DeepMind", "made by the system, the system or the system"),
        ("Google it: a metaanalysis of two step care", "Google it: a metaanalysis of two step care"),
    ],
)
def test_names_in_a_text(said, shown):
    pattern = review_desk.name_pattern(("two_step", "blank", "noise"), ("weights/smollm2-135m-instruct",))
    assert pattern.sub(review_desk.NEUTRAL, said) == shown


def test_raters_have_their_own_order_and_go_on_where_they_stopped(desk):
    rate_all(desk, "anna", 2)
    anew = Desk(Store(desk.store.path.parent), desk.material)
    view = anew.open("anna")
    assert (view.k, view.num_rated) == (2, 2)
    assert anew.open("bert").k == 0
    orders = {tuple(sheet[1:] for sheet in anew._sheets(name)) for name in ("anna", "bert", "cleo", "dora")}
    assert len(orders) > 1


def test_back_shows_the_last_form_and_the_newest_counts(desk):
    rate_all(desk, "anna", 2)
    view = desk.back("anna", 2)
    assert (view.k, view.stage, view.revising) == (1, RATE, True)
    assert view.values["privacy"] == "4"
    after = desk.rate("anna", 1, {**FORM, "privacy": "2", "comment": "thought again"}, 3.0)
    assert (after.k, after.num_rated) == (2, 2), "then it goes on"
    assert desk.back("anna", 2).values["privacy"] == "2"
    assert desk.back("anna", 0).k == 0
    assert desk.open("anna", 5).k == 2, "nobody looks ahead"


def test_a_form_with_a_gap_keeps_nothing(desk):
    desk.answer("anna", 0, OWN, {"own_diagnosis": "acne"}, 1.0)
    for item, number in (("diagnosis", 1), (FLAG, 8)):
        with pytest.raises(ReviewError, match=f"Still to be answered: {number}"):
            desk.rate("anna", 0, {**FORM, item: ""}, 1.0)
    with pytest.raises(ratings.RatingsError, match="hallucination is '2'"):
        desk.rate("anna", 0, {**FORM, FLAG: "2"}, 1.0)
    assert [row.item for row in desk.store.current()] == ["own_diagnosis"]


def test_selection(tmp_path):
    folder = make_run(tmp_path / "run", num_cases=10)
    run = answers.read_run(folder)
    few = select(run, folder, ["untrained"], 3)
    assert few.cases == ("melanoma_0", "melanoma_4", "melanoma_7"), "evenly over the list"
    assert set(few.conversations) == {("untrained", case) for case in few.cases}
    with pytest.raises(ReviewError, match="no arm 'x'; it has two_step, untrained"):
        select(run, folder, ["x"])
    with pytest.raises(ReviewError, match="--num-cases"):
        select(run, folder, None, 0)
    with pytest.raises(ReviewError, match=r"no such picture \(11 missing\); --cases"):
        select(run, tmp_path)
    meta = folder / "answers/two_step.meta.json"
    meta.write_text(json.dumps({**json.loads(meta.read_text()), "texts": False}))
    assert {arm for arm, _ in select(answers.read_run(folder), folder).conversations} == {"untrained"}, (
        "an arm of which only times are known is not shown"
    )
    lines = (folder / "answers/untrained.jsonl").read_text().splitlines(keepends=True)
    (folder / "answers/untrained.jsonl").write_text("".join(lines[:6]))
    left = select(answers.read_run(folder), folder, ["untrained"])
    assert list(left.conversations) == [("untrained", "melanoma_0")], "half a conversation is not shown"


def test_page_of_a_view(desk):
    from eval.rating import form

    page, request = form.Page(desk), SimpleNamespace(username="anna")
    now, *shown = page.open(request)
    sent = str(shown)
    assert MARK not in sent
    assert "melanoma" not in sent, "the case's name may tell the class"
    assert "Form 1 of 6" in sent
    now, *shown = page.go_on(
        now, json.dumps({"serial": now[3], "values": {"own_diagnosis": "acne"}}), request
    )
    assert MARK in shown[4]
    assert "&lt;b&gt;in" in shown[4]
    assert "{value}" not in shown[4], "no template of Gradio's"
    for text in (*ITEMS.values(), FLAG_TEXT):
        assert form.escape(text) in shown[4]
    gap = page.go_on(now, json.dumps({"serial": now[3], "values": {"privacy": "4"}}), request)
    assert "Not saved. Still to be answered: 1, 2" in gap[-1]
    assert all(value == {"__type__": "update"} for value in gap[:-1]), "what was entered stays"
    old = page.go_on(now, json.dumps({"serial": "0-rate-0", "values": FORM}), request)
    assert "out of date" in old[-1]
    assert desk.store.rated("anna", [*ITEMS, FLAG]) == set()
    saved = page.go_on(now, json.dumps({"serial": now[3], "values": FORM}), request)
    assert "Saved." in saved[-1]
    assert len(desk.store.rated("anna", [*ITEMS, FLAG])) == 1
    assert "out of date" in page.go_on(None, "", request)[-1]
    for crafted in (
        "[]",
        "{",
        "null",
        json.dumps({"serial": now[3]}),
        json.dumps({"serial": now[3], "values": []}),
    ):
        assert "out of date" in page.go_on(now, crafted, request)[-1], crafted
    assert "checked" in page.back(saved[0], request)[5]


def test_shown_picture_has_neither_name_nor_metadata(tmp_path):
    import base64

    from eval.rating import form

    picture = Image.new("RGB", (2000, 100), "tan")
    exif = picture.getexif()
    exif[0x010E] = "John Doe"
    picture.save(tmp_path / "John.jpg", exif=exif)
    uri = form.picture_uri(tmp_path / "John.jpg")
    assert "John" not in uri
    shown = Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))
    assert (shown.size, dict(shown.getexif())) == ((1600, 80), {})


def test_all_controls_are_labelled_and_private(desk):
    from eval.rating import form

    config = form.build(desk).get_config_file()
    assert MARK not in json.dumps(config, default=str)
    assert "not a medical device" in str(config["components"])
    assert all(d["api_visibility"] == "private" for d in config["dependencies"] if d["backend_fn"])


def command(folder: Path, *words: str) -> int:
    return review.main([*words, "--run-dir", str(folder)])


def test_command_line(tmp_path, capsys, monkeypatch):
    assert command(tmp_path / "nowhere") == 1
    assert "holds no answers" in capsys.readouterr().err
    assert not (tmp_path / "nowhere").exists()
    folder = make_run(tmp_path / "run")
    assert command(folder) == 1
    assert "python -m eval.review add-rater NAME --run-dir" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", io.StringIO(PASSWORD + "\n"))
    assert command(folder, "add-rater", "anna") == 0
    assert Store(folder).login("anna", PASSWORD)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert command(folder, "--port", str(taken.getsockname()[1])) == 1
    assert "choose another --port" in capsys.readouterr().err
    assert command(folder, "--export", str(tmp_path / "r.csv")) == 1
    assert "holds no ratings yet" in capsys.readouterr().err
    desk = Desk(Store(folder), select(answers.read_run(folder), folder))
    desk.agree("anna")
    rate_all(desk, "anna", 2)
    assert command(folder, "--status") == 0
    assert capsys.readouterr().out == "anna: 2 of 6 forms rated\n"
    assert command(folder, "--export", str(tmp_path / "r.csv")) == 0
    rows = ratings.read_ratings(tmp_path / "r.csv")
    assert len(rows) == 2 * (len(ITEMS) + 2), "seven items, the flag and the own diagnosis"
    twin = make_run(tmp_path / "twin")
    assert command(twin, "--import", str(tmp_path / "r.csv")) == 0
    assert Store(twin).current() == rows
    assert Desk(Store(twin), desk.material).progress("anna") == (2, 6)
    other = make_run(tmp_path / "other", arms=("x",))
    capsys.readouterr()
    assert command(other, "--import", str(tmp_path / "r.csv")) == 1
    assert "has no arm" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command(folder, "add-rater")
    with pytest.raises(SystemExit):
        command(folder, "remove", "anna")
    assert "add-rater NAME" in capsys.readouterr().err


def test_two_typed_passwords_must_agree(tmp_path, capsys, monkeypatch):
    folder, typed = make_run(tmp_path / "run"), iter(["correct horse", "correct hors"])
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("getpass.getpass", lambda prompt: next(typed))
    assert command(folder, "add-rater", "anna") == 1
    assert "differ" in capsys.readouterr().err
    assert Store(folder).raters() == []


def test_the_count_of_forms_needs_no_pictures(tmp_path, capsys):
    folder = make_run(tmp_path / "run")
    Store(folder).add_rater("anna", PASSWORD)
    for picture in folder.glob("*.png"):
        picture.unlink()
    assert review.main(["--run-dir", str(folder), "--status"]) == 0
    assert "anna: 0 of 6 forms rated" in capsys.readouterr().out
    assert review.main(["--run-dir", str(folder)]) == 1
    assert "no such picture" in capsys.readouterr().err
