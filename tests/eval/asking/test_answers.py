import json

import pytest

from eval.asking import answers, claims
from eval.asking.answers import Answer, Key
from skingpt4.support.files import drop_truncated_line


def line(case="c1", kind="turn", number=1, **said):
    key = Key(case, 0, None, kind, number)
    return Answer("two_step", key, said or {"prompt": "What?", "answer": "This."})


def write(folder, *lines, name="two_step", tail=""):
    (folder / "answers").mkdir(parents=True, exist_ok=True)
    (folder / "answers" / "two_step.meta.json").write_text(json.dumps({"arm": "two_step"}))
    (folder / "answers" / f"{name}.jsonl").write_text("".join(map(answers.to_line, lines)) + tail)
    (folder / "cases.jsonl").write_text('{"id": "c1", "class": "herpes"}\n{"id": "c2", "class": "herpes"}\n')
    return folder


@pytest.mark.parametrize("kind", ["turn", "probe", "scores"])
def test_a_line_comes_back_as_it_was(kind):
    answer = line(kind=kind, number=0 if kind == "scores" else 2, answer="naïve\u2028line", seconds=0.5)
    assert answers.from_line(answers.to_line(answer)) == answer


def test_lines_of_several_processes_are_one_run(tmp_path):
    write(tmp_path, line(answer="one\u2028line"))
    write(tmp_path, line("c2"), name="two_step.rank1")
    run = answers.read_run(tmp_path)
    assert [a.key.case_id for a in run.arms["two_step"].of("turn")] == ["c1", "c2"]
    assert run.cases["c2"]["class"] == "herpes"


def test_a_torn_last_line_is_removed(tmp_path):
    write(tmp_path, line(), tail='{"arm": "two_step", "case_id": "c2", "ans')
    assert len(answers.read_run(tmp_path).arms["two_step"].lines) == 1
    path = tmp_path / "answers" / "two_step.jsonl"
    drop_truncated_line(path)
    assert path.read_text() == answers.to_line(line())
    drop_truncated_line(path)
    assert path.read_text() == answers.to_line(line())


def test_the_first_of_two_lines_with_one_key_counts_and_foreign_cases_do_not(tmp_path):
    write(tmp_path, line(answer="first"), line(answer="second"), line("unknown"))
    (kept,) = answers.read_run(tmp_path).arms["two_step"].lines.values()
    assert kept.text == "first"


def test_damage_in_the_middle_and_an_empty_folder_get_a_sentence(tmp_path):
    write(tmp_path, line(), tail="nonsense\n")
    with pytest.raises(answers.AnswersError, match="line 2: is not an answer"):
        answers.read_run(tmp_path)
    with pytest.raises(answers.AnswersError, match=r"make them with python -m eval\.run"):
        answers.read_run(tmp_path / "nothing")


@pytest.mark.parametrize("damage", ["[]", "3", "{", "[" * 5000, '"x"', "null"])
@pytest.mark.parametrize("file", ["answers/a.meta.json", "cases.jsonl"])
def test_a_run_folder_with_other_content_is_one_sentence(file, damage, tmp_path):
    (tmp_path / "answers").mkdir()
    (tmp_path / "answers" / "a.meta.json").write_text("{}")
    (tmp_path / "cases.jsonl").write_text('{"id": "c1"}\n')
    (tmp_path / file).write_text(damage + "\n")
    with pytest.raises(answers.AnswersError, match=rf"{tmp_path}: (cannot be read|holds lines)"):
        answers.read_run(tmp_path)
    if "meta" in file:
        with pytest.raises(claims.ArmError, match=r"a\.meta\.json: is damaged"):
            claims.check_folder(tmp_path, ["b"], tmp_path / "cases.jsonl", replace_old=False)
