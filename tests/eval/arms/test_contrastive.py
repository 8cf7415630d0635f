"""Zero-shot scores against the models' own forward, the ensemble by hand, and what is refused."""

import argparse
import importlib.util
import json
import logging
import socket

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoProcessor

from eval.arms import contrastive
from eval.arms.contrastive import ContrastiveModel, Templates, read_templates
from eval.arms.models import dual_encoders
from eval.arms.models.dual_encoders import DualEncoder, offline
from eval.arms.models.loading import Placement, find_model
from eval.arms.respondent import RespondentError, RespondentGone
from skingpt4.generation.questions import CONCEPTS_QUESTION
from tests.support.tiny import make_picture, save_language_model
from tests.support.tiny_towers import KINDS, save_open_clip, save_towers

CPU = Placement(torch.device("cpu"), torch.float32)
ONE = Templates(("A photo of {}.",), (("A photo with {}", "A photo"),))
TWO = Templates(("A photo of {}.", "skin: {}"), (("A photo with {}", "A photo"), ("skin with {}", "skin")))
OPTIONS = {"psoriasis": ("psoriasis",), "melanoma": ("melanoma",), "eczema": ("eczema",)}
QUESTION = "What is wrong with my skin?"
EVERY = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("towers")


def load(folder, kind, templates=ONE):
    return ContrastiveModel(find_model(save_towers(folder / kind, kind)), CPU, templates)


def forward(folder, kind, image, texts):
    """The model's own logits of an image and texts."""
    model, processor = (each.from_pretrained(folder / kind) for each in (AutoModel, AutoProcessor))
    padding = {} if kind == "clip" else {"padding": "max_length", "max_length": 64}
    inputs = processor(text=texts, images=image, return_tensors="pt", **({"padding": True} | padding))
    with torch.no_grad():
        return model.eval()(**inputs).logits_per_image[0]


@EVERY
def test_scores_are_the_models_own(folder, kind):
    model, image = load(folder, kind), make_picture(1)
    scores = model.score([image], QUESTION, OPTIONS)
    logits = forward(folder, kind, image, [f"A photo of {name}." for name in OPTIONS])
    expected = logits.log_softmax(0) if kind == "clip" else logits.sigmoid().log()
    assert list(scores) == list(OPTIONS)
    np.testing.assert_allclose(list(scores.values()), expected.numpy(), atol=1e-5)
    assert expected.std() > 1e-3


@EVERY
def test_the_ensemble_by_hand(folder, kind):
    """Mean over sentences, then the best of a class's texts."""
    options = {"one": ("psoriasis", "a red_plaque"), "two": ("melanoma",)}
    model, images = load(folder, kind, TWO), [make_picture(2), make_picture(3)]
    scores = model.score(images, QUESTION, options)
    towers = DualEncoder(find_model(str(folder / kind)), CPU)
    image = sum(towers.images([each])[0] for each in images)
    image = image / image.norm()

    def logit(text):
        mean = towers.texts([f"A photo of {text}."])[0] + towers.texts([f"skin: {text}"])[0]
        return float(towers.scale * (mean / mean.norm()) @ image + towers.bias)

    best = torch.tensor([max(logit("psoriasis"), logit("a red plaque")), logit("melanoma")])
    expected = best.log_softmax(0) if kind == "clip" else torch.nn.functional.logsigmoid(best)
    np.testing.assert_allclose(list(scores.values()), expected.numpy(), atol=1e-5)


def test_concepts_are_compared_with_a_sentence_without_them(folder):
    image = make_picture(4)
    scores = load(folder, "clip", TWO).score(
        [image], CONCEPTS_QUESTION, {"Plaque": ("Plaque",), "Scale": ("Scale",)}
    )
    first = forward(folder, "clip", image, ["A photo with Plaque", "A photo"]).softmax(0)[0]
    second = forward(folder, "clip", image, ["skin with Plaque", "skin"]).softmax(0)[0]
    assert scores["Plaque"] == pytest.approx(float(((first + second) / 2).log()), abs=1e-5)
    assert scores["Scale"] != pytest.approx(scores["Plaque"], abs=1e-3)


def test_siglip_scores_each_concept_by_itself(folder):
    image = make_picture(4)
    model = load(folder, "siglip")
    both = model.score([image], CONCEPTS_QUESTION, {"Plaque": ("Plaque",), "Scale": ("Scale",)})
    alone = model.score([image], CONCEPTS_QUESTION, {"Plaque": ("Plaque",)})
    assert both["Plaque"] == pytest.approx(alone["Plaque"], abs=1e-6)
    own = forward(folder, "siglip", image, ["A photo with Plaque"]).sigmoid().log()
    assert alone["Plaque"] == pytest.approx(float(own), abs=1e-5)


def test_texts_are_encoded_once(folder, monkeypatch):
    model = load(folder, "clip", TWO)
    model.score([make_picture(1)], QUESTION, OPTIONS)
    monkeypatch.setattr(model._towers, "texts", lambda texts: pytest.fail("encoded again"))
    model.score([make_picture(2)], QUESTION, OPTIONS)


def test_texts_that_are_too_long_are_noted(folder, caplog):
    caplog.set_level(logging.WARNING, "eval")
    load(folder, "clip").score([make_picture(1)], QUESTION, {"a": ("very " * 100,), "b": ("short",)})
    assert "1 texts are longer than the 77 tokens" in caplog.text


def test_the_card_is_json_and_says_the_rule(folder):
    model = load(folder, "siglip")
    card = json.loads(json.dumps(model.card))
    assert card["closed_set"] == "embeddings"
    assert card["templates"]["classes"] == ["A photo of {}."]
    assert "best text" in card["class_rule"]
    assert not model.turns
    model.score([make_picture(1)], QUESTION, OPTIONS)
    assert json.loads(json.dumps(model.usage()))["bias"] == -1.5
    with pytest.raises(RespondentError, match="writes none"):
        model.reply([], (), "What is it?", 0)


def test_a_model_without_a_text_tower_is_refused(tmp_path):
    files = find_model(save_language_model(tmp_path / "text", "llama"))
    with pytest.raises(RespondentGone, match="a llama model, which has no image tower beside a text tower"):
        ContrastiveModel(files, CPU, ONE)


# ---- sentences as data


def test_the_bundled_sentences():
    default, dermatoscopy = read_templates(None, "skingpt4_15"), read_templates(None, "ham10000_7")
    assert "This is a skin image of {}" in default.classes
    assert ("This is skin image of {}", "This is skin image") in default.concepts
    assert dermatoscopy.classes == ("This is dermatoscopy of {}", "This is dermoscopy of {}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("classes: [no place]", "'classes' must be a list of sentences"),
        ("classes: ['a {}']\nconcepts: ['a {}']", "'concepts' must be a list of pairs"),
        ("classes: ['a {}']\nconcepts: [['a {}', 'b {}']]", "'concepts' must be a list of pairs"),
        ("[]", "'classes' must be a list"),
        ("a: [", "cannot be read"),
    ],
)
def test_sentences_that_cannot_be_used(tmp_path, text, message):
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(RespondentGone, match=message):
        read_templates(path, "skingpt4_15")
    with pytest.raises(RespondentGone, match="cannot be read"):
        read_templates(tmp_path / "none.yaml", "skingpt4_15")


class ATask:
    name = "skingpt4_15"


def test_the_command_line_is_the_model(folder, tmp_path, caplog):
    caplog.set_level(logging.INFO, "eval")
    own = tmp_path / "own.yaml"
    own.write_text("classes: ['a {} here']\nconcepts: [['with {}', 'with']]")
    parser = argparse.ArgumentParser()
    contrastive.add_arguments(parser)
    words = ["--model", save_towers(folder / "clip"), "--templates", str(own), "--device", "cpu"]
    args = parser.parse_args(words)
    args.dry_run = True
    model = contrastive.build(args, ATask())
    assert model.templates.classes == ("a {} here",)
    assert model._towers is None
    assert "would load" in caplog.text


# ---- open_clip


def test_open_clip_is_asked_for_by_name(tmp_path, monkeypatch):
    (tmp_path / "open_clip_config.json").write_text("{}")
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"weights")
    monkeypatch.setattr(dual_encoders, "find_spec", lambda name: None)
    with pytest.raises(RespondentGone, match="pip install open_clip_torch"):
        ContrastiveModel(find_model(str(tmp_path)), CPU, ONE)


@pytest.mark.skipif(importlib.util.find_spec("open_clip") is None, reason="open_clip_torch is not installed")
def test_open_clip_scores_are_its_own(tmp_path):
    import open_clip

    folder = save_open_clip(tmp_path / "open")
    scores = ContrastiveModel(find_model(folder), CPU, ONE).score([make_picture(1)], QUESTION, OPTIONS)
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")([f"A photo of {name}." for name in OPTIONS])
    with torch.no_grad():
        image, text, scale = model.eval()(preprocess(make_picture(1))[None], tokens)[:3]
    expected = (scale * image @ text.T)[0].log_softmax(0)
    np.testing.assert_allclose(list(scores.values()), expected.numpy(), atol=1e-5)


def test_nothing_that_a_configuration_names_is_fetched(monkeypatch):
    """A model of open_clip may name a text network of the hub."""
    monkeypatch.setattr(socket.socket, "connect", lambda *args: pytest.fail("the network was asked"))
    with offline(), pytest.raises(OSError, match=r"offline|connect|cached"):
        AutoModel.from_pretrained("someone/a-text-network-that-is-not-here")
