"""Checkpoints: whole or absent, verified when read, refused where they do not fit."""

import json
import os
import types
from pathlib import Path

import pytest
import torch

from skingpt4.checkpoints import checkpoint
from skingpt4.checkpoints.checkpoint import CARD, STATE, TENSORS, CheckpointError
from skingpt4.support.files import write_text
from skingpt4.weights.files.tensors import WeightsMismatch

LANGUAGE = {"name": "weights/a", "family": "llama", "width": 64, "num_layers": 2, "vocabulary": "0123"}
IDENTITY = {"encoder": "e1", "language_model": LANGUAGE, "template": "vicuna"}


@pytest.fixture
def tensors():
    return {"weight": torch.arange(6.0).reshape(2, 3).t(), "bias": torch.ones(3, requires_grad=True)}


def test_round_trip(tensors, tmp_path):
    folder = checkpoint.save(tmp_path / "c", tensors, {"step": "step1", "iteration": 7}, {"lr": 0.5})
    loaded, card = checkpoint.load(folder)
    assert all(torch.equal(loaded[key], value) for key, value in tensors.items())
    assert loaded.keys() == tensors.keys()
    assert card["step"] == "step1"
    assert card["iteration"] == 7
    assert card["format"] == checkpoint.FORMAT
    assert torch.load(folder / STATE, weights_only=True) == {"lr": 0.5}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c"]  # nothing half-written stays


@pytest.mark.parametrize("where", ["save_file", "torch.save", "json.dumps"])
def test_a_failed_save_leaves_the_old_one_whole(where, tensors, tmp_path, monkeypatch):
    folder = checkpoint.save(tmp_path / "c", tensors, {"iteration": 1}, {"lr": 1})
    before = {p.name: p.read_bytes() for p in folder.iterdir()}

    def full_disk(value, path=None, *args, **kwargs):
        if path is not None:
            path.write_bytes(b"half")
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(f"skingpt4.checkpoints.checkpoint.{where}", full_disk)
        with pytest.raises(OSError, match="no space left"):
            checkpoint.save(folder, {"weight": torch.zeros(1)}, {"iteration": 2}, {"lr": 2})
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    checkpoint.save(folder, {"weight": torch.zeros(1)}, {"iteration": 2})
    loaded, card = checkpoint.load(folder)
    assert card["iteration"] == 2
    assert loaded.keys() == {"weight"}
    assert not (folder / STATE).exists()  # nothing of the old one is left in the new


def test_everything_is_on_the_disk_before_it_gets_its_name(tensors, tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace

    def record_sync(descriptor):
        events.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def record_replace(source, target):
        events.append("renamed")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(os, "replace", record_replace)
    checkpoint.save(tmp_path / "c", tensors, {"iteration": 1}, {"lr": 1})
    part = tmp_path / ".c.part"
    assert set(events[: events.index("renamed")]) == {part, part / TENSORS, part / STATE, part / CARD}
    assert events[events.index("renamed") :] == ["renamed", tmp_path]
    events.clear()
    write_text(tmp_path / "text", "text")
    assert events == [tmp_path / ".text.part", "renamed", tmp_path]


def test_the_state_is_verified(tensors, tmp_path):
    folder = checkpoint.save(tmp_path / "c", tensors, {}, {"moments": torch.ones(1000)})
    card = json.loads((folder / CARD).read_text())
    older = {key: value for key, value in card.items() if key != "state_sha256"}
    for described in (card, older):
        assert torch.equal(checkpoint.load_state(folder, described)["moments"], torch.ones(1000))
    content = bytearray((folder / STATE).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / STATE).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{STATE}: its checksum"):
        checkpoint.load_state(folder, card)
    for damage in (content[:900], b"", b"cposix\nsystem\n(S'false'\ntR."):
        (folder / STATE).write_bytes(damage)
        with pytest.raises(CheckpointError, match=rf"{STATE}: is damaged"):
            checkpoint.load_state(folder, older)
    (folder / STATE).unlink()
    with pytest.raises(CheckpointError, match=rf"{STATE}: is missing"):
        checkpoint.load_state(folder, older)


def test_changed_tensors_are_refused(tensors, tmp_path):
    folder = checkpoint.save(tmp_path / "c", tensors, {})
    content = bytearray((folder / TENSORS).read_bytes())
    content[-1] ^= 1
    (folder / TENSORS).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{TENSORS}: its checksum"):
        checkpoint.load(folder)
    (folder / TENSORS).write_bytes(content[:-3])
    with pytest.raises(WeightsMismatch, match="truncated"):
        checkpoint.load(folder)
    (folder / TENSORS).unlink()
    with pytest.raises(WeightsMismatch, match="no such file"):
        checkpoint.load(folder)


@pytest.mark.parametrize("number", [0, 2, None])
def test_another_format_is_refused(number, tensors, tmp_path):
    folder = checkpoint.save(tmp_path / "c", tensors, {})
    card = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps({**card, "format": number}))
    with pytest.raises(CheckpointError, match=rf"has format {number}, this software reads 1"):
        checkpoint.load(folder)


def test_a_torn_card_is_refused(tensors, tmp_path):
    folder = checkpoint.save(tmp_path / "c", tensors, {})
    (folder / CARD).write_text((folder / CARD).read_text()[:20])
    with pytest.raises(CheckpointError, match=rf"{CARD}: is damaged"):
        checkpoint.load(folder)


def test_a_card_that_is_no_object_is_refused(tensors, tmp_path):
    folder = checkpoint.save(tmp_path / "c", tensors, {})
    (folder / CARD).write_text("[]")
    with pytest.raises(CheckpointError, match=CARD):
        checkpoint.load(folder)


def test_fitting_checkpoint_passes_wherever_its_language_model_lies():
    elsewhere = {**IDENTITY, "language_model": {**LANGUAGE, "name": "hub/model"}}
    checkpoint.require_fit({**elsewhere, "step": "step1", "iteration": 3}, IDENTITY, "c")


def test_all_that_differs_is_named():
    card = {
        "encoder": "e2",
        "language_model": {**LANGUAGE, "name": "hub/b", "width": 128},
        "template": "llama2",
    }
    with pytest.raises(CheckpointError) as caught:
        checkpoint.require_fit(card, IDENTITY, "runs/x")
    message = str(caught.value)
    assert message.startswith("checkpoint runs/x does not fit this run: ")
    assert "its encoder is e2, here it is e1" in message
    assert "its template is llama2, here it is vicuna" in message
    assert "'width': 128" in message
    assert "'width': 64" in message
    assert "hub/b" not in message


@pytest.mark.parametrize("key", IDENTITY)
def test_each_part_counts_alone(key):
    with pytest.raises(CheckpointError, match=f"its {key} is") as caught:
        checkpoint.require_fit({**IDENTITY, key: None}, IDENTITY, "c")
    assert str(caught.value).count("here it is") == 1


def test_find_takes_the_newest_of_a_run(tensors, tmp_path):
    for iteration in (9, 100, 20):
        checkpoint.save(
            tmp_path / "checkpoints" / f"iteration_{iteration:07d}", tensors, {"iteration": iteration}
        )
    (tmp_path / "checkpoints" / "iteration_0000999").mkdir()  # a folder without a card is no checkpoint
    newest = tmp_path / "checkpoints" / "iteration_0000100"
    assert checkpoint.find(tmp_path) == newest
    assert checkpoint.find(newest) == newest
    assert checkpoint.load(str(tmp_path))[1]["iteration"] == 100


@pytest.mark.parametrize("name", [".", "gone", "file"])
def test_find_nothing(name, tmp_path):
    (tmp_path / "file").write_text("")
    problem = "is not there; train it first" if name == "gone" else "holds no checkpoint"
    with pytest.raises(CheckpointError, match=problem):
        checkpoint.find(tmp_path / name)
    with pytest.raises(CheckpointError, match=r"minigpt4_13b.pth: is not there; bring it"):
        checkpoint.find(tmp_path / "minigpt4_13b.pth")


def test_a_save_that_was_killed_is_no_checkpoint(tensors, tmp_path):
    part = checkpoint.save(tmp_path / "checkpoints" / ".iteration_0000001.part", tensors, {})
    (part / CARD).write_text('{"form')
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        checkpoint.find(tmp_path)


@pytest.mark.parametrize(("keep", "left"), [(1, [100]), (2, [20, 100]), (5, [9, 20, 100])])
def test_prune_keeps_the_newest(keep, left, tensors, tmp_path):
    for iteration in (100, 9, 20):
        checkpoint.save(tmp_path / "checkpoints" / f"iteration_{iteration:07d}", tensors, {})
    (tmp_path / "checkpoints" / "notes").mkdir()  # not ours: stays
    checkpoint.prune(tmp_path, keep)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == [
        *(f"iteration_{n:07d}" for n in left),
        "notes",
    ]


def test_language_identity_sees_the_vocabulary_not_its_order():
    def identity(vocabulary, width=8):
        model = types.SimpleNamespace(
            config=types.SimpleNamespace(model_type="llama", num_hidden_layers=2),
            get_input_embeddings=lambda: torch.nn.Embedding(5, width),
        )
        tokenizer = types.SimpleNamespace(get_vocab=lambda: vocabulary)
        return checkpoint.language_identity(model, tokenizer, "name")

    base = identity({"a": 0, "b": 1})
    assert base == identity({"b": 1, "a": 0})
    assert base["family"] == "llama"
    assert base["width"] == 8
    assert base["vocabulary"] != identity({"a": 1, "b": 0})["vocabulary"]
    assert base["width"] != identity({"a": 0, "b": 1}, width=16)["width"]
