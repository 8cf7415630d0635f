"""A checkpoint's language model for vLLM: LoRA multiplied in, exactly what the page then asks for."""

import json
import os

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from skingpt4.checkpoints import merged
from skingpt4.checkpoints.load import load_model, model_source
from skingpt4.cli import chat
from skingpt4.cli.deploy.share import export
from skingpt4.config.load import read_values, to_yaml
from skingpt4.generation.engine.decoder import require_engine
from skingpt4.model.language import LanguageModel
from tests.support.engine import StandInEngine, serving
from tests.support.tiny import load_language_model, make_picture


@pytest.fixture(scope="module")
def folder(saved, working_folder):
    assert export(["--checkpoint", str(saved), "--vllm", "engines/tiny"]) == 0
    return working_folder / "engines/tiny"


def test_the_folder_computes_what_the_checkpoint_with_lora_computes(config, saved, folder):
    tuned = load_model(config, saved).language_model
    plain = load_language_model(config.language.model)
    exported = AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        theirs, ours, before = (m(input_ids=ids).logits for m in (exported, tuned, plain))
    assert torch.allclose(theirs, ours, atol=1e-5)
    assert not torch.allclose(theirs, before, atol=1e-2), "LoRA matters here"
    tokens = AutoTokenizer.from_pretrained(folder)("###Human: why?")["input_ids"]
    assert tokens == tuned.tokenizer("###Human: why?")["input_ids"]
    card = json.loads((folder / merged.CARD).read_text())
    assert card["lora_merged"] is True
    assert card["template"]["end"] == "###"
    assert "not a medical device" in card["disclaimer"]
    assert {file.stat().st_mode & 0o777 for file in folder.glob("*.safetensors")} == {0o644}


def test_the_page_of_the_checkpoint_takes_the_served_folder_and_no_other(config, saved, folder):
    model = load_model(config, saved)
    name = json.loads((folder / merged.CARD).read_text())["served_model_name"]
    served = load_language_model(folder)
    assert isinstance(served, LanguageModel)
    with serving(StandInEngine(served, name=name), model=name) as engine:
        require_engine(model, engine)
    with (
        serving(StandInEngine(load_language_model(config.language.model), name=name), model=name) as engine,
        pytest.raises(Exception, match="serves another language model"),
    ):
        require_engine(model, engine)


def test_a_chat_is_answered_by_the_engine_that_the_export_names(config, saved, folder, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    make_picture(1).save(tmp_path / "spot.png")
    arguments = ["--config", str(tmp_path / "config.yaml"), "--checkpoint", str(saved), "--image",
                 str(tmp_path / "spot.png"), "--question", "What is it?", "--max-new-tokens", "8"]  # fmt: skip
    assert chat.main(arguments) == 0
    alone = capsys.readouterr().out
    values = read_values(folder / merged.ENGINE)["engine"]
    engine = StandInEngine(load_language_model(folder), name=values["model"])
    with serving(engine) as served:
        text = (folder / merged.ENGINE).read_text().replace(values["url"], served.url)
        (tmp_path / "engine.yaml").write_text(text)
        assert chat.main([*arguments, "--engine", str(tmp_path / "engine.yaml")]) == 0
    assert capsys.readouterr().out == alone
    assert len(engine.requests) == 2, "the trial and the question"
    assert chat.main([*arguments, "--engine", str(tmp_path / "engine.yaml")]) == 1, "it is no longer there"
    assert "cannot be reached" in capsys.readouterr().err


def test_nothing_is_overwritten_unasked_or_half_written(saved, folder, tmp_path, capsys, monkeypatch):
    again = ["--checkpoint", str(saved), "--vllm", str(folder)]
    assert export(again) == 1
    assert "exists; add --overwrite" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    assert export([*again[:3], str(tmp_path / "mine"), "--overwrite"]) == 1
    assert "exists and is no such folder" in capsys.readouterr().err
    before = sorted(os.listdir(folder))
    with monkeypatch.context() as patched:
        patched.setattr(merged, "_engine_yaml", lambda name: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            export([*again, "--overwrite"])
    assert sorted(os.listdir(folder)) == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert export([*again, "--overwrite"]) == 0
    assert sorted(os.listdir(folder)) == before


def test_what_cannot_be_exported_is_said(saved, tmp_path, capsys):
    assert export(["--checkpoint", str(tmp_path / "gone"), "--vllm", str(tmp_path / "out")]) == 1
    assert "gone" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert export(["--minigpt4", str(tmp_path / "out.pth")]) == 1
    assert "needs --checkpoint" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        export(["--checkpoint", str(saved)])


def test_a_name_belongs_to_its_checkpoint(saved, folder):
    card = json.loads((folder / merged.CARD).read_text())
    assert card["served_model_name"].startswith("skingpt4-")
    assert read_values(folder / merged.ENGINE)["engine"]["model"] == card["served_model_name"]
    source = model_source(None, str(saved), str(folder / merged.ENGINE))
    assert source.config.engine.name == "vllm"
    assert source.config.engine.model == card["served_model_name"]
