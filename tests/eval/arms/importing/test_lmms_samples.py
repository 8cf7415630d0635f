"""Samples of lmms-eval as an arm: what our export writes comes back, and what lmms-eval itself leaves out."""

import json

import pytest

from eval.add import main
from eval.arms.asking import AskSettings, answer_with
from eval.asking.answers import arm_files, read_lines
from eval.export import __main__ as export
from eval.tasks import load_task
from tests.support.respondents import Echo


@pytest.fixture
def samples(cases, tmp_path, capsys):
    """The exported samples of an arm with two repeats, and the run that it was."""
    run = tmp_path / "first"
    answer_with(Echo(), AskSettings(cases, run, "echo", load_task(), repeats=2))
    assert export.main(["--run-dir", str(run), "--format", "lmms-eval", "--out", str(tmp_path / "out")]) == 0
    capsys.readouterr()
    return run, sorted((tmp_path / "out/echo").glob("run_samples_*.jsonl"))


def add(cases, out, *files):
    return main(["import", "--format", "lmms-eval", "--cases", str(cases), "--run-dir", str(out), "--name", "echo",
                 *map(str, files)])  # fmt: skip


KEPT = (
    "answer",
    "prompt",
    "question",
    "predicted_concepts",
    "text_class",
    "text_outcome",
    "class_scores",
    "image_sha256",
)


def content(out):
    return {a.key: {name: a.fields.get(name) for name in KEPT} for a in read_lines(arm_files(out, "echo"))}


def test_what_was_exported_comes_back(cases, tmp_path, samples):
    run, files = samples
    assert len(files) == 7
    assert add(cases, tmp_path / "second", *files) == 0
    assert content(tmp_path / "second") == content(run)
    first = next(a for a in read_lines(arm_files(tmp_path / "second", "echo")) if a.key.kind == "turn")
    assert first.fields["num_tokens"] == 3


def test_samples_without_documents_and_with_wrapped_texts_are_read_by_their_places(cases, tmp_path, samples):
    run, files = samples
    slim = []
    for path in files:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows:
            del row["doc"]
            if isinstance(row["filtered_resps"], str):
                row["resps"] = [[text] for text in row["resps"]]
                row["filtered_resps"] = [row["filtered_resps"]]
            else:
                row["filtered_resps"] = [[str(score), "False"] for score, _ in row["filtered_resps"]]
        slim.append(tmp_path / path.name)
        slim[-1].write_text("".join(json.dumps(row) + "\n" for row in reversed(rows)))
    assert add(cases, tmp_path / "second", *slim) == 0
    assert content(tmp_path / "second") == content(run)


def changed(path, folder, change):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    change(rows)
    out = folder / path.name
    out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return out


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("diagnosis", lambda rows: rows[1]["doc"].update(id="x"), "line 2: the case 'x' is not in the list"),
        ("diagnosis", lambda rows: [rows[1].pop("doc"), rows[1].update(doc_id=99)], "line 2: 'doc_id' is 99"),
        (
            "diagnosis",
            lambda rows: [rows[0].pop("doc"), rows[0].update(doc_id=1)],
            "about another list of cases",
        ),
        ("diagnosis", lambda rows: rows[0].update(resps=[], filtered_resps=3), "has no text under"),
        ("diagnosis", lambda rows: rows.append(rows[0]), "the same answer is in"),
        ("class", lambda rows: rows[0]["filtered_resps"].pop(), "has 14 likelihoods"),
        ("class", lambda rows: rows[0]["doc"]["choices"].__setitem__(0, "x"), "must be the same classes"),
        ("class", lambda rows: rows[0]["filtered_resps"].__setitem__(0, ["x", None]), "a likelihood is 'x'"),
    ],
)
def test_samples_that_cannot_be_read(cases, tmp_path, samples, capsys, name, change, message):
    path = next(path for path in samples[1] if path.name.endswith(f"{name}.jsonl"))
    assert add(cases, tmp_path / "second", changed(path, tmp_path, change)) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "second").exists()


def test_other_tasks_are_named_on_the_command_line(cases, tmp_path, samples, capsys):
    path = next(path for path in samples[1] if path.name.endswith("diagnosis.jsonl"))
    other = tmp_path / "samples_dermbench.jsonl"
    other.write_bytes(path.read_bytes())
    assert add(cases, tmp_path / "second", other) == 1
    assert "its name does not say what was asked; write WHAT=" in capsys.readouterr().err
    assert add(cases, tmp_path / "second", f"diagnosis={other}") == 0
    assert len(content(tmp_path / "second")) == 12
