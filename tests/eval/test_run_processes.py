"""An evaluation by several processes: each answers its part, kills lose nothing, any number of them continues."""

import json
import signal
import time

import pytest

from eval import run
from eval.asking.answers import arm_files, read_lines
from skingpt4.config.load import to_yaml
from tests.support.tiny import tiny_config, write_manifest

PATIENCE = 300  # seconds
NUM_CASES, NUM_ANSWERS = 6, 6 * 7


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A configuration in fp32, whose greedy texts do not depend on who shares a batch, and six cases."""
    folder = tmp_path_factory.mktemp("processes")
    config = tiny_config(folder, data__feature_cache=str(folder / "features"), data__augment=False)
    config.language.dtype = "float32"
    (folder / "config.yaml").write_text(to_yaml(config))
    write_manifest(folder / "cases.jsonl", NUM_CASES)
    rows = [json.loads(line) for line in (folder / "cases.jsonl").read_text().splitlines()]
    rows = [row | {"class": "dermatitis", "case_id": f"case-{number}"} for number, row in enumerate(rows)]
    (folder / "cases.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def arguments(root, out, *more):
    return ["--config", str(root / "config.yaml"), "--cases", str(root / "cases.jsonl"), "--run-dir", str(out),
            "--arm", "untrained", "--batch-size", "1", "--max-new-tokens", "4", *more]  # fmt: skip


def found(out):
    return list(read_lines(arm_files(out, "untrained")))


def same_answers(first, second):
    """Each answer once, texts to the letter, scores but for rounding."""
    one, two = ({answer.key: answer.fields for answer in answers} for answers in (first, second))
    assert len(one) == len(first) == len(second) == NUM_ANSWERS
    assert one.keys() == two.keys()
    for key, fields in one.items():
        if key.kind == "scores":
            assert two[key]["class_scores"] == pytest.approx(fields["class_scores"], abs=1e-4)
        else:
            assert two[key]["answer"] == fields["answer"]


@pytest.fixture(scope="module")
def alone(root, tmp_path_factory):
    """What one process answers."""
    out = tmp_path_factory.mktemp("alone")
    assert run.main(arguments(root, out)) == 0
    return found(out)


def until(condition, seconds=PATIENCE):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def num_lines(path):
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def test_a_killed_process_ends_the_others_and_any_number_continues(root, alone, launcher, tmp_path):
    out = tmp_path / "run"
    command = ["eval.run", *arguments(root, out)]
    job = launcher.start(command, tmp_path / "log", world=2)
    until(lambda: num_lines(out / "answers/untrained.rank1.jsonl") >= 3)
    job.kill(ranks=[1])
    killed = time.monotonic()
    assert job.wait(PATIENCE) == [75, -signal.SIGKILL], job.text()
    assert time.monotonic() - killed < 60
    assert "error: process 1 of 2 has ended, and the others cannot continue without it" in job.text()
    assert "Traceback" not in job.text()
    before = {answer.key: answer.fields for answer in found(out)}
    assert 3 <= len(before) < NUM_ANSWERS
    again = launcher.start(command, tmp_path / "log_three", world=3)
    until(lambda: len(found(out)) > len(before) or not again.is_running())
    again.kill()
    again.wait(PATIENCE)
    assert run.main(arguments(root, out)) == 0
    after = found(out)
    same_answers(after, alone)
    assert {answer.key: answer.fields for answer in after if answer.key in before} == before


def test_kills_at_any_moment_lose_nothing_and_repeat_nothing(root, alone, launcher, tmp_path):
    out = tmp_path / "run"
    path = out / "answers/untrained.jsonl"
    for least in (5, 17):  # of 42 lines; one that is faster than the kill has ended, which is as good
        job = launcher.start(["eval.run", *arguments(root, out)], tmp_path / f"log_{least}")
        until(lambda least=least, job=job: num_lines(path) >= least or not job.is_running())
        job.kill()
        assert job.wait(PATIENCE)[0] in (-signal.SIGKILL, 0), job.text()
        assert num_lines(path) >= least
        with path.open("a") as file:
            file.write('{"arm": "untrained", "kind": "tu')  # a line that the kill has torn
    assert run.main(arguments(root, out)) == 0
    same_answers(found(out), alone)


def test_two_processes_answer_as_one(root, alone, launcher, tmp_path):
    out = tmp_path / "run"
    job = launcher.start(["eval.run", *arguments(root, out)], tmp_path / "log", world=2)
    assert job.wait(PATIENCE) == [0, 0], job.text()
    same_answers(found(out), alone)
    parts = [{answer.key.case_id for answer in read_lines([path])} for path in arm_files(out, "untrained")]
    assert [len(part) for part in parts] == [3, 3]
    assert not parts[0] & parts[1]


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
@pytest.mark.parametrize(
    ("variables", "changes", "sentence"),
    [
        ({"ACCELERATE_USE_FSDP": "true"}, [], "FSDP is not supported here"),
        ({"WORLD_SIZE": "2"}, ["language.device_map=auto"], "language.device_map: spreads one process"),
        ({"SLURM_STEP_NUM_TASKS": "2"}, [], "start torchrun in one task for each node"),
    ],
)
def test_what_several_processes_cannot_do_is_refused(
    variables, changes, sentence, more, root, tmp_path, capsys, monkeypatch
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert run.main(arguments(root, tmp_path / "run", *more, *changes)) == 1
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


# ---- the dry run


def test_a_dry_run_says_what_is_left_and_writes_nothing(root, tmp_path, capsys):
    out = tmp_path / "run"
    assert run.main(arguments(root, out, "--dry-run")) == 0
    text = capsys.readouterr().out
    assert (
        f"6 cases, 6 pictures, task skingpt4_15\narm untrained: 0 of {NUM_ANSWERS} answers are there" in text
    )
    assert "memory: about " in text
    assert "1 cases at once" in text
    assert not out.exists()
    assert run.main(arguments(root, out)) == 0
    path = out / "answers/untrained.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-2]) + lines[-2][:20])
    capsys.readouterr()
    assert run.main(arguments(root, out, "--dry-run", "--repeats", "2", "--perturb", "blur:3")) == 0
    total = 6 * (6 * 3 + 2)
    assert (
        f"{NUM_ANSWERS - 2} of {total} answers are there, {total - NUM_ANSWERS + 2} are"
        in capsys.readouterr().out
    )


def test_a_dry_run_shows_the_memory_of_each_process_once(root, tmp_path, capsys, monkeypatch):
    for name, value in {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert run.main(arguments(root, tmp_path / "run", "--dry-run")) == 0
    text = capsys.readouterr().out
    assert "4 processes with at most 2 cases each" in text
    assert "of host memory for each of 4 processes, 2 of them on this machine" in text
    monkeypatch.setenv("RANK", "1")
    assert run.main(arguments(root, tmp_path / "run", "--dry-run")) == 0
    assert capsys.readouterr().out == ""


def test_a_dry_run_refuses_what_would_not_fit_and_what_the_run_would_refuse(
    root, tmp_path, capsys, monkeypatch
):
    class Little:
        available = 100 << 20

    assert run.main(arguments(root, tmp_path, "--dry-run", "--repeats", "0")) == 1
    assert "--repeats" in capsys.readouterr().err
    monkeypatch.setattr("psutil.virtual_memory", Little)
    assert run.main(arguments(root, tmp_path, "--dry-run")) == 1
    assert "Not enough: lower --batch-size" in capsys.readouterr().out
