"""What is refused of a language model before it is read: deltas, other people's vocabularies, broken shards."""

import ast
import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from skingpt4.config.schema import Config
from skingpt4.doctor.findings import Facts
from skingpt4.doctor.language_model import language_model
from skingpt4.doctor.shapes import language_shape
from skingpt4.weights.language_model import (
    LanguageModelError,
    cannot_load,
    configuration,
    read_configuration,
)
from tests.support.local_hub import Repository, serving
from tests.support.tiny import load_language_model, make_tokenizer, save_language_model

ROOT = Path(__file__).parents[3]


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


# ---- a config.json of a stranger


@pytest.mark.parametrize(
    "content",
    [
        "[]", "3", "", "{", "[" * 3000, "{}", '{"model_type": ["llama"]}', '{"model_type": {}}', '{"model_type": 3}',
        '{"model_type": "llama", "hidden_size": "x"}', '{"model_type": "llama", "hidden_size": null}',
        '{"model_type": "llama", "hidden_size": -1}', '{"model_type": "llama", "num_hidden_layers": 1000000000}',
        '{"model_type": "llama", "num_attention_heads": 0}', '{"model_type": "llama", "vocab_size": 1e99}',
        '{"model_type": "llama", "rope_scaling": "x"}', '{"model_type": "llama", "architectures": 3}',
        '{"model_type": "falcon", "num_kv_heads": "8"}', '{"model_type": "llama", "text_config": [1]}',
        '{"model_type": "llama", "torch_dtype": "float99"}', '{"model_type": "llama", "quantization_config": 3}',
        '{"model_type": "nobody", "auto_map": {"AutoConfig": "configuration.Evil"}}',
    ],
)  # fmt: skip
def test_every_config_json_is_a_network_or_a_sentence_and_soon(content, tmp_path):
    (tmp_path / "config.json").write_text(content)
    (tmp_path / "configuration.py").write_text("raise SystemExit('code of a model was run')")
    sentence = f"language.model: {tmp_path} "
    try:
        language_shape(read_configuration(str(tmp_path), local_only=True))
    except LanguageModelError as error:
        sentence = str(error)
    assert sentence.startswith(f"language.model: {tmp_path}")
    assert "\n" not in sentence
    assert not re.search(r"object has no attribute|NoneType", sentence) or "cannot use" in sentence


def test_code_of_a_model_is_refused_by_every_loader(tmp_path):
    """Not asked about on the terminal either, which is what transformers does when nothing is said."""
    places = [*ROOT.glob("skingpt4/**/*.py"), *ROOT.glob("eval/**/*.py"), *ROOT.glob("data/**/*.py")]
    calls = 0
    for path in places:
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            owner = node.func.value
            if (
                isinstance(owner, ast.Name)
                and owner.id.startswith("Auto")
                and node.func.attr.startswith("from_")
            ):
                given = {word.arg: word.value for word in node.keywords}
                value = given.get("trust_remote_code")
                assert isinstance(value, ast.Constant), f"{path}:{node.lineno}"
                assert value.value is False, f"{path}:{node.lineno}"
                calls += 1
    assert calls >= 6


@pytest.mark.parametrize("name", ["a/b/c/d", " ", "-x", "a..b", "x" * 200])
def test_a_name_that_is_neither_path_nor_hub_id_is_one_sentence(name):
    with pytest.raises(LanguageModelError, match="neither a directory here nor a name that the hub may have"):
        read_configuration(name)
    config = Config(step="none", output_dir="x")
    config.language.model = name
    (finding,) = language_model(Facts(config))
    assert "neither a directory here nor a name that the hub may have" in finding.text
