"""Answers from tables as an arm: what is read, and what is refused with its row."""

import json
import math

import openpyxl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eval.add import main
from eval.arms.importing.tables import read_table
from eval.asking.answers import Answer, Key, arm_files, case_lines, from_line, read_lines, read_run, to_line
from eval.tasks import load_task
from skingpt4.generation.questions import CLINICAL_PROMPTS
from skingpt4.records.blanks import is_blank
from skingpt4.support.spreadsheets import csv_text
from skingpt4.taxonomy.taxonomy import CLASSES

GOOD = """case,turn,text,seconds
case-0,1,"Silvery plaques, on the elbow.",48
case-0,2,Scales.,20.5
case-0,diagnosis,psoriasis,12
case-1,1,=papules,"30,5"
case-1,diagnosis,This is not acne but eczema.,9
case-2,1,,3600
"""


def add(cases, out, table, *more, name="doctor"):
    return main(["import", "--cases", str(cases), "--run-dir", str(out), "--name", name, str(table), *more])


def written(folder, text, name="answers.csv"):
    path = folder / name
    path.write_text(text)
    return path


def lines(out, arm="doctor"):
    return {(a.key.case_id, a.key.kind, a.key.number): a for a in read_lines(arm_files(out, arm))}


def meta(out, arm="doctor"):
    return json.loads((out / f"answers/{arm}.meta.json").read_text())


def test_a_doctor_s_answers_are_an_arm(cases, tmp_path, capsys):
    table = written(tmp_path, GOOD)
    assert add(cases, tmp_path / "run", table, "--system", "dermatologist, 12 years") == 0
    printed = capsys.readouterr()
    assert "arm doctor: 6 answers about 3 of 6 cases" in printed.out
    assert "note: turn 1: 3 of 6 cases have it" in printed.err
    assert "note: 1 of 6 rows have a time and no text" in printed.err
    found = lines(tmp_path / "run")
    first = found["case-0", "turn", 1].fields
    assert (first["prompt"], first["answer"], first["seconds"]) == (
        CLINICAL_PROMPTS[0], "Silvery plaques, on the elbow.", 48.0
    )  # fmt: skip
    assert found["case-0", "probe", 1].fields["text_class"] == "psoriasis_and_lichen_planus"
    assert found["case-1", "probe", 1].fields["text_class"] == "dermatitis"
    assert found["case-1", "turn", 1].fields["seconds"] == 30.5
    assert found["case-2", "turn", 1].fields["seconds"] == 3600
    card = meta(tmp_path / "run")
    assert card["kind"] == "import"
    assert card["model"] == "dermatologist, 12 years"
    assert card["prompts"] == list(CLINICAL_PROMPTS[:2])
    assert card["scores"] is False
    assert card["closed_set"] == "free text"
    assert card["overlap_not_compared"]
    run = read_run(tmp_path / "run")
    assert len(case_lines(run, run.arms["doctor"])) == 3


def test_the_same_import_again_changes_nothing_and_another_needs_permission(cases, tmp_path, capsys):
    table = written(tmp_path, GOOD)
    assert add(cases, tmp_path / "run", table) == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert add(cases, tmp_path / "run", table) == 0
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()} == before
    (tmp_path / "run/answers/doctor.jsonl").unlink()  # killed between the card and the answers
    assert add(cases, tmp_path / "run", table) == 0
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()} == before
    other = written(tmp_path, GOOD.replace("Scales", "Scale"), "other.csv")
    assert add(cases, tmp_path / "run", other) == 1
    assert "made with other settings (sha256 differ)" in capsys.readouterr().err
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()} == before
    assert add(cases, tmp_path / "run", other, "--replace") == 0
    assert lines(tmp_path / "run")["case-0", "turn", 2].text == "Scale."


def test_a_dry_run_checks_and_writes_nothing(cases, tmp_path, capsys):
    assert add(cases, tmp_path / "run", written(tmp_path, GOOD), "--dry-run") == 0
    assert "6 answers about 3 of 6 cases" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def scores_table(values, turn="scores"):
    header = ",".join(["case", "turn", *CLASSES])
    return (
        "\n".join([header, *(",".join([case, turn, *map(str, row)]) for case, row in values.items())]) + "\n"
    )


def test_probabilities_of_classes_are_scores(cases, tmp_path, capsys):
    values = {f"case-{n}": [0.3 if k == n else 0.05 for k in range(15)] for n in range(6)}
    values["case-5"][0] = 0
    table = written(tmp_path, scores_table(values))
    assert add(cases, tmp_path / "run", table) == 1
    assert "--scores-are probabilities or --scores-are log" in capsys.readouterr().err
    assert add(cases, tmp_path / "run", table, "--scores-are", "probabilities") == 0
    found = lines(tmp_path / "run")
    scores = found["case-2", "scores", 0].fields["class_scores"]
    assert list(scores) == list(CLASSES)
    assert scores[CLASSES[2]] == pytest.approx(math.log(0.3), abs=1e-4)
    assert math.isfinite(found["case-5", "scores", 0].fields["class_scores"][CLASSES[0]])
    assert meta(tmp_path / "run")["scores"] is True
    run = read_run(tmp_path / "run")
    assert [row["predicted_class"] for row in case_lines(run, run.arms["doctor"])] == list(CLASSES[:6])
    rows = [
        {"case_id": case, "turn": "list", "text": CLASSES[3], "class_scores": {c: -1.5 for c in CLASSES}}
        for case in values
    ]
    table = written(tmp_path, "".join(json.dumps(row) + "\n" for row in rows), "answers.jsonl")
    assert add(cases, tmp_path / "run", table, "--scores-are", "log", name="other") == 0
    found = lines(tmp_path / "run", "other")
    assert found["case-0", "probe", 1].fields["listed_class"] == CLASSES[3]
    assert found["case-0", "scores", 0].fields["class_scores"][CLASSES[0]] == -1.5


def test_one_table_of_several_people_a_workbook_and_own_headings(cases, tmp_path):
    rows = [
        ("Case", "turn", "Answer text", "rater"),
        *((f"case-{n}", 1, f"{rater} on {n}", rater) for rater in ("anna", "bert") for n in range(6)),
    ]
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    book.save(tmp_path / "answers.xlsx")
    options = ["--column", "text=Answer text", "--column", "case=Case"]
    for name in ("anna", "bert"):
        assert (
            add(
                cases,
                tmp_path / "run",
                tmp_path / "answers.xlsx",
                "--where",
                f"rater={name}",
                *options,
                name=name,
            )
            == 0
        )
        assert lines(tmp_path / "run", name)["case-3", "turn", 1].text == f"{name} on 3"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("case-1,1", "case-1x,1", "answers.csv, row 5: the case 'case-1x' is not in"),
        ("case-1,1", "case-1x,1", "did you mean 'case-1'?"),
        ("case-", "patient-", "nor is any other of the 6 rows; is it another list of cases?"),
        ("case-0,2", "case-0,1", "row 3: the same answer is in answers.csv, row 2 already (case 'case-0', turn 1)"),
        ("case-0,2", "case-0,first", "row 3: the turn is 'first'; write 1 to 50"),
        ("case-0,2", "case-0,0", "row 3: the turn is '0'"),
        ("case-0,2", "case-0,5", "turn 5 is beyond the 4 prompts of the task"),
        ("case-0,2", ",2", "row 3: names no case"),
        ("20.5", "half a minute", "row 3: 'seconds' is 'half a minute'; write a number"),
        ("20.5", "-3", "row 3: 'seconds' is '-3'"),
        ("20.5", "inf", "row 3: 'seconds' is 'inf'"),
        ("3600", "", "row 7: has neither a text nor seconds"),
        ("Scales.,20.5", "Scales, and so on,20.5", "row 3: has 5 cells, the header has 4"),
        ("seconds", "text", "the heading 'text' stands over columns 3 and 4"),
        ("turn,", "Turm,", "no column 'turn'"),
        (GOOD, "case,turn,text\n", "there are no answers to import"),
        (GOOD, "", "is empty"),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_imported_is_one_sentence(cases, tmp_path, capsys, old, new, message):
    assert (
        add(cases, tmp_path / "run", written(tmp_path, GOOD.replace(old, new, 1 if old != "case-" else -1)))
        == 1
    )
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert message in errors[0]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row.__setitem__(0, 2), "is 2, and a probability is 0 to 1"),
        (lambda row: row.__setitem__(0, "x"), "the score of 'acne_and_rosacea' is 'x'"),
        (lambda row: row.__setitem__(0, ""), "'acne_and_rosacea' has no score"),
        (lambda row: row.__setitem__(0, -0.1), "is '-0.1'"),
    ],
)
def test_scores_that_cannot_be_imported(cases, tmp_path, capsys, change, message):
    row = [0.05] * 15
    change(row)
    table = written(tmp_path, scores_table({"case-0": row}))
    assert add(cases, tmp_path / "run", table, "--scores-are", "probabilities") == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--where", "rater=carla"], "no column 'rater'"),
        (["--where", "turn=9"], "no row has turn=9"),
        (["--where", "rater"], "--where 'rater': write NAME=VALUE"),
        (["--column", "words=text"], "--column words: is none of case, turn"),
        (["--name", "a/b"], "a name has only letters"),
    ],
)
def test_options_that_cannot_be_used(cases, tmp_path, capsys, more, message):
    assert add(cases, tmp_path / "run", written(tmp_path, GOOD), *more) == 1
    assert message in capsys.readouterr().err


def test_two_tables_are_two_arms(cases, tmp_path, capsys):
    table = written(tmp_path, GOOD)
    assert add(cases, tmp_path / "run", table, str(table)) == 1
    assert "one table is one arm" in capsys.readouterr().err


TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40).filter(
    lambda text: text.strip() and not text.startswith('="')
)
NAMES = st.from_regex(r"case-[0-9]{1,4}", fullmatch=True)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25)
@given(
    rows=st.lists(
        st.tuples(NAMES, st.integers(1, 4), TEXTS, st.none() | st.floats(0, 1e6)), min_size=1, max_size=6
    ),
    delimiter=st.sampled_from([",", ";", "\t"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_every_table_comes_back_as_it_was(tmp_path, rows, delimiter, encoding):
    path = tmp_path / "table.csv"
    text = csv_text(("case", "turn", "text", "seconds"), rows, delimiter)
    path.write_bytes(text.encode(encoding))
    read, _ = read_table(path, load_task(), None, {}, {})
    assert [(row.case_id, row.number, row.text, row.seconds) for row in read] == [
        (case, turn, text, seconds) for case, turn, text, seconds in rows
    ]


VALUES = st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(
    st.characters(exclude_categories=["Cs"])
)  # fmt: skip


@given(
    kind=st.sampled_from(["turn", "probe", "scores"]),
    case=st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    number=st.integers(1, 9),
    repeat=st.integers(0, 9),
    change=st.none() | st.just("jpeg:20"),
    fields=st.dictionaries(st.sampled_from(["answer", "seconds", "listed_class", "served_model"]), VALUES),
)
def test_every_line_comes_back_as_it_was(kind, case, number, repeat, change, fields):
    answer = Answer("arm", Key(case, repeat, change, kind, 0 if kind == "scores" else number), fields)
    assert from_line(to_line(answer)) == answer
    assert to_line(answer).count("\n") == 1


def test_a_word_for_nothing_is_an_answer_and_an_empty_cell_is_none(cases, tmp_path):
    assert is_blank("none")
    table = written(tmp_path, "case,turn,text,seconds\ncase-0,4,none,n/a\n")
    assert add(cases, tmp_path / "run", table) == 0
    assert lines(tmp_path / "run")["case-0", "turn", 4].text == "none"
