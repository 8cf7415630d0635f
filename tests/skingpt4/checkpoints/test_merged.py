"""A checkpoint's language model for vLLM: LoRA multiplied in, exactly what the page then asks for."""

import ctypes
import json
import os
import sys
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from skingpt4.checkpoints import merged
from skingpt4.checkpoints.load import load_model, model_source
from skingpt4.cli import chat
from skingpt4.cli.deploy.share import export
from skingpt4.config.load import read_values, to_yaml
from skingpt4.generation.engine import llama_cpp
from skingpt4.generation.engine.decoder import require_engine
from skingpt4.generation.engine.trial import NUM_TOKENS
from skingpt4.model.language import LanguageModel
from skingpt4.weights import gguf_file
from skingpt4.weights.gguf_file import GgufError
from tests.support.engine import StandInEngine, serving
from tests.support.llama_cpp import StandInReader
from tests.support.tiny import load_language_model, make_picture, save_language_model


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


def question(config, saved, folder):
    """The words of a chat command that asks one question about a picture."""
    (folder / "config.yaml").write_text(to_yaml(config))
    make_picture(1).save(folder / "spot.png")
    return ["--config", str(folder / "config.yaml"), "--checkpoint", str(saved), "--image",
            str(folder / "spot.png"), "--question", "What is it?", "--max-new-tokens", "8"]  # fmt: skip


def test_a_chat_is_answered_by_the_engine_that_the_export_names(config, saved, folder, tmp_path, capsys):
    arguments = question(config, saved, tmp_path)
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
    assert not [path.name for path in folder.parent.iterdir() if path.name.startswith(".")]
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


# ---- for llama.cpp


@pytest.fixture(scope="module")
def gguf_folder(saved, working_folder):
    assert export(["--checkpoint", str(saved), "--llama-cpp", "engines/gguf", "--precision", "f32"]) == 0
    return working_folder / "engines/gguf"


def test_the_file_for_llama_cpp_computes_what_the_checkpoint_with_lora_computes(config, saved, gguf_folder):
    tuned = load_model(config, saved).language_model
    exported = AutoModelForCausalLM.from_pretrained(gguf_folder, gguf_file=merged.GGUF, dtype=torch.float32)
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        assert torch.allclose(exported(ids).logits, tuned(input_ids=ids).logits, atol=1e-5)
    assert sorted(os.listdir(gguf_folder)) == sorted([merged.CARD, merged.ENGINE, merged.GGUF])
    assert json.loads((gguf_folder / merged.CARD).read_text())["dtype"] == "f32"


def test_a_chat_is_answered_by_llama_cpp_with_the_exported_file(
    config, saved, gguf_folder, tmp_path, capsys, monkeypatch
):
    arguments = question(config, saved, tmp_path)
    assert chat.main(arguments) == 0
    alone = capsys.readouterr().out
    readers = []

    def library(path, threads):
        exported = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
        readers.append(StandInReader(exported))
        return readers[-1]

    monkeypatch.setattr(llama_cpp, "Library", library)
    assert chat.main([*arguments, "--engine", str(gguf_folder / merged.ENGINE)]) == 0
    assert capsys.readouterr().out == alone
    assert readers[0].num_calls > NUM_TOKENS + 1, "the trial and the question"


class _Parameters(ctypes.Structure):
    _fields_ = (("nthread", ctypes.c_int32), ("ftype", ctypes.c_int))


def test_fewer_bits_come_from_llama_cpp_or_nothing_is_written(saved, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    arguments = ["--checkpoint", str(saved), "--llama-cpp", str(out)]
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    assert export(arguments) == 1
    assert "llama.cpp needs the package llama-cpp-python" in capsys.readouterr().err
    sources = []

    def quantise(source, target, params):
        sources.append((source, target))
        with open(target, "wb") as file:
            file.write(b"few bits")
        return len(sources) == 1

    package = SimpleNamespace(
        llama_backend_init=lambda: None, llama_model_quantize_default_params=_Parameters,
        llama_model_quantize=quantise,
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "llama_cpp", package)
    assert export(arguments) == 1
    assert "llama.cpp cannot write it as q8_0" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []
    assert export(arguments) == 0
    assert (out / merged.GGUF).read_bytes() == b"few bits"
    assert sorted(os.listdir(out)) == sorted([merged.CARD, merged.ENGINE, merged.GGUF])


def test_a_language_model_that_is_no_plain_llama_is_not_written_for_llama_cpp(tmp_path):
    model = load_language_model(save_language_model(tmp_path / "llama", "llama")).model
    model.config.rope_parameters = {"rope_type": "yarn", "rope_theta": 1e4}
    with pytest.raises(GgufError, match="llama with positions of type yarn and no biases"):
        gguf_file.write(model, tmp_path / "model.gguf", "f32")
    other = load_language_model(save_language_model(tmp_path / "falcon", "falcon")).model
    with pytest.raises(GgufError, match="and this is falcon with"):
        gguf_file.write(other, tmp_path / "model.gguf", "f32")
    assert list(tmp_path.glob("*.gguf")) == []
