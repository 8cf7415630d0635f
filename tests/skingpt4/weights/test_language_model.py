"""What is refused of a language model before it is read: deltas, other people's vocabularies, broken shards."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from skingpt4.weights.language_model import LanguageModelError, cannot_load, configuration
from tests.support.local_hub import Repository, serving
from tests.support.tiny import load_language_model, make_tokenizer, save_language_model


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A tiny Llama whose numbers nothing may read: every test here is refused before."""
    path = tmp_path / "model"
    save_language_model(path)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", None)
    return path


def test_a_delta_used_unmerged_is_refused_by_its_final_norm_alone(folder, tmp_path):
    base = load_file(folder / "model.safetensors")
    delta = {name: 0.01 * torch.randn_like(value) for name, value in base.items()}
    save_file(delta, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(LanguageModelError, match=r"model: is a Vicuna delta .*final norm.*skingpt4 delta"):
        load_language_model(str(folder))


def test_a_tokenizer_with_more_tokens_than_embeddings_is_refused(folder):
    tokenizer = make_tokenizer("llama")
    rows = len(tokenizer)
    tokenizer.add_tokens(["[PAD]"])
    tokenizer.save_pretrained(folder)
    message = rf"tokenizer in .* knows {rows + 1} tokens, the model has {rows}; take the tokenizer files"
    with pytest.raises(LanguageModelError, match=message):
        load_language_model(str(folder))


def test_vicunas_extra_token_is_explained(folder):
    config = json.loads((folder / "config.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = torch.zeros(32000, 32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 32000}))
    tokenizer = make_tokenizer("llama")
    tokenizer.add_tokens([f"<{n}>" for n in range(32001 - len(tokenizer))])
    tokenizer.save_pretrained(folder)
    with pytest.raises(LanguageModelError, match=r"32001 tokens, the model has 32000 \(32001 is Vicuna v0's"):
        load_language_model(str(folder))


def test_more_embeddings_than_tokens_pass(tmp_path):
    model = load_language_model(save_language_model(tmp_path / "padded", vocab_size=256))
    assert model.get_input_embeddings().weight.shape[0] == 256 > len(model.tokenizer)


def test_embeddings_of_another_size_than_the_configuration_are_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": config["vocab_size"] + 1}))
    with pytest.raises(LanguageModelError, match=r"config\.json says vocabulary"):
        load_language_model(str(folder))


def test_broken_and_missing_shards_are_refused(tmp_path, monkeypatch):
    save_language_model(tmp_path / "one")
    model = load_language_model(str(tmp_path / "one"))
    folder = tmp_path / "shards"
    model.model.save_pretrained(folder, max_shard_size="20KB")
    model.tokenizer.save_pretrained(folder)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", None)
    shard = sorted(folder.glob("*.safetensors"))[1]
    content = shard.read_bytes()
    shard.write_bytes(content[:-10])
    with pytest.raises(LanguageModelError, match=rf"{shard.name}: is truncated"):
        load_language_model(str(folder))
    shard.unlink()
    with pytest.raises(LanguageModelError, match=rf"lacks {shard.name}; fetch it again"):
        load_language_model(str(folder))


def test_another_kind_of_directory_is_named(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "blip-2", "qformer_config": {}}))
    save_file({"query_tokens": torch.zeros(1, 4, 8)}, tmp_path / "model.safetensors")
    with pytest.raises(LanguageModelError, match="is not a language model but: BLIP-2 or InstructBLIP"):
        load_language_model(str(tmp_path))


@pytest.fixture
def hub(monkeypatch, tmp_path):
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    with serving() as server:
        places = {
            "ENDPOINT": server.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_OFFLINE": False,
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HF_TOKEN_PATH": str(tmp_path / "no-token"),
            "HF_HUB_ETAG_TIMEOUT": 300,
        }
        for key, value in places.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{key}", value)
        yield server


def test_a_hub_that_says_no_is_one_sentence_with_the_way_out(hub, monkeypatch):
    hub.repositories["org/gated"] = Repository({"config.json": b"{}"}, gated="manual")
    with pytest.raises(LanguageModelError, match=r"org/gated is gated; accept its terms .*`hf auth login`"):
        configuration("org/gated")
    with pytest.raises(
        LanguageModelError, match=r"org/none is neither a directory here nor a public model of the hub.*check"
    ):
        configuration("org/none")
    assert hub.log, "it is the local hub that was asked"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        LanguageModelError, match=r"org/other is not in the hub's cache.*skingpt4 weights fetch"
    ):
        configuration("org/other")


def test_a_library_s_own_words_are_kept_to_one_line():
    assert str(cannot_load("x", ValueError("odd\nand more"))) == "language.model: x cannot be loaded (odd)"
    assert str(cannot_load("x", KeyError())) == "language.model: x cannot be loaded (KeyError)"
