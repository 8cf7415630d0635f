"""After a power cut: any file of the newest checkpoint may end anywhere, or be zeros from some byte on."""

import dataclasses
import json
import random
import shutil
from pathlib import Path

import pytest

from skingpt4.checkpoints import checkpoint
from skingpt4.training.loop import run
from skingpt4.training.resuming import resume
from skingpt4.training.resuming.run_folder import METRICS, Metrics
from tests.support import soak
from tests.support.kill_trials import metrics_of, trained_bits
from tests.support.tiny import tiny_config

NEWEST, OLDER = "iteration_0000003", "iteration_0000002"
READ = (checkpoint.CARD, checkpoint.TENSORS, checkpoint.STATE, checkpoint.LORA)


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    """A run of three iterations with LoRA, all of them saved."""
    folder = tmp_path_factory.mktemp("resume")
    config = tiny_config(
        folder, output_dir=str(folder / "run"), optim__max_epoch=1, optim__iters_per_epoch=3, lora__rank=2,
        log__checkpoint_every=1, log__keep_checkpoints=9,
    )  # fmt: skip
    run(config)
    return config


@pytest.fixture
def copied(complete, tmp_path):
    """The run in a folder of its own; returns it and what restores its newest checkpoint."""
    config = dataclasses.replace(complete, output_dir=str(tmp_path / "run"))
    shutil.copytree(complete.output_dir, config.output_dir)
    checkpoints = Path(config.output_dir) / "checkpoints"

    def restore():
        for path in checkpoints.glob(f"*{NEWEST}*"):
            shutil.rmtree(path)
        shutil.copytree(Path(complete.output_dir) / "checkpoints" / NEWEST, checkpoints / NEWEST)
        return checkpoints / NEWEST

    return config, restore


def cut(path, length, zeros):
    """What a power cut leaves of a file whose last blocks were not written; returns whether it is the same."""
    content = path.read_bytes()
    path.write_bytes(content[:length] + bytes(len(content) - length if zeros else 0))
    return path.read_bytes() == content


@pytest.mark.parametrize("zeros", [False, True], ids=["cut", "zeros"])
@pytest.mark.parametrize("name", READ)
def test_a_file_that_ends_anywhere_is_noticed(name, zeros, copied, capsys):
    config, restore = copied
    size = (restore() / name).stat().st_size
    rng = random.Random(name)
    lengths = {0, 1, size // 2, size - 2, size - 1, size, *(rng.randrange(size) for _ in range(20))}
    for length in sorted(lengths):
        newest = restore()
        same = cut(newest / name, length, zeros)
        saved = resume._newest_intact(Path(config.output_dir))
        # Without its last line break, or with blanks after it, a card says the same.
        whole = same or (name == checkpoint.CARD and length == size - 1 and not zeros)
        assert saved.path.name == (NEWEST if whole else OLDER), length
        assert all(tensor.isfinite().all() for tensor in saved.tensors.values())
        assert (newest.parent / f".{NEWEST}.damaged").exists() == (not whole)


@pytest.mark.soak
def test_any_cut_of_any_file_is_noticed(copied):
    config, restore = copied
    rng, num_cuts, damaged, noticed = random.Random(soak.SEED), soak.scaled(2000), 0, 0
    for _ in range(num_cuts):
        name, zeros, newest = rng.choice(READ), rng.random() < 0.5, restore()
        size = (newest / name).stat().st_size
        length = rng.randrange(size)
        # Without its last line break, a card says the same.
        same = cut(newest / name, length, zeros) or (
            name == checkpoint.CARD and length == size - 1 and not zeros
        )
        saved = resume._newest_intact(Path(config.output_dir))
        damaged, noticed = damaged + (not same), noticed + (saved.path.name == OLDER)
    soak.write("power_loss", num_cuts, damaged=damaged, noticed=noticed)
    assert noticed == damaged


@pytest.mark.parametrize("seed", range(4))
def test_a_run_whose_files_were_cut_at_once_ends_in_the_same_bits(seed, copied, complete):
    config, restore = copied
    newest, rng = restore(), random.Random(seed)
    for path in newest.iterdir():
        if rng.random() < 0.7:
            cut(path, rng.randrange(path.stat().st_size), rng.random() < 0.5)
    (newest / checkpoint.SEEN).unlink(missing_ok=True)
    with (Path(config.output_dir) / METRICS).open("ab") as file:
        file.write(bytes(rng.randrange(300)))
    run(config, resume=True)
    assert metrics_of(config) == metrics_of(complete)
    assert trained_bits(config) == trained_bits(complete)


def test_a_checkpoint_that_was_not_renamed_is_no_checkpoint(copied, complete):
    config, restore = copied
    newest = restore()
    newest.rename(newest.with_name(f".{NEWEST}.part"))
    run(config, resume=True)
    assert trained_bits(config) == trained_bits(complete)
    assert sorted(path.name for path in newest.parent.iterdir()) == ["iteration_0000001", OLDER, NEWEST]


@pytest.mark.parametrize("zeros", [False, True], ids=["cut", "zeros"])
def test_metrics_that_end_anywhere_keep_every_line_of_the_checkpoint(zeros, tmp_path):
    """Lines are on the disk before their checkpoint is, so a cut is behind them."""
    path = tmp_path / METRICS
    metrics = Metrics(tmp_path, 0, tensorboard=False)
    for iteration in range(1, 6):
        metrics.write("train", iteration, loss=iteration / 8)
    metrics.close()
    content = path.read_bytes()
    synced = len(b"".join(content.splitlines(keepends=True)[:3]))
    for length in range(synced, len(content)):
        path.write_bytes(content[:length] + bytes(len(content) - length if zeros else 0))
        Metrics(tmp_path, 3, tensorboard=False).close()
        assert path.read_bytes() == content[:synced]
    path.write_bytes(content[:synced] + b"\xff\xfe\0\n" + content[synced:])  # a block of something else
    Metrics(tmp_path, 4, tensorboard=False).close()
    assert [json.loads(line)["iteration"] for line in path.read_text().splitlines()] == [1, 2, 3, 4]


def test_metrics_reach_the_disk_before_their_checkpoint(complete, tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr(Metrics, "sync", lambda self: order.append("metrics"))
    save = checkpoint.save
    monkeypatch.setattr(checkpoint, "save", lambda *args: order.append("checkpoint") or save(*args))
    run(dataclasses.replace(complete, output_dir=str(tmp_path / "run")))
    assert order == ["metrics", "checkpoint"] * 3


def test_another_precision_here_is_said(complete, copied, capsys):
    config, restore = copied
    shutil.rmtree(restore())
    config.language = dataclasses.replace(config.language, dtype="auto")
    (card,) = Path(config.output_dir).glob(f"checkpoints/{OLDER}/{checkpoint.CARD}")
    values = json.loads(card.read_text())
    values["known_answer"]["dtype"] = "bfloat16"
    values["config"]["language"]["dtype"] = "auto"
    card.write_text(json.dumps(values))
    saved = Path(config.output_dir) / "config.yaml"
    saved.write_text(saved.read_text().replace("dtype: float32", "dtype: auto"))
    run(config, resume=True)
    assert "computes in float32 here, and in bfloat16 before" in " ".join(capsys.readouterr().out.split())
