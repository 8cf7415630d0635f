"""What a checkpoint's card may hold, what of it may leave this machine, and what a foreign one may do here."""

import json
import shutil

import pytest
import torch

from skingpt4.checkpoints import checkpoint, repository
from skingpt4.checkpoints.card import SHARED_KEYS, is_demonstration
from skingpt4.checkpoints.identity import model_identity
from skingpt4.checkpoints.load import from_pretrained, load_model, model_source
from skingpt4.checkpoints.repository import HubError
from skingpt4.cli import batch, calibrate, chat
from skingpt4.cli.deploy import share
from skingpt4.config.load import to_dict, to_yaml
from skingpt4.records.comparing.overlap import check_cases
from skingpt4.records.manifest import read_manifest
from skingpt4.weights.files.inspect_directory import inspect
from skingpt4.weights.language_model import LanguageModelError
from tests.support.tiny import loss_of

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("working_folder")


# ---- what may leave


def test_what_is_not_listed_stays_here(config, saved, tmp_path):
    """Every value of a configuration and of a card that names a place, a device or a person is planted, and gone."""
    source, planted = tmp_path / "saved", "/home/anna/PLANTED"
    shutil.copytree(saved, source)
    (source / "calibration.json").write_text(planted)
    (source / "notes.txt").write_text(planted)
    path = source / checkpoint.CARD
    card = json.loads(path.read_text())
    values = {
        "output_dir": planted, "initial_checkpoint": planted, "log.every": 77777,
        "data.train": [f"{planted}/phantoms.jsonl"], "data.validation": [planted], "data.evaluation": [planted],
        "data.feature_cache": planted, "data.num_workers": 77777, "encoder.device": "cuda:77777",
        "language.offload_dir": planted, "language.max_memory": {"cuda:7": "77777GiB"}, "language.device_map": "auto",
        "vision.weights": f"{planted}/v.safetensors", "qformer.weights": f"{planted}/q.safetensors",
        "language.model": f"{planted}/llama", "data.augment": False, "lora.dropout": 0.25,
    }  # fmt: skip
    for name, value in values.items():
        group, _, key = name.rpartition(".")
        (card["config"][group] if group else card["config"])[key] = value
    card["language_model"]["name"] = card["own_remark"] = card["known_answer"]["remark"] = planted
    card["parent"] = {"step": "step1", "iteration": 3, "tensors_sha256": "0" * 64, "path": planted}
    path.write_text(json.dumps(card))
    out = repository.write_folder(source, tmp_path / "out", "x")
    for file in out.iterdir():
        for word in (b"PLANTED", b"anna", b"77777", str(tmp_path).encode()):
            assert word not in file.read_bytes(), f"{word!r} is in {file.name}"
    public = json.loads((out / checkpoint.CARD).read_text())
    assert "state_sha256" in card
    assert "state_sha256" not in public, "there is no state"
    assert public["parent"] == {"step": "step1", "iteration": 3, "tensors_sha256": "0" * 64}
    assert public["config"]["lora"]["dropout"] == 0.25
    assert public["config"]["data"]["augment"] is False
    assert public["config"]["language"]["model"] == "weights/llama"
    assert public["demonstration"] is True, "that it was trained on phantoms is said to everybody"
    assert "no clinical meaning" in model_identity(config, out)["caution"]
    renamed = [key for key, _ in repository.renamed_paths(out, source)]
    assert renamed == ["vision.weights", "qformer.weights", "language.model"]


@pytest.mark.parametrize(
    ("card", "is_drawn"),
    [
        ({"sources": [{"source": "phantoms", "licence": None, "records": 3}]}, True),
        ({"sources": [{"source": "dermnet"}, {"source": "phantoms"}]}, True),
        ({"sources": [{"source": "dermnet"}, {"source": None}]}, False),
        ({"config": {"data": {"train": ["runs/phantoms/step2/manifest.jsonl"]}}}, True),
        ({"config": {"data": {"train": ["runs/quickstart/step2_described.jsonl"]}}}, False),
        ({"demonstration": True}, True),
        ({}, False),
    ],
)
def test_what_was_drawn_is_known_by_its_records_wherever_their_manifest_lies(card, is_drawn):
    assert is_demonstration(card) is is_drawn


def test_each_value_of_a_configuration_either_leaves_or_stays(config):
    """Whoever adds a key decides here."""
    complete = {"vision", "qformer", "pooling", "projection", "lora", "prompt", "optim"}
    stays = {
        "output_dir", "initial_checkpoint", "encoder.device", "language.device_map", "language.max_memory",
        "language.offload_dir", "language.compile", "data.train", "data.validation", "data.evaluation",
        "data.allow_overlap", "data.num_workers", "data.batching", "data.feature_cache", "data.feature_views",
        *(f"log.{key}" for key in to_dict(config)["log"]),
    }  # fmt: skip
    keys = {
        f"{group}.{key}" if key else group
        for group, values in to_dict(config).items()
        for key in (values if isinstance(values, dict) and group not in complete else [""])
    }
    assert set(SHARED_KEYS) | stays == keys
    assert set(SHARED_KEYS) & stays == set()


def test_a_shared_folder_can_be_evaluated(config, shared):
    """Its hashes of training pictures come along, so that an evaluation elsewhere can leave these out."""
    _, card = checkpoint.load(shared)
    seen = checkpoint.load_seen(shared, card)
    assert card["config"]["data"]["train"] == [], "its manifests are not known there"
    comparison = check_cases(read_manifest(config.data.train[0]), seen, card)
    assert any("the same picture" in clause for clause in comparison.shared)
    assert not comparison.nothing


# ---- what is read


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("config", []), ("step", 3), ("iteration", "7"), ("lora", [1]), ("lora", {"rank": 2}), ("encoder", {}),
        ("lora", {"rank": 2, "alpha": 1.0, "dropout": 0.0, "targets": "(a+)+$"}), ("language_model", "llama"),
        ("known_answer", {"question": "x"}), ("parent", 3), ("parent", {"step": "step1"}),
        ("seen_sha256", 3), ("versions", ["torch"]),
    ],
)  # fmt: skip
def test_a_card_of_wrong_types_is_one_sentence_for_every_reader(key, value, config, shared, tmp_path, capsys):
    folder = tmp_path / "c"
    shutil.copytree(shared, folder)
    card = json.loads((folder / checkpoint.CARD).read_text())
    (folder / checkpoint.CARD).write_text(json.dumps({**card, key: value}))
    for read in (
        checkpoint.load,
        lambda path: model_identity(config, path),
        lambda path: load_model(config, path),
    ):
        with pytest.raises(
            checkpoint.CheckpointError,
            match=rf"not a checkpoint's description \('{key}.* is missing or wrong",
        ):
            read(folder)
    assert share.main(["--checkpoint", str(folder), "--out", str(tmp_path / "o")]) == 1
    assert "not a checkpoint's description" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text", ["[]", "3", "{", "[" * 5000, '{"a": ' * 5000, "9" * 5000, '{"format": "\\ud800"}', ""]
)
def test_a_card_that_is_no_object_is_one_sentence(text, shared, tmp_path):
    folder = tmp_path / "c"
    shutil.copytree(shared, folder)
    (folder / checkpoint.CARD).write_text(text)
    with pytest.raises(checkpoint.CheckpointError, match=r"checkpoint\.json: is damaged"):
        checkpoint.load(folder)
    assert "checkpoint.json: is damaged" in inspect(folder).problem
    (folder / "config.json").write_text(text)
    with pytest.raises(HubError, match=r"config\.json: is not a description"):
        repository.config_of(folder)


# ---- what a foreign card may do


def foreign(shared, folder, **changes):
    """A shared folder whose configuration somebody else wrote; keys have two underscores for a dot."""
    shutil.copytree(shared, folder)
    description = json.loads((folder / "config.json").read_text())
    for name, value in changes.items():
        group, key = name.split("__")
        description["config"][group][key] = value
    (folder / "config.json").write_text(json.dumps(description))
    return folder


def test_a_foreign_card_does_not_read_the_environment(shared, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_planted_secret")
    folder = foreign(shared, tmp_path / "c", prompt__questions=["${oc.env:HF_TOKEN}"])
    config = model_source(None, str(folder)).config
    assert config.prompt.questions == ["${oc.env:HF_TOKEN}"]
    assert "hf_planted_secret" not in to_yaml(config)


def test_a_foreign_card_makes_nobody_ask_the_hub(shared, tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr("socket.getaddrinfo", lambda host, *args, **kwargs: asked.append(host) or 1 / 0)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    folder = foreign(shared, tmp_path / "c", language__model="attacker/model")
    sentence = (
        "names 'attacker/model', which is not on this machine, and what a checkpoint names is not fetched"
    )
    for load in (model_source(None, str(folder)).load, lambda: from_pretrained(folder, CPU)):
        with pytest.raises(LanguageModelError, match=sentence):
            load()
    for command, arguments in (
        (chat, ["--question", "?"]),
        (batch, ["--images", ".", "--output", str(tmp_path / "o.jsonl")]),
        (calibrate, ["--manifest", "train.jsonl"]),
    ):
        assert command.main(["--checkpoint", str(folder), *arguments]) == 1
        assert "error: " in capsys.readouterr().err
    assert asked == []


def test_a_foreign_card_finds_a_model_in_the_hubs_cache(config, saved, shared, tmp_path, monkeypatch):
    repo = tmp_path / "cache" / "models--me--toy"
    shutil.copytree(config.language.model, repo / "snapshots" / ("a" * 40))
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("socket.getaddrinfo", lambda *args, **kwargs: pytest.fail("asked for an address"))
    source = model_source(None, str(foreign(shared, tmp_path / "c", language__model="me/toy")))
    assert source.config.language.model == "me/toy"
    assert torch.equal(loss_of(source.load()), loss_of(load_model(config, saved, CPU)))


def test_a_foreign_card_writes_nothing_outside(shared, tmp_path):
    away = {"language__offload_dir": str(tmp_path), "data__feature_cache": "../away", "data__augment": False}
    config = model_source(None, str(foreign(shared, tmp_path / "c", **away))).config
    assert (config.language.offload_dir, config.data.feature_cache) == (None, None)
    inside = {"data__feature_cache": "runs/features", "data__augment": False}
    config = model_source(None, str(foreign(shared, tmp_path / "d", **inside))).config
    assert config.data.feature_cache == "runs/features"
