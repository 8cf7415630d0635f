"""Training: the schedule's numbers, equal runs however they are cut, and every refusal."""

import dataclasses
import errno
import json
import os
import resource
import shutil
import signal
import tarfile
import time
import weakref
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from skingpt4.checkpoints import checkpoint
from skingpt4.checkpoints.checkpoint import CheckpointError
from skingpt4.config.load import to_yaml
from skingpt4.config.schema import ConfigError, OptimConfig
from skingpt4.records import manifest as manifests
from skingpt4.records.comparing.overlap import OverlapError
from skingpt4.records.feature_store import FeatureError, FeatureWriter
from skingpt4.records.record import RecordError
from skingpt4.support.errors import UserError
from skingpt4.training import batches, features, loop, prepare
from skingpt4.training.distributed import sharding, signals
from skingpt4.training.distributed.signals import Stopped, StopSignal
from skingpt4.training.distributed.team import RunError
from skingpt4.training.loop import run, train_step
from skingpt4.training.optim.optimizer import make_optimizer
from skingpt4.training.optim.schedule import learning_rate
from skingpt4.training.resuming import run_folder
from skingpt4.training.resuming.run_folder import BusyError, Failed, RunDirError
from skingpt4.weights.files.tensors import load_tensors
from tests.support.locking import lock_elsewhere
from tests.support.tiny import (
    batch_of,
    conversation,
    make_model,
    make_queries,
    save_encoder,
    save_language_model,
    tiny_config,
    write_manifest,
)

ROOT = Path(__file__).parents[3]
write = FeatureWriter.write


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("training")


@pytest.fixture
def configure(folder, tmp_path):
    """Configurations that share their files, each with a folder of its own under the test's."""

    def make(name="run", **changes):
        return tiny_config(folder, **{"output_dir": str(tmp_path / name), **changes})

    return make


def metrics_of(config, kind="train"):
    lines = (json.loads(line) for line in (Path(config.output_dir) / "metrics.jsonl").open())
    return [line for line in lines if line["kind"] == kind]


def losses_of(config, kind="train"):
    return [line["loss"] for line in metrics_of(config, kind)]


def projection_of(path):
    return load_tensors(checkpoint.find(path) / checkpoint.TENSORS)


def assert_same_projection(one, other):
    one, other = projection_of(one), projection_of(other)
    assert one.keys() == other.keys() == {"weight", "bias"}
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_the_schedule_is_the_original_s():
    optim = OptimConfig(
        max_epoch=5, iters_per_epoch=200, warmup_steps=200, init_lr=3e-5, min_lr=1e-5, warmup_lr=1e-6
    )
    expected = {0: 1.0e-6, 199: 2.9855e-5, 200: 2.8090e-5, 999: 1.0e-5}
    for iteration, rate in expected.items():
        assert learning_rate(iteration, optim) == pytest.approx(rate, rel=1e-4)
    assert learning_rate(100, optim) == pytest.approx(1.55e-5)  # half of the way up
    assert learning_rate(500, optim) == pytest.approx(2e-5)  # half of the way down
    assert learning_rate(0, dataclasses.replace(optim, warmup_steps=0)) == pytest.approx(3e-5)


def test_weight_decay_is_on_the_weight_alone(folder):
    model = make_model(folder)
    optimizer = make_optimizer(model, OptimConfig(weight_decay=0.05, beta1=0.8, beta2=0.9))
    groups = {group["weight_decay"]: group["params"] for group in optimizer.param_groups}
    assert list(groups) == [0.05, 0.0]
    assert [id(p) for p in groups[0.05]] == [id(model.projection.weight)]
    assert [id(p) for p in groups[0.0]] == [id(model.projection.bias)]
    assert all(group["betas"] == (0.8, 0.9) for group in optimizer.param_groups)


def test_a_step_is_adamw_on_the_mean_over_all_tokens(folder):
    """Micro-batches of unequal length count by their tokens; the gradient is clipped as one vector."""
    texts = [
        ("What is it?", "Acne."),
        ("Is it?", "This is a skin disease image of psoriasis."),
        ("Why?", "No."),
    ]
    model, twin = make_model(folder), make_model(folder)
    rows, queries = [conversation(model, *text) for text in texts], make_queries(3)
    halves = [
        {**batch_of(rows[:2]), "queries": queries[:2]},
        {**batch_of(rows[2:]), "queries": queries[2:]},
    ]
    optim = OptimConfig(init_lr=1e-2)
    accelerator = Accelerator()
    result = train_step(
        model, accelerator.prepare_optimizer(make_optimizer(model, optim)), halves, accelerator, 0.01
    )

    optimizer = make_optimizer(twin, optim)
    loss, count = twin(**batch_of(rows), queries=queries)
    (loss / count).backward()
    norm = torch.nn.utils.clip_grad_norm_(twin.projection.parameters(), 0.01)
    optimizer.step()
    assert result.loss == pytest.approx((loss / count).item(), rel=1e-5)
    assert result.num_tokens == int(count) == sum(sum(row.supervised) for row in rows)
    assert result.gradient_norm == pytest.approx(norm.item(), rel=1e-4)
    assert norm > 0.01
    for one, other in zip(model.projection.parameters(), twin.projection.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_a_run_learns_and_its_checkpoint_says_what_it_is(configure, tmp_path):
    manifest = write_manifest(tmp_path / "few.jsonl", 2, note=None)
    config = configure(
        data__train=[manifest], data__validation=[manifest], data__augment=False, optim__iters_per_epoch=25,
        optim__init_lr=0.1, optim__warmup_lr=0.1, optim__min_lr=0.02, log__every=10, log__validate_every=25,
        log__tensorboard=True,
    )  # fmt: skip
    saved = run(config)
    losses, held = losses_of(config), losses_of(config, "validation")
    assert losses[-1] < losses[0] - 1.0
    assert held[-1] < losses[0] - 1.0
    assert [line["iteration"] for line in metrics_of(config)] == [1, 10, 20, 30, 40, 50]
    assert [line["iteration"] for line in metrics_of(config, "validation")] == [25, 50]
    assert [line["epoch"] for line in metrics_of(config)] == [0, 0, 0, 1, 1, 1]
    assert list((Path(config.output_dir) / "tensorboard").glob("events*"))
    card = json.loads((saved / checkpoint.CARD).read_text())
    assert (card["step"], card["iteration"], card["num_trainable"]) == ("step1", 50, 32 * 32 + 32)
    assert (card["template"], card["language_model"]["family"]) == ("vicuna", "llama")
    assert card["parent"] is None
    names = sorted(p.name for p in (Path(config.output_dir) / "checkpoints").iterdir())
    assert names == ["iteration_0000025", "iteration_0000050"]


def test_a_run_in_two_parts_equals_one_in_a_piece(configure):
    """Bit for bit: weights, optimiser, losses, and the lines that a crash after the checkpoint left."""
    changes = {
        "optim__iters_per_epoch": 2,
        "log__checkpoint_every": 2,
        "data__validation": configure().data.train,
    }
    whole, parts = configure("whole", **changes), configure("parts", **changes)
    run(whole)

    def crash(*args):
        if next(calls) == 3:  # in the fourth iteration
            raise RuntimeError("power cut")
        return train_step(*args)

    calls = iter(range(10))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train_step", crash)
        with pytest.raises(RuntimeError, match="power cut"):
            run(parts)
    assert len(losses_of(parts)) == 3  # one more than the checkpoint knows
    saved = run(parts, resume=True)
    assert losses_of(parts) == losses_of(whole)
    assert losses_of(parts, "validation") == losses_of(whole, "validation")
    assert_same_projection(whole.output_dir, parts.output_dir)
    states = [
        torch.load(checkpoint.find(c.output_dir) / checkpoint.STATE, weights_only=True)
        for c in (whole, parts)
    ]
    one, other = (state["optimizer"]["state"] for state in states)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[n]["exp_avg_sq"], other[n]["exp_avg_sq"]) for n in one)
    assert run(parts, resume=True) == saved  # nothing is left to do


@pytest.fixture(scope="module")
def shared_run(folder):
    """A complete run of three iterations, all of them saved: its configuration and a copy of its folder."""
    config = tiny_config(
        folder, output_dir=str(folder / "complete"), optim__max_epoch=1, optim__iters_per_epoch=3,
        log__checkpoint_every=1, log__keep_checkpoints=9,
    )  # fmt: skip
    run(config)
    return config, shutil.copytree(config.output_dir, folder / "complete_copy")


@pytest.fixture
def complete_run(shared_run):
    """The configuration of `shared_run`, its folder as the run left it."""
    config, copy = shared_run
    shutil.rmtree(config.output_dir)
    shutil.copytree(copy, config.output_dir)
    return config


def _truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 64
    path.write_bytes(content)


def _without_iteration(path):
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "iteration"}))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        (checkpoint.STATE, _truncate),
        (checkpoint.STATE, _flip_a_bit),
        (checkpoint.STATE, Path.unlink),
        (checkpoint.TENSORS, _truncate),
        (checkpoint.TENSORS, _flip_a_bit),
        (checkpoint.TENSORS, Path.unlink),
        (checkpoint.CARD, _truncate),
        (checkpoint.CARD, _without_iteration),
        (checkpoint.CARD, Path.unlink),
    ],
)
def test_a_damaged_newest_checkpoint_is_passed_over(name, damage, complete_run, shared_run, caplog):
    whole = dataclasses.replace(complete_run, output_dir=str(shared_run[1]))
    newest = Path(complete_run.output_dir) / "checkpoints" / "iteration_0000003"
    damage(newest / name)
    saved = run(complete_run, resume=True)
    (line,) = (record.getMessage() for record in caplog.records if "continuing from" in record.getMessage())
    assert str(newest) in line
    assert line.endswith("iteration_0000002")
    assert saved == newest
    assert_same_projection(saved, whole.output_dir)
    assert losses_of(complete_run) == losses_of(whole)
    assert sorted(p.name for p in newest.parent.glob(".*")) == [".iteration_0000003.damaged"]


def test_a_run_without_an_intact_checkpoint_is_refused(complete_run):
    folder = Path(complete_run.output_dir)
    for path in folder.glob("checkpoints/iteration_*"):
        _truncate(path / checkpoint.STATE)
    with pytest.raises(RunError, match=r"none of its checkpoints is intact; start again with --overwrite"):
        run(complete_run, resume=True)
    assert len(list(folder.glob("checkpoints/iteration_*"))) == 3  # nothing was renamed


def test_a_deleted_picture_loses_nothing(configure, tmp_path, monkeypatch, caplog):
    """Saved where no save was due, and continued bit for bit once the picture is back."""
    manifest = write_manifest(tmp_path / "own.jsonl", 3)
    whole, cut = (configure(name, data__train=[manifest], optim__iters_per_epoch=4) for name in "ab")
    run(whole)
    pictures = {path: path.read_bytes() for path in tmp_path.glob("own_*.png")}
    calls = iter(range(10))

    def delete(*args):
        result = train_step(*args)
        if next(calls) == 1:
            for path in pictures:
                path.unlink()
        return result

    monkeypatch.setattr(loop, "train_step", delete)
    with pytest.raises(Failed, match=r"own_\d\.png.*; once this is fixed, continue with --resume") as failed:
        run(cut)
    assert failed.value.status == 74
    assert "saved after iteration 2 in " in caplog.text
    assert checkpoint.find(cut.output_dir).name == "iteration_0000002"
    for path, content in pictures.items():
        path.write_bytes(content)
    run(cut, resume=True)
    assert losses_of(cut) == losses_of(whole)
    assert_same_projection(cut.output_dir, whole.output_dir)


def test_a_full_disk_at_a_save_is_a_sentence_and_loses_nothing(configure, monkeypatch):
    changes = {"optim__max_epoch": 1, "optim__iters_per_epoch": 3, "log__checkpoint_every": 1}
    whole, cut = configure("whole", **changes), configure("cut", **changes)
    run(whole)
    save_checkpoint, sizes = loop.save_checkpoint, resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_the_disk(*args):
        if args[-1] < 2:
            return save_checkpoint(*args)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, sizes[1]))
        try:
            return save_checkpoint(*args)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, sizes)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_checkpoint", fill_the_disk)
        with pytest.raises(
            Failed, match=r"cannot be written .*; once this is fixed, continue with --resume"
        ) as failed:
            run(cut)
    assert failed.value.status == 74
    (saved,) = (Path(cut.output_dir) / "checkpoints").iterdir()
    assert saved.name == "iteration_0000001"
    run(cut, resume=True)
    assert losses_of(cut) == losses_of(whole)
    assert_same_projection(cut.output_dir, whole.output_dir)


def test_a_line_of_metrics_that_cannot_be_written_ends_the_run_unsaved(configure, monkeypatch):
    config = configure(log__checkpoint_every=1)
    metrics_class = run_folder.Metrics

    def on_a_full_disk(*args):
        metrics = metrics_class(*args)
        metrics.file.close()
        metrics.file = Path("/dev/full").open("w")  # noqa: SIM115
        return metrics

    monkeypatch.setattr(run_folder, "Metrics", on_a_full_disk)
    with pytest.raises(RunError, match=r"No space left on device\), so iteration 1 is not saved"):
        run(config)
    assert not (Path(config.output_dir) / "checkpoints").exists()


def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_computed(
    configure, tmp_path, monkeypatch
):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(loop, "prepare", lambda *args: pytest.fail("computed first"))
    with pytest.raises(RunDirError, match="cannot be written"):
        run(configure("file/run"))


@pytest.mark.parametrize("where", ["output_dir", "feature_cache"])
def test_a_read_only_disk_is_a_sentence_before_anything_is_computed(where, configure, tmp_path, monkeypatch):
    """As an administrator any folder can be written: the system call fails as on a disk mounted read-only."""
    changes = {"data__augment": False, "data__feature_cache": str(tmp_path / "feature_cache")}
    config = configure("output_dir", **changes)
    mkdir = os.mkdir

    def read_only(path, *args):
        if Path(path).is_relative_to(tmp_path / where):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        mkdir(path, *args)

    monkeypatch.setattr(os, "mkdir", read_only)
    monkeypatch.setattr(features, "_fill", lambda *args: pytest.fail("computed first"))
    with pytest.raises(UserError, match=rf"{where}.* cannot be written \(Read-only file system\)"):
        run(config)


def test_a_full_disk_while_features_are_made_is_a_sentence_and_loses_none(configure, tmp_path, monkeypatch):
    changes = {"data__augment": False, "data__feature_cache": str(tmp_path / "c"), "optim__max_epoch": 1}
    config, pwrite, calls = configure(**changes), os.pwrite, iter(range(100))

    def full(*args):
        if next(calls) >= 4:  # two calls an image
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(*args)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(FeatureError, match=r"cannot be written \(No space left on device\)"):
            run(config)
    done = []
    monkeypatch.setattr(
        FeatureWriter, "write", lambda self, row, *args: done.append(row) or write(self, row, *args)
    )
    run(config)
    assert sorted(done) == [2, 3, 4, 5]


def test_a_batch_in_parts_equals_the_batch(configure):
    whole = configure("whole", optim__batch_size=8)
    parts = configure("parts", optim__batch_size=2, optim__accumulation=4)
    run(whole)
    run(parts)
    assert losses_of(parts) == pytest.approx(losses_of(whole), rel=1e-5)
    norms = [[line["gradient_norm"] for line in metrics_of(c)] for c in (whole, parts)]
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)


def test_the_launcher_s_accumulation_changes_nothing(configure, monkeypatch):
    plain, launched = configure("plain", optim__max_epoch=1), configure("launched", optim__max_epoch=1)
    run(plain)
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "8")
    run(launched)
    norms = [[line["gradient_norm"] for line in metrics_of(config)] for config in (plain, launched)]
    assert norms[0] == norms[1]
    assert_same_projection(plain.output_dir, launched.output_dir)


@pytest.mark.parametrize("name", ["DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG"])
def test_what_a_launcher_asks_for_and_is_not_done_is_refused(name, configure, monkeypatch):
    config = configure()
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    with pytest.raises(ConfigError, match=rf"ACCELERATE_USE_{name}: .*by FSDP2 \(configs/accelerate"):
        run(config)
    assert not Path(config.output_dir).exists()


def test_a_run_does_not_depend_on_how_its_batches_are_put_together(configure, monkeypatch):
    monkeypatch.setattr(batches, "GROUP_TOKENS", 180)
    held = configure().data.train
    plain, other = (
        configure(way, data__batching=way, optim__batch_size=5, data__validation=held)
        for way in ("padded", "grouped")
    )
    run(plain)
    run(other)
    assert losses_of(other) == pytest.approx(losses_of(plain), rel=1e-5)
    assert losses_of(other, "validation") == pytest.approx(losses_of(plain, "validation"), rel=1e-5)


def test_the_feature_cache_changes_nothing_but_the_rounding(configure, tmp_path, monkeypatch):
    plain = configure("plain", data__augment=False, optim__init_lr=1e-3)
    cached = configure(
        "cached", data__augment=False, optim__init_lr=1e-3, data__feature_cache=str(tmp_path / "c")
    )
    run(plain)
    run(cached)
    assert losses_of(cached) == pytest.approx(losses_of(plain), rel=1e-3)
    assert losses_of(cached) != losses_of(plain)  # queries were rounded to 16 bits on their way
    monkeypatch.setattr(prepare, "build_encoder", lambda config: pytest.fail("built although cached"))
    monkeypatch.setattr(features, "build_encoder", lambda config: pytest.fail("built although cached"))
    again = dataclasses.replace(cached, output_dir=str(tmp_path / "again"))
    run(again)
    assert losses_of(again) == losses_of(cached)


def test_a_run_on_cached_crops(configure, tmp_path):
    """Other crops than of complete images, the same ones again, and not the same in every pass."""
    cached = {"data__feature_cache": str(tmp_path / "c"), "data__num_workers": 0}
    cached["data__train"] = [write_manifest(tmp_path / "one.jsonl", 1, note=None)]
    whole = configure("whole", **cached, data__augment=False)
    crops, again = (configure(name, **cached, data__feature_views=3) for name in ("crops", "again"))
    for config in (whole, crops, again):
        run(config)
    assert losses_of(again) == losses_of(crops)
    assert losses_of(crops) != losses_of(whole)
    samples = prepare.prepare(crops, torch.device("cpu")).training
    assert 1 < len({samples[index]["queries"].sum().item() for index in range(20)}) <= 3


def test_the_encoder_is_gone_before_the_language_model_comes(configure, tmp_path, monkeypatch):
    config, encoders = configure(data__augment=False, data__feature_cache=str(tmp_path / "c")), []
    build_encoder, build = prepare.build_encoder, sharding.build

    def remember(*args):
        encoder = build_encoder(*args)
        encoders.append(weakref.ref(encoder))
        return encoder

    def look(*args):
        assert [encoder() for encoder in encoders] == [None]
        return build(*args)

    monkeypatch.setattr(prepare, "build_encoder", remember)
    monkeypatch.setattr(sharding, "build", look)
    assert prepare.prepare(config, torch.device("cpu")).model.encoder is None


def test_workers_and_the_seed(configure):
    here, workers, other = (
        configure("here"),
        configure("workers", data__num_workers=2),
        configure("seed", seed=7),
    )
    for config in (here, workers, other):
        run(config)
    assert losses_of(workers) == losses_of(here)
    assert losses_of(other) != losses_of(here)


def test_a_run_changes_the_projection_and_nothing_else(configure, monkeypatch):
    config, built = configure(), []
    build = sharding.build
    monkeypatch.setattr(sharding, "build", lambda *args: built.append(build(*args)) or built[-1])
    run(config)
    used, fresh = built[0].state_dict(), prepare.prepare(config, torch.device("cpu")).model.state_dict()
    assert any(name.startswith("encoder.vision_encoder.") for name in used)
    assert {name for name in used if not torch.equal(used[name], fresh[name])} == {
        "projection.weight",
        "projection.bias",
    }


def test_step2_starts_where_step1_ended(configure, tmp_path):
    first = configure("step1")
    saved = run(first)
    second = configure("step2", step="step2", initial_checkpoint=first.output_dir, prompt__use_concepts=False)
    prepared = prepare.prepare(second, torch.device("cpu"))
    expected = projection_of(saved)
    assert all(torch.equal(prepared.model.projection.state_dict()[key], expected[key]) for key in expected)
    card = json.loads((run(second) / checkpoint.CARD).read_text())
    parent = json.loads((saved / checkpoint.CARD).read_text())
    assert card["step"] == "step2"
    assert card["parent"] == {
        "step": "step1",
        "iteration": 4,
        "tensors_sha256": parent["tensors_sha256"],
        "path": first.output_dir,
    }


def test_a_checkpoint_of_another_network_is_refused(configure, folder):
    first = configure("step1", optim__max_epoch=1)
    run(first)
    start = {"step": "step2", "initial_checkpoint": first.output_dir}
    with pytest.raises(CheckpointError, match=r"its template is vicuna, here it is instruction"):
        run(configure("template", **start, prompt__template="instruction"))
    with pytest.raises(CheckpointError, match=r"its language_model is .*llama.*, here it is .*qwen2"):
        run(tiny_config(folder, "qwen2", output_dir=str(folder / "qwen"), **start))
    with pytest.raises(CheckpointError, match=r"its encoder is"):
        run(configure("encoder", **start, vision__block=1))


def test_a_folder_with_another_run_is_refused_and_overwritten_only_when_asked(configure):
    config = configure(optim__max_epoch=1)
    saved = run(config)
    with pytest.raises(RunDirError, match="holds another run already; add --resume"):
        run(config)
    with pytest.raises(RunDirError, match=r"another configuration \(optim\.init_lr differ"):
        run(configure(optim__max_epoch=1, optim__init_lr=1.0), resume=True)
    before = projection_of(saved)
    run(configure(optim__max_epoch=1, seed=3), overwrite=True)
    assert not torch.equal(projection_of(config.output_dir)["weight"], before["weight"])


@pytest.mark.parametrize("how", [{}, {"resume": True}, {"overwrite": True}])
def test_a_second_start_is_refused_while_a_run_is_in_progress(how, configure):
    config = configure(optim__max_epoch=1)
    folder = Path(config.output_dir)
    if how:
        run(config)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with lock_elsewhere(folder) as first:
        assert first.stdout.readline() == "locked\n"
        with pytest.raises(BusyError, match="another run is in progress there") as busy:
            run(config, **how)
        assert busy.value.status == 75
        first.stdin.close()
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_run_locks_its_folder_from_before_the_features_to_its_end(configure, monkeypatch):
    config, seen = configure(optim__max_epoch=1), []
    lock = Path(config.output_dir) / run_folder.LOCK
    monkeypatch.setattr(loop, "prepare", lambda *args: seen.append(lock.exists()) or prepare.prepare(*args))
    monkeypatch.setattr(loop, "train_step", lambda *args: seen.append(lock.exists()) or train_step(*args))
    run(config)
    assert seen == [True] * 3
    assert not lock.exists()


def test_a_run_does_not_go_on_with_other_data(configure, tmp_path):
    manifest = write_manifest(tmp_path / "own.jsonl", 2)
    config = configure(data__train=[manifest], optim__max_epoch=1)
    saved = run(config)
    before = projection_of(saved)
    write_manifest(tmp_path / "own.jsonl", 3)
    with pytest.raises(
        RunError, match="started with another content of data\.train; start again with --overwrite"
    ):
        run(config, resume=True)
    assert torch.equal(projection_of(saved)["weight"], before["weight"])


def test_a_run_goes_on_where_everything_has_moved(configure, folder, tmp_path):
    """Manifest, weights, language model, parent and the run itself lie elsewhere; the same bits come out."""
    parent = configure("parent", optim__max_epoch=1)
    run(parent)
    changes = {
        "step": "step2", "initial_checkpoint": parent.output_dir, "data__validation": [str(folder / "train.jsonl")],
        "log__checkpoint_every": 1, "log__keep_checkpoints": 9, "data__augment": False,
        "data__feature_cache": str(tmp_path / "cache"),
    }  # fmt: skip
    whole = configure("whole", **changes)
    run(whole)
    moved, there = tmp_path / "moved", tmp_path / "there"
    shutil.copytree(folder, moved, ignore=shutil.ignore_patterns("two*", "complete*"))
    shutil.copytree(parent.output_dir, there / "parent")
    shutil.copytree(whole.output_dir, there / "run")
    for name in ("iteration_0000003", "iteration_0000004"):
        shutil.rmtree(there / "run" / "checkpoints" / name)
    (moved / "vision0.safetensors").rename(moved / "other_name.safetensors")
    (moved / "llama").rename(moved / "model_of_another_name")
    elsewhere = configure(
        **changes | {
            "output_dir": f"{there / 'run'}/", "initial_checkpoint": str(there / "parent"),
            "data__train": [str(moved / "train.jsonl")], "data__validation": [str(moved / "train.jsonl")],
            "data__feature_cache": str(there / "cache"), "data__num_workers": 1,
            "vision__weights": str(moved / "other_name.safetensors"),
            "qformer__weights": str(moved / "qformer0.safetensors"),
            "language__model": str(moved / "model_of_another_name"), "language__compile": "never",
        }
    )  # fmt: skip
    saved = run(elsewhere, resume=True)
    assert_same_projection(saved, whole.output_dir)
    assert losses_of(elsewhere) == losses_of(whole)
    assert losses_of(elsewhere, "validation") == losses_of(whole, "validation")


def test_a_complete_run_takes_more_epochs(configure, capsys):
    """What is done stays; the learning rate then follows the longer schedule, as a line says."""
    config, longer = configure(optim__max_epoch=1), configure(optim__max_epoch=3)
    run(config)
    before = metrics_of(config)
    run(longer, resume=True)
    assert "optim.max_epoch is 3 and was 1: from iteration 2 on" in " ".join(capsys.readouterr().out.split())
    lines = metrics_of(longer)
    assert lines[:2] == before
    assert [line["iteration"] for line in lines] == [1, 2, 3, 4, 5, 6]
    rates = [learning_rate(iteration, longer.optim) for iteration in range(2, 6)]
    assert [line["learning_rate"] for line in lines[2:]] == pytest.approx(rates)
    with pytest.raises(RunDirError, match=r"\(optim\.max_epoch differ\)"):
        run(configure(optim__max_epoch=2), resume=True)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ("train", "content of data.train"),
        ("validation", "content of data.validation"),
        ("parent", "content of initial_checkpoint"),
        ("encoder", "image encoder"),
        ("language", "language_model"),
    ],
)
def test_a_run_does_not_go_on_with_other_content_at_the_same_place(changed, named, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "files", ignore=shutil.ignore_patterns("two*", "complete*"))
    files = tmp_path / "files"

    def configured(name, **changes):
        return tiny_config(files, output_dir=str(tmp_path / name), optim__max_epoch=1, **changes)

    run(configured("parent"))
    shutil.copy(files / "train.jsonl", files / "held_out.jsonl")
    config = configured("run", data__validation=[str(files / "held_out.jsonl")])
    if changed == "parent":
        config.initial_checkpoint = str(tmp_path / "parent")
    saved = run(config)
    before = projection_of(saved)
    if changed in ("train", "validation"):
        path = files / ("train.jsonl" if changed == "train" else "held_out.jsonl")
        path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    elif changed == "parent":
        run(configured("parent", seed=5), overwrite=True)
    elif changed == "encoder":
        save_encoder(files, seed=3)
        (files / "vision3.safetensors").replace(files / "vision0.safetensors")
    else:
        shutil.rmtree(files / "llama")
        save_language_model(files / "llama", "qwen2")
    saved_config = (Path(config.output_dir) / "config.yaml").read_bytes()
    config.optim.max_epoch = 2  # may change, and must not be in the folder of a run that is refused
    with pytest.raises(RunError, match=f"was started with another .*{named}"):
        run(config, resume=True)
    assert (Path(config.output_dir) / "config.yaml").read_bytes() == saved_config
    assert torch.equal(projection_of(saved)["weight"], before["weight"])


def test_a_language_model_of_the_same_name_and_shapes_with_other_weights_does_not_go_on(folder, tmp_path):
    config = tiny_config(folder, output_dir=str(tmp_path / "run"), optim__max_epoch=1)
    run(config)
    other = shutil.copytree(folder / "llama", tmp_path / "other")
    weights = save_language_model(tmp_path / "weights", "llama", seed=1)
    shutil.copy(Path(weights) / "model.safetensors", other)
    config.language.model = str(other)
    with pytest.raises(UserError, match="fails its self-test"):
        run(config, resume=True)


def test_nothing_to_train_on_is_refused_with_what_was_found(configure, tmp_path):
    empty = write_manifest(tmp_path / "empty.jsonl", 3, concepts=None, disease=None, note=None)
    with pytest.raises(
        RecordError, match=r"none of the 3 records has what this step teaches; .*empty_0\.png"
    ):
        run(configure("a", data__train=[empty]))
    with pytest.raises(ConfigError, match=r"data\.train names no manifest"):
        run(configure("b", data__train=[]))
    with pytest.raises(ConfigError, match=r"gone\.jsonl is not there") as refusal:
        run(configure("d", data__train=["gone.jsonl"], vision__weights="gone.safetensors"))
    assert "vision.weights: gone.safetensors is not there" in str(refusal.value)  # all at once


def test_training_on_the_evaluation_is_refused_unless_allowed(configure, tmp_path, capsys):
    cases = write_manifest(tmp_path / "cases.jsonl", 2, sha256="ab" * 32)
    train = write_manifest(tmp_path / "train.jsonl", 4, sha256="ab" * 32)
    changes = {"data__train": [train], "data__evaluation": [cases], "optim__max_epoch": 1}
    config = configure(**changes)
    with pytest.raises(OverlapError, match=r"4 by the same picture, first .*train\.jsonl, line 1"):
        run(config)
    assert not Path(config.output_dir).exists()
    as_validation = configure(**changes | {"data__train": [cases], "data__evaluation": [train]})
    as_validation.data.train, as_validation.data.validation = configure().data.train, [cases]
    with pytest.raises(OverlapError):
        run(as_validation)
    allowed = configure(**changes, data__allow_overlap=True)
    run(allowed)
    assert "allowed by data.allow_overlap" in capsys.readouterr().out


def test_a_checkpoint_knows_what_it_and_its_parent_saw(configure, tmp_path):
    def train(name, sha256, **changes):
        manifest = write_manifest(tmp_path / f"{name}.jsonl", 2, sha256=sha256, phash="0f" * 8)
        return run(configure(name, data__train=[manifest], optim__max_epoch=1, **changes))

    first = train("first", "ab" * 32)
    second = train("second", "cd" * 32, initial_checkpoint=str(first))
    for folder, count in ((first, 1), (second, 2)):
        seen = checkpoint.load_seen(folder, checkpoint.load(folder)[1])
        assert {key: len(value) for key, value in seen.items()} == {"sha256": count, "phash": 1}
    taught = [checkpoint.load(folder)[1]["diseases"] for folder in (first, second)]
    assert [[(row["disease"], row["class"], row["records"]) for row in rows] for rows in taught] == [
        [("acne", "acne_and_rosacea", n), ("psoriasis", "psoriasis_and_lichen_planus", n)] for n in (1, 2)
    ]
    sources = [checkpoint.load(folder)[1]["sources"] for folder in (first, second)]
    assert [[row["records"] for row in rows] for rows in sources] == [[2], [4]]


def test_a_manifest_behind_a_map_and_images_in_a_shard_train_the_same(configure, tmp_path, monkeypatch):
    plain = write_manifest(tmp_path / "plain.jsonl", 6)
    lines = [json.loads(line) for line in Path(plain).read_text().splitlines()]
    with tarfile.open(tmp_path / "000000.tar", "w") as tar:
        for line in lines:
            tar.add(tmp_path / line["image"], line["image"])
    packed = tmp_path / "packed.jsonl"
    packed.write_text("".join(json.dumps(r | {"image": f"000000.tar/{r['image']}"}) + "\n" for r in lines))
    one = run(configure("one", data__train=[plain]))
    monkeypatch.setattr(manifests, "SMALL_BYTES", 0)
    two = run(configure("two", data__train=[str(packed)], data__num_workers=2))
    assert list(tmp_path.glob(".packed.jsonl.*.arrow"))
    assert_same_projection(one, two)


def test_a_refused_run_leaves_its_folder_free(configure, tmp_path):
    """After the fix the same folder can be used at once, without --overwrite."""
    with pytest.raises(ConfigError, match=r"gone\.jsonl"):
        run(configure(data__train=["gone.jsonl"]))
    empty = write_manifest(tmp_path / "empty.jsonl", 1, concepts=None, disease=None, note=None)
    with pytest.raises(RecordError):
        run(configure(data__train=[empty]))
    assert run(configure(optim__max_epoch=1)).is_dir()


def test_a_refused_run_does_not_delete_the_one_it_should_overwrite(configure, tmp_path):
    saved = run(configure(optim__max_epoch=1))
    empty = write_manifest(tmp_path / "empty.jsonl", 1, concepts=None, disease=None, note=None)
    with pytest.raises(RecordError):
        run(configure(data__train=[empty]), overwrite=True)
    assert saved.is_dir()


def test_a_loss_that_is_not_finite_ends_the_run_before_it_is_saved(configure, monkeypatch):
    config = configure(log__checkpoint_every=1)
    forward = loop.SkinGPT4.forward
    calls = iter(range(10))

    def spoilt(self, **batch):
        loss, count = forward(self, **batch)
        spoil = self.projection.training and next(calls) == 2  # not the self-test at a save
        return loss * (float("nan") if spoil else 1.0), count

    monkeypatch.setattr(loop.SkinGPT4, "forward", spoilt)
    with pytest.raises(RunError, match=r"the loss became nan; use bfloat16 or float32"):
        run(config)
    assert checkpoint.find(config.output_dir).name == "iteration_0000002"
    assert all(value.isfinite().all() for value in projection_of(config.output_dir).values())


class _Scaled(torch.autograd.Function):
    """The loss as it is, with a gradient that is not finite."""

    @staticmethod
    def forward(ctx, loss):
        return loss.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * float("inf")


def _with_infinite_gradients(monkeypatch, spoilt_iterations):
    forward = loop.SkinGPT4.forward
    calls = iter(range(1, 10_000))

    def spoilt(self, **batch):
        loss, count = forward(self, **batch)
        training_now = torch.is_grad_enabled()  # and not asking for the known answer
        return (_Scaled.apply(loss) if training_now and next(calls) in spoilt_iterations else loss), count

    monkeypatch.setattr(loop.SkinGPT4, "forward", spoilt)


def test_a_step_whose_gradient_is_not_finite_is_left_out_and_the_metrics_stay_json(configure, monkeypatch):
    config = configure(optim__max_epoch=1, optim__iters_per_epoch=4, log__checkpoint_every=1, log__every=4)
    _with_infinite_gradients(monkeypatch, {2})
    run(config)

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    text = (Path(config.output_dir) / "metrics.jsonl").read_text()
    lines = [json.loads(line, parse_constant=refuse) for line in text.splitlines()]
    assert [(line["iteration"], line.get("skipped")) for line in lines] == [(1, None), (2, True), (4, None)]
    assert [line["gradient_norm"] is None for line in lines] == [False, True, False]
    assert all(line["loss"] > 0 for line in lines)
    assert all(value.isfinite().all() for value in projection_of(config.output_dir).values())


def test_gradients_that_stay_infinite_end_the_run(configure, monkeypatch):
    config = configure(optim__iters_per_epoch=30, optim__max_epoch=1, log__checkpoint_every=1)
    _with_infinite_gradients(monkeypatch, range(3, 100))
    monkeypatch.setattr(loop, "MAX_SKIPPED", 5)
    with pytest.raises(RunError, match=r"not finite in 5 iterations in a row, the last is 7; use bfloat16"):
        run(config)
    saved = projection_of(Path(config.output_dir) / "checkpoints" / "iteration_0000006")
    assert all(value.isfinite().all() for value in saved.values())


@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGHUP, 75), (signal.SIGUSR1, 75), (signal.SIGXCPU, 75),
    ],
)  # fmt: skip
def test_a_signal_in_the_process_saves_and_puts_the_handlers_back(configure, number, status, monkeypatch):
    config = configure(optim__iters_per_epoch=50)
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip(
            "this signal was ignored before the tests began, as under nohup, and training keeps to that"
        )
    before = signal.getsignal(number)

    def interrupted(*args):
        signal.raise_signal(number)
        return train_step(*args)

    monkeypatch.setattr(loop, "train_step", interrupted)
    with pytest.raises(
        Stopped, match=r"stopped after iteration 1 of 100; saved in .*; continue with --resume"
    ) as stopped:
        run(config)
    assert stopped.value.status == status
    assert checkpoint.find(config.output_dir).name == "iteration_0000001"
    assert signal.getsignal(number) == before


def test_a_run_started_by_nohup_outlives_its_terminal():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignal() as stop_signal:
            signal.raise_signal(signal.SIGHUP)
            assert stop_signal.number is None
            signal.raise_signal(signal.SIGUSR1)
            assert stop_signal.number == signal.SIGUSR1
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_limit_of_cpu_time_is_told_each_second_and_ends_nothing_at_once():
    with StopSignal() as stop_signal:
        signal.raise_signal(signal.SIGXCPU)
        signal.raise_signal(signal.SIGXCPU)  # by default a core dump
        assert stop_signal.number == signal.SIGXCPU
    assert signal.getsignal(signal.SIGXCPU) == signal.SIG_DFL


def test_a_signal_that_comes_twice_is_one_and_a_later_one_acts_as_usual(monkeypatch):
    """Slurm signals every process of a step, and torchrun passes on what it has received."""
    received = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        with StopSignal() as stop_signal:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
            assert (stop_signal.number, received) == (signal.SIGTERM, [])
            monkeypatch.setattr(signals, "DOUBLED", 0.0)
            signal.raise_signal(signal.SIGTERM)
            assert received == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_second_ctrl_c_ends_the_run_at_once(configure, monkeypatch):
    config = configure()

    def interrupted(*args):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(loop, "train_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    assert not (Path(config.output_dir) / "checkpoints").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_saves_and_the_run_goes_on(configure, launcher, tmp_path):
    """A real process with loader workers, interrupted as a terminal does it: the whole process group."""
    changes = {
        "optim__max_epoch": 1,
        "optim__iters_per_epoch": 100_000,
        "data__num_workers": 1,
        "optim__batch_size": 1,
        "language__compile": "never",  # minutes, and nothing that a stop depends on
    }
    config = configure(**changes)
    (tmp_path / "run.yaml").write_text(to_yaml(config))
    job = launcher.start(["train", "--config", str(tmp_path / "run.yaml")], tmp_path / "log")
    metrics, deadline = Path(config.output_dir) / "metrics.jsonl", time.monotonic() + 600
    while not (metrics.is_file() and metrics.read_text().count("\n") >= 3):
        assert job.is_running(), job.text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(job.pids[0], signal.SIGINT)
    assert job.wait(600) == [130], job.text()
    assert "Traceback" not in job.text()
    (error,) = (line for line in job.text().splitlines() if line.startswith("error: "))
    assert error.startswith("error: stopped after iteration ")
    assert error.endswith("; continue with --resume")
    saved = checkpoint.find(config.output_dir)
    done = json.loads((saved / checkpoint.CARD).read_text())["iteration"]
    assert (saved / checkpoint.STATE).is_file()
    assert 3 <= done < 100_000
    assert len(losses_of(config)) == done

    def interrupted(*args):
        signal.raise_signal(signal.SIGINT)
        return train_step(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train_step", interrupted)
        with pytest.raises(Stopped, match=f"stopped after iteration {done + 1} of 100000"):
            run(config, resume=True)
    assert [line["iteration"] for line in metrics_of(config)] == list(range(1, done + 2))
