"""The processes of a run: what they tell each other, the same start in all, the same result as one."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from skingpt4.config.load import to_yaml
from skingpt4.records.feature_store import FeatureStore
from skingpt4.training import prepare
from skingpt4.training.distributed.team import Team
from skingpt4.training.loop import run
from skingpt4.training.resuming.run_folder import RunDirError
from tests.support.kill_trials import metrics_of, trained_bits
from tests.support.tiny import tiny_config, write_manifest

ROOT = Path(__file__).parents[4]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("processes")


def losses_of(config, kind="train"):
    return [line["loss"] for line in metrics_of(config) if line["kind"] == kind]


def projection_of(config):
    from safetensors.torch import load

    return load(trained_bits(config)["projection.safetensors"])


# ---- what the processes tell each other


@pytest.fixture(scope="module")
def team(launcher, tmp_path_factory):
    """What each of two processes found, see tests/support/team_trial.py."""
    folder = tmp_path_factory.mktemp("team")
    job = launcher.start(["tests.support.team_trial", str(folder)], folder / "log", world=2)
    assert job.wait() == [0, 0], job.text()
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


def test_the_first_process_works_for_all(team):
    assert [seen["leads"] for seen in team] == [True, False]
    assert [seen["result"] for seen in team] == ["of 0", "of 0"]
    assert [seen["failure"] for seen in team] == ["refused: the disk is full"] * 2


def test_a_flag_of_one_process_is_seen_by_all(team):
    assert [seen["any"] for seen in team] == [[True, False]] * 2


def test_what_differs_between_processes_is_named(team):
    assert [seen["same"] for seen in team] == ["None", "None"]
    for seen in team:
        assert seen["differing"].startswith(
            "refused: process 1 of 2 differs from the first in its data; start all"
        )


def test_where_one_process_cannot_go_on_none_does(team):
    assert [seen["together"] for seen in team] == [["first", "second"]] * 2
    assert team[1]["one fails"] == "refused: no such picture"
    assert team[0]["one fails"] == "refused: another process of this run failed; its message says why"


def test_a_wait_may_be_longer_than_a_collective_s_time_out(team):
    assert all(seen["waited"] > 2.5 for seen in team)
    assert "timed out" in [seen["barrier"] for seen in team]  # the time-out was in effect


# ---- the same result as one


@pytest.fixture(scope="module")
def two_processes(launcher, folder):
    """A run of two processes with half the batch each, features made together: its configuration and output."""
    config = tiny_config(
        folder,
        output_dir=str(folder / "two"),
        data__feature_cache=str(folder / "two_features"),
        data__feature_views=2,
        optim__batch_size=2,
        data__validation=[str(folder / "train.jsonl")],
    )
    (folder / "two.yaml").write_text(to_yaml(config))
    words = ["tests.support.leaving_trial", "--config", str(folder / "two.yaml")]
    job = launcher.start(words, folder / "two.log", world=2)
    assert job.wait() == [0, 0], job.text()
    return config, job.text()


def test_two_processes_equal_one(two_processes, tmp_path):
    two, _ = two_processes
    one = dataclasses.replace(two, optim=dataclasses.replace(two.optim, batch_size=4))
    one.output_dir = str(tmp_path / "one")
    run(one)
    assert len(losses_of(two)) == 4
    assert losses_of(two) == pytest.approx(losses_of(one), rel=1e-5)
    assert losses_of(two, "validation") == pytest.approx(losses_of(one, "validation"), rel=1e-5)
    tokens = [[line.get("num_tokens") for line in metrics_of(config)] for config in (two, one)]
    assert tokens[0] == tokens[1]
    expected, actual = projection_of(one), projection_of(two)
    for key in expected:
        torch.testing.assert_close(actual[key], expected[key], rtol=1e-3, atol=1e-5)


def test_processes_share_the_work_of_making_features(two_processes, folder):
    two, _ = two_processes
    (store,) = Path(two.data.feature_cache).glob("*-2x*/*/card.json")
    shared = FeatureStore(store.parent)
    cache = f"{two.data.feature_cache}_alone"
    alone = tiny_config(folder, data__feature_cache=cache, data__feature_views=2)
    prepare.prepare(alone, torch.device("cpu"))
    (store,) = Path(alone.data.feature_cache).glob("*-2x*/*/card.json")
    for row in range(6):
        torch.testing.assert_close(
            shared.view(row, 1), FeatureStore(store.parent).view(row, 1), rtol=2e-3, atol=2e-3
        )


def test_processes_leave_their_group_when_they_are_done(two_processes):
    _, printed = two_processes
    assert printed.count("CLOSED") == 2


def start_two(launcher, tmp_path, config, *arguments):
    path = tmp_path / "two.yaml"
    path.write_text(to_yaml(config))
    job = launcher.start(["train", "--config", str(path), *arguments], tmp_path / "log", world=2)
    return job, job.wait()


@pytest.fixture
def begun(two_processes, tmp_path):
    """A copy of the two processes' run after the first of its two epochs, and the complete run."""
    complete, _ = two_processes
    config = dataclasses.replace(complete, output_dir=str(tmp_path / "begun"))
    shutil.copytree(complete.output_dir, config.output_dir)
    shutil.rmtree(Path(config.output_dir) / "checkpoints" / "iteration_0000004")
    return config, complete


def with_batch(config, batch_size, **log):
    return dataclasses.replace(
        config,
        optim=dataclasses.replace(config.optim, batch_size=batch_size),
        log=dataclasses.replace(config.log, **log),
    )


def test_two_processes_resumed_equal_two_in_one_piece(begun, launcher, tmp_path):
    config, complete = begun
    job, statuses = start_two(launcher, tmp_path, config, "--resume")
    assert statuses == [0, 0], job.text()
    assert metrics_of(config) == metrics_of(complete)
    assert trained_bits(config) == trained_bits(complete)


def test_a_run_of_two_goes_on_in_one_and_in_two_again(begun, launcher, tmp_path):
    """At the same global batch, 2 x 2 and 4 x 1: the losses are those of the run in one piece, to rounding."""
    config, complete = begun
    run(with_batch(config, 4, checkpoint_every=1, keep_checkpoints=9), resume=True)
    card = json.loads((Path(config.output_dir) / "checkpoints/iteration_0000003/checkpoint.json").read_text())
    assert (card["global_batch"], card["num_processes"]) == (4, 1)
    assert losses_of(config) == pytest.approx(losses_of(complete), rel=1e-5)
    shutil.rmtree(Path(config.output_dir) / "checkpoints" / "iteration_0000004")
    job, statuses = start_two(launcher, tmp_path, config, "--resume")
    assert statuses == [0, 0], job.text()
    assert losses_of(config) == pytest.approx(losses_of(complete), rel=1e-5)
    assert losses_of(config, "validation") == pytest.approx(losses_of(complete, "validation"), rel=1e-5)
    assert [line["iteration"] for line in metrics_of(config) if line["kind"] == "train"] == [1, 2, 3, 4]
    tokens = [[line.get("num_tokens") for line in metrics_of(c)] for c in (config, complete)]
    assert tokens[0] == tokens[1]


def test_another_global_batch_is_refused(begun):
    config, _ = begun
    before = sorted(Path(config.output_dir).rglob("*"))
    with pytest.raises(RunDirError) as refusal:
        run(config, resume=True)
    assert (
        "its iterations take 4 samples (batch_size 2 x accumulation 1 x 2 processes), here they would take 2 samples "
        "(batch_size 2 x accumulation 1 x 1 process); set optim.batch_size and optim.accumulation"
    ) in str(refusal.value)
    assert sorted(Path(config.output_dir).rglob("*")) == before


def test_processes_that_see_other_disks_start_where_the_first_does(begun, launcher, tmp_path):
    """Nodes that share no disk: the second process finds no run in its folder, and gets the first one's."""
    config, complete = begun
    moved = dataclasses.replace(config, output_dir=str(tmp_path / "disk_${oc.env:RANK}" / "run"))
    shutil.copytree(config.output_dir, tmp_path / "disk_0" / "run")
    path = tmp_path / "two.yaml"
    path.write_text(
        to_yaml(config).replace(f"output_dir: {config.output_dir}", f"output_dir: {moved.output_dir}")
    )
    job = launcher.start(["train", "--config", str(path), "--resume"], tmp_path / "log", world=2)
    assert job.wait() == [0, 0], job.text()
    first = dataclasses.replace(config, output_dir=str(tmp_path / "disk_0" / "run"))
    assert metrics_of(first) == metrics_of(complete)
    assert trained_bits(first) == trained_bits(complete)
    assert not (tmp_path / "disk_1").exists()


def test_processes_that_read_other_data_are_refused(launcher, folder, tmp_path):
    for rank in (0, 1):
        write_manifest(tmp_path / f"train_{rank}.jsonl", 3 + rank)
    config = tiny_config(folder, output_dir=str(tmp_path / "run"), data__train=["RANKED"])
    path = tmp_path / "two.yaml"
    path.write_text(to_yaml(config).replace("RANKED", str(tmp_path / "train_${oc.env:RANK}.jsonl")))
    job = launcher.start(["train", "--config", str(path)], tmp_path / "log", world=2)
    assert job.wait() == [1, 1], job.text()
    assert job.text().count("process 1 of 2 differs from the first in its content of data.train;") == 2
    assert "Traceback" not in job.text()


def test_a_picture_that_one_process_misses_loses_nothing(launcher, folder, tmp_path):
    """Both save what is done, and the run goes on bit for bit once the picture is back."""
    manifest = write_manifest(tmp_path / "own.jsonl", 6)
    changes = {
        "data__train": [manifest],
        "optim__batch_size": 1,
        "optim__iters_per_epoch": 3,
        "data__augment": False,
    }
    whole, cut = (
        tiny_config(folder, output_dir=str(tmp_path / name), **changes) for name in ("whole", "cut")
    )
    job, statuses = start_two(launcher, tmp_path, whole)
    assert statuses == [0, 0], job.text()
    samples = prepare.prepare(cut, torch.device("cpu")).training
    picture = tmp_path / f"own_{samples.row_of(5)}.png"  # the second process needs it in the third iteration
    content = picture.read_bytes()
    picture.write_bytes(b"damaged")  # there when the run starts, and unreadable when it is needed
    job, statuses = start_two(launcher, tmp_path, cut)
    assert statuses == [74, 74], job.text()
    assert job.text().count("note: saved after iteration 2 in") == 1
    assert "another process of this run failed" in job.text()
    picture.write_bytes(content)
    job, statuses = start_two(launcher, tmp_path, cut, "--resume")
    assert statuses == [0, 0], job.text()
    assert metrics_of(cut) == metrics_of(whole)
    assert trained_bits(cut) == trained_bits(whole)


def test_each_checkpoint_compares_the_trained_tensors_of_all_processes(folder, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(Team, "require_same", lambda self, facts: seen.append(facts.get("trained tensors")))
    run(tiny_config(folder, output_dir=str(tmp_path / "run"), log__checkpoint_every=1))
    digests = [digest for digest in seen if digest]
    assert len(digests) == len(set(digests)) == 4
