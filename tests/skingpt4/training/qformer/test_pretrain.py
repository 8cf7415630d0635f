"""`skingpt4 pretrain-qformer`: a file that loads, the same bits after a stop, refusals before work."""

import json
from dataclasses import asdict

import pytest
import torch
from safetensors.torch import load_file

from skingpt4.cli.training import pretrain_qformer
from skingpt4.config.load import to_yaml
from skingpt4.config.schema import QFormerConfig
from skingpt4.model.build import build_qformer
from skingpt4.training.qformer import pretrain
from tests.support.tiny import qformer_config, tiny_config, write_manifest


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A configuration and manifests of two classes."""
    folder = tmp_path_factory.mktemp("pretrain")
    (folder / "tiny.yaml").write_text(to_yaml(tiny_config(folder)))
    for number, name in enumerate(("psoriasis_and_lichen_planus", "herpes")):
        write_manifest(folder / f"{name}.jsonl", 8, first=10 * number, **{"class": name})
        write_manifest(folder / f"held_{name}.jsonl", 3, first=100 + 10 * number, **{"class": name})
    both = [(folder / f"held_{name}.jsonl").read_text() for name in ("psoriasis_and_lichen_planus", "herpes")]
    (folder / "held.jsonl").write_text("".join(both))
    return folder


def arguments(folder, out, *more):
    return [
        "--config", str(folder / "tiny.yaml"),
        "--train", str(folder / "psoriasis_and_lichen_planus.jsonl"), str(folder / "herpes.jsonl"),
        "--held-out", str(folder / "held.jsonl"), "--out", str(out), "--cache", str(folder / "cache"),
        "--steps", "6", "--batch-size", "4", "--matching", "0.1", "--generation", "0.1", *more,
    ]  # fmt: skip


def run(folder, out, *more):
    return pretrain_qformer.main(arguments(folder, out, *more))


def test_the_result_loads_and_its_card_says_how_it_was_made(folder, tmp_path, caplog):
    out = tmp_path / "new" / "qformer.safetensors"
    assert run(folder, out) == 0
    config = qformer_config(weights=str(out))
    assert isinstance(config, QFormerConfig)
    width = build_qformer(config, 32)(torch.randn(1, 17, 32)).shape
    assert width == (1, 4, 32)
    card = json.loads(out.with_suffix(".json").read_text())
    assert card["command"].startswith("skingpt4 pretrain-qformer --config")
    assert card["settings"]["weights"]["matching"] == 0.1
    assert [part["n"] for part in card["train"]] == [8, 8]
    assert card["losses"][-1]["step"] == 6
    assert {"reconstruction", "generation", "contrastive", "matching"} <= set(card["losses"][-1])
    for stage in ("tokens", "queries_before", "queries_after"):
        assert card["probe_of_class"][stage]["n"] == 6
    assert 1 <= card["queries"]["effective_rank"] <= 32
    assert card["queries"]["constant_fraction"] < 1
    assert card["queries"]["explained_by_labels"] < 1
    assert not list(out.parent.glob("*.state*"))
    assert "queries after" in caplog.text
    assert run(folder, out) == 1  # it exists


def test_the_command_has_the_defaults_of_the_settings():
    """They are written twice, so that `--help` imports no network."""
    args = pretrain_qformer.parser().parse_args(["--train", "a", "--held-out", "b", "--out", "c"])
    defaults = asdict(pretrain.Settings())
    shared = ("steps", "batch_size", "rate", "seen_patches", "start")
    assert {name: getattr(args, name) for name in shared} == {name: defaults[name] for name in shared}
    assert {name: getattr(args, name) for name in defaults["weights"]} == defaults["weights"]


def test_a_stopped_training_ends_with_the_same_bits(folder, tmp_path, monkeypatch):
    whole, stopped = tmp_path / "whole.safetensors", tmp_path / "stopped.safetensors"
    monkeypatch.setattr(pretrain, "SAVE_EVERY", 2)
    assert run(folder, whole) == 0
    steps = []
    own_step = pretrain.train_step

    def dies(model, optimizer, examples, settings, step):
        steps.append(step)
        if step == 3 and len(steps) == 4:
            raise KeyboardInterrupt
        return own_step(model, optimizer, examples, settings, step)

    monkeypatch.setattr(pretrain, "train_step", dies)
    assert run(folder, stopped) == 130
    assert not stopped.exists()
    assert run(folder, stopped, "--rate", "0.1") == 1  # the state is of other settings
    assert run(folder, stopped) == 0
    assert steps == [0, 1, 2, 3, 2, 3, 4, 5]
    first, second = load_file(whole), load_file(stopped)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_random_start_and_no_captions(folder, tmp_path):
    out = tmp_path / "q.safetensors"
    options = ("--start", "random", "--contrastive", "0", "--matching", "0", "--generation", "0")
    assert run(folder, out, *options) == 0
    card = json.loads(out.with_suffix(".json").read_text())
    assert set(card["losses"][-1]) == {"step", "reconstruction", "decorrelation"}


def test_problems_are_named_before_anything_is_computed(folder, tmp_path, capsys):
    cache = tmp_path / "cache"
    (tmp_path / "file").write_text("")

    def refused(*more, out=tmp_path / "q.safetensors"):
        assert run(folder, out, "--cache", str(cache), *more) == 1
        return capsys.readouterr().err

    assert "--out" in refused(out=tmp_path / "file" / "q.safetensors")
    assert ".safetensors" in refused(out=tmp_path / "q.pth")
    assert "batch" in refused("--batch-size", "99")
    assert "shares records" in refused("--held-out", str(folder / "herpes.jsonl"))
    assert run(folder, tmp_path / "q.safetensors", "--cache", str(cache), "--dry-run") == 0
    assert not cache.exists()


def test_an_out_that_cannot_be_written_is_found_out_before_anything_is_read(folder, tmp_path, capsys):
    (tmp_path / "taken").write_text("a file")
    for out in (tmp_path, tmp_path / "taken" / "qformer.safetensors"):
        words = arguments(folder, out)
        words[words.index("--held-out") + 1] = str(tmp_path / "missing.jsonl")
        assert pretrain_qformer.main(words) == 1
        assert f"--out {out}: cannot be written" in capsys.readouterr().err


def test_a_state_of_another_version_is_refused(folder, tmp_path, monkeypatch, capsys):
    out = tmp_path / "old.safetensors"
    monkeypatch.setattr(pretrain, "SAVE_EVERY", 2)
    monkeypatch.setattr(pretrain, "set_scale", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert run(folder, out) == 130
    state = tmp_path / "old.safetensors.state"
    saved = torch.load(state, weights_only=True)
    saved["model"]["log_scale"] = saved["model"].pop("directions")
    torch.save(saved, state)
    assert run(folder, out) == 1
    assert "another version; delete it" in capsys.readouterr().err
