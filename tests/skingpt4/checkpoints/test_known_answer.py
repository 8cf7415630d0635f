"""The self-test: weights of another model that fit by name and shape are caught; rounding is not taken for them."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from skingpt4.checkpoints import checkpoint, known_answer
from skingpt4.checkpoints.known_answer import KnownAnswerError
from skingpt4.checkpoints.load import load_model, load_projection
from skingpt4.model.build import build_encoder
from skingpt4.model.prompts import Turn, encode_turns, get_template
from skingpt4.training.loop import run
from tests.support.tiny import (
    IMAGE_SIZE,
    make_encoder,
    save_language_model,
    tiny_config,
)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return tiny_config(tmp_path_factory.mktemp("known_answer"), lora__rank=2)


@pytest.fixture(scope="module")
def saved(config):
    return run(config)


def with_language_model(config, folder):
    return replace(config, language=replace(config.language, model=str(folder)))


def card_of(folder):
    return json.loads((folder / checkpoint.CARD).read_text())


def test_the_picture_is_the_same_everywhere():
    pixels = known_answer.image()
    assert pixels.size == (256, 256)
    assert hashlib.sha256(pixels.tobytes()).hexdigest()[:16] == "f1622e9389720def"


def test_a_checkpoint_stores_it_and_a_fresh_load_repeats_it(config, saved):
    stored = card_of(saved)["known_answer"]
    assert stored["dtype"] == "float32"
    assert stored["tolerance"] == known_answer.TOLERANCE["float32"]
    model = load_model(config, saved)
    queries = known_answer.queries_of(model.encoder, IMAGE_SIZE)
    assert known_answer.measure(model, queries, config.prompt.template) == stored
    # By hand: the answer's tokens under the model's own log-probabilities.
    turns = [Turn(stored["question"], stored["answer"], 1)]
    encoded = encode_turns(get_template("vicuna"), turns, model.tokenizer, queries.shape[1])
    ids = torch.tensor([encoded.input_ids])
    with torch.no_grad():
        logits = model.language_model(inputs_embeds=model.embed(ids, queries)).logits[0].log_softmax(-1)
    chosen = [logits[i - 1, t].item() for i, t in enumerate(encoded.input_ids) if encoded.supervised[i]]
    assert len(chosen) == stored["num_tokens"]
    assert sum(chosen) / len(chosen) == pytest.approx(stored["mean_log_probability"], abs=1e-4)


def test_another_language_model_of_the_same_shapes_is_caught(config, saved, tmp_path):
    shutil.copytree(config.language.model, tmp_path / "other")
    other = save_language_model(tmp_path / "weights", "llama", seed=1)
    shutil.copy(Path(other) / "model.safetensors", tmp_path / "other")
    with pytest.raises(KnownAnswerError, match=r"is -\d+\.\d+ here.*was -\d+\.\d+.*language model"):
        load_model(with_language_model(config, tmp_path / "other"), saved)


def test_one_spoilt_matrix_is_caught(config, saved, tmp_path):
    shutil.copytree(config.language.model, tmp_path / "spoilt")
    path = tmp_path / "spoilt" / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.0.mlp.down_proj.weight"].zero_()
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(KnownAnswerError, match="fails its self-test"):
        load_model(with_language_model(config, tmp_path / "spoilt"), saved)


def test_another_encoder_is_named_as_such(config, saved):
    model = load_model(config, None)
    model.encoder = make_encoder(seed=5)
    with pytest.raises(KnownAnswerError, match="image encoder"):
        load_projection(model, config, saved)


def test_half_precision_passes(config, saved):
    half = replace(config, language=replace(config.language, dtype="bfloat16"))
    assert load_model(half, saved).language_model.dtype == torch.bfloat16


def test_nan_never_passes(config, saved):
    model = load_model(config, saved)
    model.language_model.get_input_embeddings().weight.data.fill_(float("nan"))
    with pytest.raises(KnownAnswerError):
        load_projection(model, config, saved)


def test_an_old_checkpoint_loads_with_a_notice(config, saved, tmp_path, caplog):
    old = tmp_path / "old"
    shutil.copytree(saved, old)
    card = card_of(old)
    del card["known_answer"]
    (old / checkpoint.CARD).write_text(json.dumps(card))
    load_model(config, old)
    assert "without a known answer" in caplog.text


def test_with_cached_features_the_self_test_s_queries_are_cached_too(config, tmp_path, monkeypatch):
    cached = replace(
        config,
        output_dir=str(tmp_path / "run"),
        data=replace(config.data, feature_cache=str(tmp_path / "cache"), augment=False),
    )
    saved = run(cached)
    (file,) = (tmp_path / "cache").glob("known-*.safetensors")
    direct = known_answer.queries_of(build_encoder(cached), IMAGE_SIZE)
    assert torch.equal(load_file(file)["queries"], direct)
    # A model without its encoder is tested as well, and no encoder is built for it.
    monkeypatch.setattr("skingpt4.model.build.build_encoder", lambda config: pytest.fail("built again"))
    load_model(cached, saved, with_encoder=False)
