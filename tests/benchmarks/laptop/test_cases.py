"""What is compared of two engines' answers, and with which commands they are made."""

import json
import shutil

import pytest

from benchmarks.laptop import cases
from tests.support.simulated_run import write_run


def made(folder, other_word=None):
    """Answers about four cases; in every second one, one of the two texts has another word."""
    write_run(folder, [f"{number}.jpg" for number in range(4)], {"two_step": 1.0})
    if other_word:
        path = folder / "answers" / "two_step.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        changed = [row for row in rows if row["kind"] == "probe" and "could" in row["answer"]][::2]
        for row in changed:
            row["answer"] = other_word
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_equal_answers_are_counted_and_the_measures_are_the_second_runs(tmp_path):
    found = cases.compare(made(tmp_path / "own"), made(tmp_path / "q8_0", "acne"))
    equal = found["equal_answers"]
    assert (equal["value"], equal["n"]) == (6 / 8, 8)
    assert equal["low"] < 6 / 8 < equal["high"]
    assert found["concept_micro_f1"]["value"] == 1
    assert found["top1_text"]["n"] == 4


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """What would be run; answers come from `made`."""
    asked = []

    def stand_in(words):
        asked.append(words)
        if words[0] == "eval.run":
            folder = tmp_path / "files" / words[words.index("--run-dir") + 1].rsplit("/", 1)[-1]
            shutil.rmtree(folder, ignore_errors=True)
            made(folder)

    monkeypatch.setattr(cases, "_run", stand_in)
    return asked


def test_both_engines_are_asked_the_same(commands, tmp_path):
    out = tmp_path / "out.json"
    assert cases.main(["--folder", str(tmp_path / "files"), "--precisions", "q8_0", "--out", str(out)]) == 0
    own, export, other = commands
    assert export[:3] == ["skingpt4", "export", "--checkpoint"]
    assert export[-2:] == ["--precision", "q8_0"]
    *same, name, file = other
    assert name == "engine=llama_cpp"
    assert file == f"engine.file={tmp_path}/files/files_q8_0/model.gguf"
    assert [word for word in same if "files" not in word] == [word for word in own if "files" not in word]
    result = json.loads(out.read_text())
    assert result["rows"]["q8_0"]["equal_answers"]["value"] == 1
    assert result["num_cases"] == 4


def test_a_failed_command_is_named(tmp_path, capsys):
    assert cases.main(["--config", str(tmp_path / "no.yaml"), "--folder", str(tmp_path)]) == 1
    assert "eval.run --config" in capsys.readouterr().err
