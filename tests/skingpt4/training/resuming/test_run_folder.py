"""A run's folder: whom it takes in, and metrics that go on after a stop."""

import json
import os

import pytest
import yaml

from skingpt4.support import files
from skingpt4.training.resuming import run_folder
from skingpt4.training.resuming.run_folder import CHECKPOINTS, CONFIG, METRICS, Metrics, RunDirError
from tests.support.locking import lock_elsewhere

CONFIG_TEXT = yaml.safe_dump(
    {
        "step": "step1",
        "output_dir": "runs/a",
        "seed": 1,
        "optim": {"init_lr": 0.1, "batch_size": 3},
        "log": {"every": 1},
    }
)


def changed(**values):
    return yaml.safe_dump({**yaml.safe_load(CONFIG_TEXT), **values})


@pytest.fixture
def run(tmp_path):
    """A folder in which a run has begun."""
    folder = tmp_path / "runs" / "a"
    run_folder.claim(folder, CONFIG_TEXT, resume=False, overwrite=False)
    (folder / CHECKPOINTS).mkdir()
    (folder / METRICS).write_text("")
    return folder


def everything(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_new_folder_is_made_and_keeps_the_config(run):
    assert (run / CONFIG).read_text() == CONFIG_TEXT
    assert not list(run.glob(".*"))


def test_an_empty_folder_is_taken(tmp_path):
    run_folder.claim(tmp_path, CONFIG_TEXT, resume=False, overwrite=False)
    assert (tmp_path / CONFIG).read_text() == CONFIG_TEXT


@pytest.mark.parametrize(
    ("resume", "overwrite"), [(False, False), (True, False), (False, True), (True, True)]
)
def test_a_foreign_folder_is_never_touched(resume, overwrite, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    before = everything(tmp_path)
    with pytest.raises(RunDirError, match="holds no run; name another output_dir"):
        run_folder.claim(tmp_path, CONFIG_TEXT, resume, overwrite)
    assert everything(tmp_path) == before


def test_overwrite_spares_a_project_that_has_a_config_of_its_own(tmp_path):
    (tmp_path / CONFIG).write_text("theme: dark\n")
    (tmp_path / "thesis.txt").write_text("years of work")
    before = everything(tmp_path)
    with pytest.raises(RunDirError, match="holds no run"):
        run_folder.claim(tmp_path, CONFIG_TEXT, resume=False, overwrite=True)
    assert everything(tmp_path) == before


def test_a_run_is_not_entered_unasked(run):
    before = everything(run)
    with pytest.raises(RunDirError, match=r"another run already.*--resume.*--overwrite"):
        run_folder.claim(run, CONFIG_TEXT, resume=False, overwrite=False)
    assert everything(run) == before


def test_resume_goes_on(run):
    (run / CHECKPOINTS / "c").write_text("kept")
    run_folder.claim(run, CONFIG_TEXT, resume=True, overwrite=False)
    assert (run / CHECKPOINTS / "c").read_text() == "kept"


def test_resume_may_log_and_save_more_often(run):
    other = changed(log={"every": 50, "tensorboard": False})
    run_folder.claim(run, other, resume=True, overwrite=False)
    assert (run / CONFIG).read_text() == other


def test_a_run_begun_before_a_key_existed_goes_on_with_its_default(run):
    newer = changed(data={"allow_overlap": False}, prompt={"use_turns": True})
    run_folder.claim(run, newer, resume=True, overwrite=False)
    with pytest.raises(RunDirError, match=r"\(prompt\.use_turns differ\)"):
        run_folder.claim(run, changed(prompt={"use_turns": False}), resume=True, overwrite=False)


def test_a_run_begun_with_a_key_that_is_gone_resumes_at_its_fixed_value_alone(run):
    (run / CONFIG).write_text(changed(language={"loss_chunk_mb": 32, "cuda_graphs": False}, data={}))
    run_folder.claim(run, changed(language={}, data={}), resume=True, overwrite=False)
    (run / CONFIG).write_text(changed(language={"loss_chunk_mb": 0}))
    with pytest.raises(RunDirError, match=r"\(language\.loss_chunk_mb differ\)"):
        run_folder.claim(run, changed(language={}), resume=True, overwrite=False)
    run_folder.claim(run, changed(language={}), resume=False, overwrite=True)


def test_what_is_kept_apart_may_change_on_resume(run):
    run_folder.claim(run, changed(data={"evaluation": ["cases.jsonl"]}), resume=True, overwrite=False)


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"seed": 2}, ["seed"]),
        (
            {"optim": {"init_lr": 0.2, "batch_size": 4}, "seed": 2},
            ["optim.batch_size", "optim.init_lr", "seed"],
        ),
        ({"optim": {"init_lr": 0.1}}, ["optim.batch_size"]),
        ({"new_key": True}, ["new_key"]),
    ],
)
def test_resume_with_another_configuration_names_the_keys(other, named, run):
    before = everything(run)
    with pytest.raises(RunDirError, match=r"another configuration") as caught:
        run_folder.claim(run, changed(**other), resume=True, overwrite=False)
    assert f"({', '.join(named)} differ)" in str(caught.value)
    assert everything(run) == before


def test_overwrite_starts_anew(run):
    (run / CHECKPOINTS / "old").write_text("old")
    run_folder.claim(run, changed(seed=2), resume=False, overwrite=True)
    assert everything(run) == {CONFIG: changed(seed=2).encode()}


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(RunDirError, match="runs"):
        run_folder.claim(tmp_path / "runs", CONFIG_TEXT, resume=False, overwrite=False)


def test_a_file_above_the_folder(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(RunDirError, match="cannot be written"):
        run_folder.claim(tmp_path / "runs" / "a", CONFIG_TEXT, resume=False, overwrite=False)


def test_resume_with_a_damaged_config(run):
    (run / CONFIG).write_text("")
    with pytest.raises(RunDirError, match=CONFIG):
        run_folder.claim(run, CONFIG_TEXT, resume=True, overwrite=False)


@pytest.mark.parametrize("damage", [b"", b"\xff\xfe", bytes(40), b"step: [", None])
def test_a_damaged_config_is_taken_from_the_newest_checkpoint(damage, run):
    card = run / CHECKPOINTS / "iteration_0000002" / "checkpoint.json"
    card.parent.mkdir()
    card.write_text(json.dumps({"iteration": 2, "config": yaml.safe_load(CONFIG_TEXT)}))
    (run / CONFIG).unlink() if damage is None else (run / CONFIG).write_bytes(damage)
    with pytest.raises(RunDirError, match=r"\(seed differ\)"):
        run_folder.check(run, changed(seed=2), resume=True, overwrite=False)
    run_folder.claim(run, CONFIG_TEXT, resume=True, overwrite=False)
    assert (run / CONFIG).read_text() == CONFIG_TEXT


# ---- one run a folder


def test_a_locked_folder_takes_no_second_run(run):
    before = everything(run)
    with lock_elsewhere(run) as other:
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(RunDirError, match="another run is in progress there"), run_folder.locked(run):
            pytest.fail("locked twice")
        other.stdin.close()
        assert other.wait(60) == 0
    assert everything(run) == before
    with run_folder.locked(run):
        answer, _ = lock_elsewhere(run).communicate(timeout=60)
        assert "another run is in progress there" in answer
        assert run_folder.LOCK in everything(run)  # the refused process has not removed it
    assert everything(run) == before


def test_a_killed_run_leaves_its_folder_free(run):
    with lock_elsewhere(run) as other:
        assert other.stdout.readline() == "locked\n"
        other.kill()
    assert (run / run_folder.LOCK).exists()
    with run_folder.locked(run):
        pass


def test_a_lock_alone_leaves_a_folder_free_and_nothing_behind(tmp_path):
    folder = tmp_path / "runs" / "a"
    with run_folder.locked(folder):
        run_folder.check(folder, CONFIG_TEXT, resume=False, overwrite=False)
    assert not folder.exists()
    folder.mkdir()
    with run_folder.locked(folder):
        pass
    assert folder.is_dir()  # the user's own


def test_write_text_replaces_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "f"
    files.write_text(path, "old")

    def fail(*_):
        raise OSError("killed")

    with monkeypatch.context() as patch:
        patch.setattr("skingpt4.support.files.os.replace", fail)
        with pytest.raises(OSError, match="killed"):
            files.write_text(path, "new")
    assert path.read_text() == "old"


def test_a_file_is_on_the_disk_before_it_has_its_name_and_the_name_before_it_returns(tmp_path, monkeypatch):
    part, path, order = tmp_path / "part", tmp_path / "file", []
    part.write_text("all of it")
    sync, replace = files.sync, os.replace
    monkeypatch.setattr(files, "sync", lambda p: order.append(p.name) or sync(p))
    monkeypatch.setattr(files.os, "replace", lambda *names: order.append("named") or replace(*names))
    files.move_into_place(part, path)
    assert order == ["part", "named", tmp_path.name]
    assert path.read_text() == "all of it"


# ---- metrics


def lines_of(folder):
    return [json.loads(line) for line in (folder / METRICS).read_text().splitlines()]


def logged(folder, start, iterations):
    metrics = Metrics(folder, start, tensorboard=False)
    for iteration in iterations:
        metrics.write("train", iteration, loss=iteration / 2)
    metrics.close()


def test_metrics_are_on_disk_at_once(tmp_path):
    metrics = Metrics(tmp_path, 0, tensorboard=False)
    metrics.write("validation", 3, loss=0.5, accuracy=1.0)
    assert lines_of(tmp_path) == [{"kind": "validation", "iteration": 3, "loss": 0.5, "accuracy": 1.0}]
    metrics.close()


def test_going_on_drops_what_came_after_the_checkpoint(tmp_path):
    logged(tmp_path, 0, [10, 20, 30])
    logged(tmp_path, 20, [25, 30])
    assert [line["iteration"] for line in lines_of(tmp_path)] == [10, 20, 25, 30]


@pytest.mark.parametrize("torn", ['{"kind": "train", "itera', '{"kind": "train", "iteration": 30', "{"])
def test_going_on_after_a_torn_last_line(torn, tmp_path):
    logged(tmp_path, 0, [10, 20])
    with (tmp_path / METRICS).open("a") as file:
        file.write(torn)
    logged(tmp_path, 20, [30])
    assert [line["iteration"] for line in lines_of(tmp_path)] == [10, 20, 30]


def test_a_loss_that_is_not_finite_survives_going_on(tmp_path):
    metrics = Metrics(tmp_path, 0, tensorboard=False)
    metrics.write("train", 1, loss=float("nan"))
    metrics.close()
    logged(tmp_path, 1, [2])
    assert [line["iteration"] for line in lines_of(tmp_path)] == [1, 2]
