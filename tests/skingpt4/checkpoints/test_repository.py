"""A shared folder: what was trained and nothing else, loaded back only onto the parts it belongs to."""

import functools
import json
import os
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch

from skingpt4.checkpoints import checkpoint, repository
from skingpt4.checkpoints.load import from_pretrained, load_model, model_source
from skingpt4.checkpoints.repository import HubError
from skingpt4.cli.deploy import share
from tests.support.local_hub import Repository, serving
from tests.support.tiny import (
    loss_of,
    save_language_model,
)

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("working_folder")


def test_a_folder_gives_the_same_model_back(config, saved, shared):
    model = from_pretrained(shared, CPU)
    assert torch.equal(loss_of(model), loss_of(load_model(config, saved, CPU)))
    assert model.config.prompt == config.prompt
    assert not model.training


def test_frozen_parts_are_named_and_not_copied(config, shared):
    names = {file.name for file in shared.iterdir()}
    assert names == {
        "README.md", "config.json", "preprocessor_config.json", "checkpoint.json", "projection.safetensors",
        "lora.safetensors", "seen.safetensors",
    }  # fmt: skip
    frozen = json.loads((shared / "config.json").read_text())["frozen_parts"]
    assert frozen["language_model"]["family"] == "llama"
    assert frozen["encoder"]["vision"]["weights"] == "vision0.safetensors"


def test_bundled_weights_are_named_by_their_relative_path_from_any_folder(saved, tmp_path, monkeypatch):
    name = "skingpt4/weights/bundled/qformer_captions.safetensors"
    shutil.copytree(saved, tmp_path / "saved")
    path = tmp_path / "saved" / checkpoint.CARD
    card = json.loads(path.read_text())
    card["config"]["qformer"]["weights"] = name
    path.write_text(json.dumps(card))
    monkeypatch.chdir(tmp_path)
    folder = repository.write_folder(tmp_path / "saved", tmp_path / "shared", "x")
    described = json.loads((folder / "config.json").read_text())
    assert described["frozen_parts"]["encoder"]["qformer"]["weights"] == name
    assert f"`{name}`" in (folder / "README.md").read_text()
    assert Path(repository.config_of(folder).qformer.weights).is_file()


def test_the_card_is_one_the_hub_can_read(shared):
    card = huggingface_hub.ModelCard.load(shared / "README.md")
    assert card.data.license == "apache-2.0"
    assert "not-a-medical-device" in card.data.tags
    for title in ("Intended use", "Limits", "Data", "Training", "Licence", "Research software"):
        assert title in card.text
    trained = json.loads((shared / "checkpoint.json").read_text())["num_trainable"]
    assert f"{trained:,}" in card.text


def test_the_processor_is_complete(config, shared):
    processor = json.loads((shared / "preprocessor_config.json").read_text())
    assert processor["image"]["size"] == config.vision.image_size
    assert processor["image"]["mean"] == pytest.approx([0.48145466, 0.4578275, 0.40821073])
    assert processor["prompt"]["text"]["end"] == "###"
    assert processor["tokenizer"] == "llama"


def test_included_parts_are_read_from_the_folder(config, saved, tmp_path, monkeypatch):
    folder = repository.write_folder(saved, tmp_path / "whole", "whole", include=repository.PARTS)
    source = model_source(None, str(folder))
    assert Path(source.config.vision.weights) == folder / "vision.safetensors"
    assert Path(source.config.qformer.weights) == folder / "qformer.safetensors"
    assert torch.equal(loss_of(source.load()), loss_of(load_model(config, saved, CPU)))


def naming(saved, folder, key, path):
    """A copy of a checkpoint whose card names another file."""
    shutil.copytree(saved, folder)
    card = json.loads((folder / checkpoint.CARD).read_text())
    card["config"][key]["weights"] = str(path)
    (folder / checkpoint.CARD).write_text(json.dumps(card))
    return folder


@pytest.mark.parametrize("key", repository.PARTS)
def test_a_file_that_is_not_the_part_is_not_copied(config, saved, tmp_path, working_folder, key):
    Path("id_rsa").write_text("-----BEGIN OPENSSH " + "PRIVATE KEY-----\nsecret\n")
    Path("disguised.safetensors").write_text("-----BEGIN OPENSSH " + "PRIVATE KEY-----\nsecret\n")
    other = {"vision": "qformer", "qformer": "vision"}[key]
    shutil.copy(getattr(config, other).weights, "other.safetensors")
    for number, file in enumerate(("id_rsa", "disguised.safetensors", "other.safetensors")):
        given = naming(saved, tmp_path / f"given{number}", key, file)
        with pytest.raises(HubError, match=f"^{key}.weights: {file} is not included, since it is not"):
            repository.write_folder(given, tmp_path / "out", "x", include=[key])
        assert not (tmp_path / "out").exists()


def test_a_part_outside_the_working_folder_is_not_copied(config, saved, tmp_path, working_folder):
    elsewhere = tmp_path / "private.safetensors"
    shutil.copy(config.vision.weights, elsewhere)
    for number, name in enumerate((elsewhere, os.path.relpath(elsewhere))):
        given = naming(saved, tmp_path / f"given{number}", "vision", name)
        with pytest.raises(HubError, match=r"private\.safetensors is not included, since it is outside"):
            repository.write_folder(given, tmp_path / "out", "x", include=["vision"])
    assert not (tmp_path / "out").exists()


def test_another_language_model_is_refused(config, shared, tmp_path):
    with pytest.raises(checkpoint.CheckpointError, match="language_model"):
        from_pretrained(shared, CPU, language_model=save_language_model(tmp_path / "q", "qwen2"))
    other = tmp_path / "same_shapes"
    shutil.copytree(config.language.model, other)
    weights = Path(save_language_model(tmp_path / "w", "llama", seed=4)) / "model.safetensors"
    shutil.copy(weights, other)
    with pytest.raises(Exception, match="self-test"):
        from_pretrained(shared, CPU, language_model=str(other))


def test_missing_frozen_parts_are_named(shared, tmp_path):
    folder = tmp_path / "moved"
    shutil.copytree(shared, folder)
    description = json.loads((folder / "config.json").read_text())
    description["config"]["vision"]["weights"] = "weights/none.safetensors"
    (folder / "config.json").write_text(json.dumps(description))
    with pytest.raises(HubError, match=r"vision.weights: weights/none.safetensors is not there"):
        from_pretrained(folder, CPU)


def test_a_damaged_folder_and_a_wrong_name_are_one_sentence(shared, tmp_path):
    with pytest.raises(HubError, match="no such folder"):
        from_pretrained(tmp_path / "none", CPU)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(HubError, match="is not a description"):
        from_pretrained(tmp_path, CPU)


def test_a_failed_write_leaves_nothing(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(repository, "model_card", lambda *a: pytest.fail("disk full"))
    with pytest.raises(BaseException, match="disk full"):
        repository.write_folder(saved, tmp_path / "out", "out")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_one_sentence(saved, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("x")
    for out, why in (("file", "is not empty"), ("file/skin", "cannot be written (Not a directory)")):
        assert share.main(["--checkpoint", str(saved), "--out", str(tmp_path / out)]) == 1
        assert why in capsys.readouterr().err

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(repository.shutil, "copyfile", full)
    assert share.main(["--checkpoint", str(saved), "--out", str(tmp_path / "skin")]) == 1
    assert "cannot be written (No space left on device); check" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_the_command_says_how_to_upload_and_refuses_a_full_folder(saved, tmp_path, capsys):
    out = tmp_path / "skin"
    assert share.main(["--checkpoint", str(saved), "--out", str(out), "--include", "qformer"]) == 0
    shown = capsys.readouterr().out
    assert f"hf upload YOUR_NAME/skin {out}" in shown
    assert "not a medical device" in shown
    assert "note:" not in shown
    assert (out / "qformer.safetensors").is_file()
    assert not (out / "vision.safetensors").exists()
    assert share.main(["--checkpoint", str(saved), "--out", str(out)]) == 1
    assert "is not empty" in capsys.readouterr().err


@pytest.fixture
def loopback_hub(shared, tmp_path, monkeypatch):
    with serving() as server:
        server.repositories["me/skin"] = Repository(
            {file.name: file.read_bytes() for file in shared.iterdir()}
        )
        real = functools.partial(
            huggingface_hub.snapshot_download,
            endpoint=server.url,
            cache_dir=tmp_path / "cache",
            etag_timeout=300,
        )
        monkeypatch.setattr(huggingface_hub, "snapshot_download", real)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 300)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        yield server


def test_a_hub_id_is_fetched_once_and_loads(config, saved, loopback_hub):
    model = from_pretrained("me/skin", CPU)
    assert torch.equal(loss_of(model), loss_of(load_model(config, saved, CPU)))


def test_a_hub_that_says_no_is_one_sentence(loopback_hub, monkeypatch):
    with pytest.raises(HubError, match=r"me/nothing: is not on the hub .*check the name"):
        from_pretrained("me/nothing", CPU)
    loopback_hub.repositories["me/skin"].gated = "manual"
    with pytest.raises(HubError, match=r"me/skin: is gated; accept its terms"):
        from_pretrained("me/skin", CPU)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match=r"me/other: is not in the hub's cache"):
        from_pretrained("me/other", CPU)
