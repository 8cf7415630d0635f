"""A made-up respondent through all cases: what is asked, written, resumed, left out and refused."""

import json

import pytest

from eval.arms.asking import AskSettings, answer_with
from eval.arms.respondent import FREE_TEXT, LIST, RespondentError, RespondentGone
from eval.asking.answers import arm_files, case_lines, read_lines, read_run
from eval.asking.claims import ArmError
from eval.tasks import load_task
from skingpt4.generation.questions import CLINICAL_PROMPTS
from skingpt4.support.errors import UserError
from skingpt4.taxonomy.taxonomy import CLASSES, CONCEPTS
from tests.support.respondents import Echo


def settings(cases, out, **changes):
    return AskSettings(cases, out, "echo", load_task(), **changes)


def lines(out, arm="echo"):
    return list(read_lines(arm_files(out, arm)))


def meta(out, arm="echo"):
    return json.loads((out / f"answers/{arm}.meta.json").read_text())


def test_a_case_is_one_conversation_with_questions_beside_it_and_a_closed_set(cases, tmp_path):
    echo = Echo()
    answer_with(echo, settings(cases, tmp_path))
    texts = [a for a in lines(tmp_path) if a.key.case_id == "case-0"]
    assert [(a.key.kind, a.key.number) for a in texts] == [
        ("scores", 0), ("turn", 1), ("turn", 2), ("turn", 3), ("turn", 4), ("probe", 1), ("probe", 2)
    ]  # fmt: skip
    first = [asked for asked in echo.asked[:7]]
    assert first[0][3] == list(CLASSES)
    assert [question for _, _, question, _ in first[1:5]] == list(CLINICAL_PROMPTS)
    for number, (images, talk, _, _) in enumerate(first[1:5]):
        assert images == 1
        assert talk == [(CLINICAL_PROMPTS[k], texts[1 + k].text) for k in range(number)]
    assert first[5][1] == first[6][1] == []
    assert texts[1].fields["seconds"] == 0.2
    assert texts[6].fields["text_class"] == "dermatitis"
    assert len({a.fields["seed"] for a in lines(tmp_path) if "seed" in a.fields}) == 6 * 6
    assert len(lines(tmp_path)) == 6 * 7


def test_the_meta_file_says_what_the_arm_has_and_the_report_reads_it(cases, tmp_path):
    answer_with(Echo(), settings(cases, tmp_path))
    written = meta(tmp_path)
    assert written["kind"] == "echo"
    assert written["prompts"] == list(CLINICAL_PROMPTS)
    assert len(written["probes"]) == 2
    assert written["scores"] is True
    assert written["classes"] == list(CLASSES)
    assert written["task"]["name"] == "skingpt4_15"
    assert len(written["task"]["sha256"]) == 64
    assert written["overlap_not_compared"]
    assert written["device"] == "here"
    run = read_run(tmp_path)
    rows = case_lines(run, run.arms["echo"])
    assert len(rows) == 6
    assert rows[0]["predicted_class"] == CLASSES[0]


def test_a_respondent_without_texts_is_asked_for_scores_alone(cases, tmp_path):
    answer_with(Echo(turns=False), settings(cases, tmp_path, concept_scores=True))
    assert [a.key.kind for a in lines(tmp_path)] == ["scores"] * 6
    assert list(lines(tmp_path)[0].fields["concept_scores"]) == list(CONCEPTS)
    assert meta(tmp_path)["prompts"] == meta(tmp_path)["probes"] == []


def test_a_respondent_without_scores_chooses_from_a_list_or_is_read_as_it_writes(cases, tmp_path):
    answer_with(Echo(scores=False, closed_set=LIST), settings(cases, tmp_path / "list"))
    assert meta(tmp_path / "list")["scores"] is False
    listed = [a for a in lines(tmp_path / "list") if a.key.kind == "probe" and a.key.number == 3]
    assert len(listed) == 6
    assert "acne and rosacea" in listed[0].fields["question"]
    assert listed[0].fields["listed_class"] is None  # eczema is none of the labels
    answer_with(Echo(scores=False, closed_set=FREE_TEXT), settings(cases, tmp_path / "text"))
    assert {a.key.number for a in lines(tmp_path / "text") if a.key.kind == "probe"} == {1, 2}


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_failing_case_is_left_for_the_next_run_and_the_others_go_on(cases, tmp_path, capsys, concurrency):
    whole = tmp_path / "whole"
    answer_with(Echo(), settings(cases, whole))
    echo = Echo()
    pixels = sorted(a.text for a in lines(whole) if a.key.case_id == "case-2" and a.key.kind == "turn")
    echo.fails = lambda question: False
    reply = echo.reply

    def fail_for_one(images, conversation, question, seed):
        answer = reply(images, conversation, question, seed)
        if answer.text in pixels and question == CLINICAL_PROMPTS[2]:
            raise RespondentError("the server is out of memory")
        return answer

    echo.reply = fail_for_one
    out = tmp_path / "failing"
    with pytest.raises(
        RespondentError, match=r"1 of 6 cases failed, the first case-2 \(the server is out of"
    ):
        answer_with(echo, settings(cases, out, concurrency=concurrency))
    assert "case case-2 failed: the server is out of memory" in capsys.readouterr().err
    assert len(lines(out)) == 5 * 7 + 3
    echo.reply, echo.asked = reply, []
    answer_with(echo, settings(cases, out, concurrency=concurrency))
    assert len(echo.asked) == 4, "only what was missing is asked again"
    assert {a.key: a.fields for a in lines(out)} == {a.key: a.fields for a in lines(whole)}


def test_it_stops_when_nobody_is_there_or_too_many_cases_in_a_row_fail(cases, tmp_path):
    def gone(question):
        raise RespondentGone("nobody is there")

    echo = Echo(scores=False, fails=gone)
    with pytest.raises(RespondentError, match="stopped early; 1 of 6 cases failed"):
        answer_with(echo, settings(cases, tmp_path))
    assert len(echo.asked) == 1
    echo = Echo(scores=False, fails=lambda question: True)
    with pytest.raises(RespondentError, match="stopped early; 3 of 6 cases failed"):
        answer_with(echo, settings(cases, tmp_path, max_failures=3))
    with pytest.raises(RespondentError, match="echo: 6 of 6 cases failed"):
        answer_with(echo, settings(cases, tmp_path, max_failures=0))


def test_a_missing_picture_is_the_failure_of_its_case(cases, tmp_path):
    text = cases.read_text().replace("cases_3.png", "missing.png")
    other = cases.with_name("other.jsonl")
    other.write_text(text)
    with pytest.raises(RespondentError, match=r"1 of 6 cases failed, the first case-3 \(.*missing\.png"):
        answer_with(Echo(), settings(other, tmp_path))


def test_repeats_and_changes_are_asked_and_added_later(cases, tmp_path):
    answer_with(Echo(), settings(cases, tmp_path, num_prompts=1))
    before = (tmp_path / "answers/echo.jsonl").read_text()
    answer_with(Echo(), settings(cases, tmp_path, num_prompts=1, repeats=2, perturbations=("blur:3",)))
    assert (tmp_path / "answers/echo.jsonl").read_text().startswith(before)
    kinds = [(a.key.repeat, a.key.perturbation, a.key.kind) for a in lines(tmp_path)]
    assert kinds.count((1, None, "scores")) == 0
    assert kinds.count((1, None, "turn")) == kinds.count((0, "blur:3", "turn")) == 6
    assert kinds.count((0, "blur:3", "scores")) == 6
    assert meta(tmp_path)["repeats"] == 2
    assert meta(tmp_path)["perturbations"] == ["blur:3"]
    turns = {a.key: a.text for a in lines(tmp_path) if a.key.kind == "turn" and a.key.repeat == 0}
    assert len(set(turns.values())) == 12, "the changed pictures were shown"


@pytest.mark.parametrize(
    ("control", "num_different"), [("blank_image", 1), ("noise_image", 6), ("other_image", 6)]
)
def test_controls_show_other_pictures(cases, tmp_path, control, num_different):
    echo, shown = Echo(), []
    reply = echo.reply
    echo.reply = lambda images, *rest: shown.append(images[0].tobytes()) or reply(images, *rest)
    answer_with(echo, settings(cases, tmp_path, num_prompts=0, control=control))
    assert len(set(shown)) == num_different
    assert meta(tmp_path)["control"] == control


def test_a_dry_run_says_what_would_be_asked_and_writes_nothing(cases, tmp_path, capsys):
    echo = Echo()
    answer_with(echo, settings(cases, tmp_path / "run", dry_run=True))
    out = capsys.readouterr().out
    assert "6 cases with 6 pictures, task skingpt4_15" in out
    assert "42 to ask, 0 there already" in out
    assert not (tmp_path / "run").exists()
    assert echo.asked == []


def test_other_settings_cases_and_names_are_refused(cases, tmp_path):
    answer_with(Echo(), settings(cases, tmp_path, num_prompts=1))
    before = (tmp_path / "answers/echo.jsonl").read_text()
    with pytest.raises(ArmError, match=r"made with other settings \(prompts differ\)"):
        answer_with(Echo(), settings(cases, tmp_path, num_prompts=2))
    other = Echo()
    other.card["model"] = "another"
    with pytest.raises(ArmError, match="model, language_model differ"):
        answer_with(other, settings(cases, tmp_path, num_prompts=1))
    fewer = cases.with_name("fewer.jsonl")
    fewer.write_text("".join(cases.read_text().splitlines(keepends=True)[:3]))
    with pytest.raises(ArmError, match="about another list of cases"):
        answer_with(Echo(), settings(fewer, tmp_path, num_prompts=1))
    assert (tmp_path / "answers/echo.jsonl").read_text() == before
    for change, message in (
        ({"repeats": 0}, "--repeats"),
        ({"temperature": -1.0}, "--temperature"),
        ({"perturbations": ("tilt:3",)}, "'tilt:3' is not a change"),
    ):
        with pytest.raises(UserError, match=message):
            answer_with(Echo(), settings(cases, tmp_path, **change))


def test_another_machine_continues_an_arm(cases, tmp_path):
    answer_with(Echo(), settings(cases, tmp_path))
    there = Echo()
    there.card["device"] = "elsewhere"
    answer_with(there, settings(cases, tmp_path))
    assert there.asked == []


def test_a_task_of_concepts_alone_has_scores_of_concepts_and_no_class(cases, tmp_path):
    task = load_task("skincon_48")
    echo = Echo()
    answer_with(echo, AskSettings(cases, tmp_path, "echo", task, num_prompts=0))
    assert [(a.key.kind, a.key.number) for a in lines(tmp_path)] == [("scores", 0), ("probe", 1)] * 6
    first = lines(tmp_path)[0].fields
    assert first["class_scores"] is None
    assert list(first["concept_scores"]) == list(task.concepts)
    assert meta(tmp_path)["concepts"] == list(task.concepts)
    assert meta(tmp_path)["classes"] == []


def test_a_task_of_one_s_own_has_its_labels_and_questions(cases, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "name: mine\ntitle: Mine\nabout: Four diseases.\nquestion: Which disease is it?\n"
        "classes: {psoriasis: [psoriasis, psoriasis vulgaris], acne: [acne], melanoma: [melanoma], "
        "eczema: [eczema]}\nprompts: [Describe it.]\n"
    )
    echo = Echo(closed_set=LIST)
    answer_with(echo, AskSettings(cases, tmp_path / "run", "echo", load_task(path)))
    found = [a for a in lines(tmp_path / "run") if a.key.case_id == "case-1"]
    assert [(a.key.kind, a.key.number) for a in found] == [
        ("scores", 0),
        ("turn", 1),
        ("probe", 1),
        ("probe", 2),
    ]
    assert list(found[0].fields["class_scores"]) == ["psoriasis", "acne", "melanoma", "eczema"]
    assert found[1].fields["prompt"] == "Describe it."
    assert (found[2].fields["question"], found[2].fields["text_class"]) == ("Which disease is it?", "eczema")
    assert found[3].fields["listed_class"] == "eczema"
    run = read_run(tmp_path / "run")
    assert run.task.classes == ("psoriasis", "acne", "melanoma", "eczema")
    assert [case["class"] for case in run.cases.values()][:4] == ["psoriasis", "acne", "melanoma", "eczema"]
