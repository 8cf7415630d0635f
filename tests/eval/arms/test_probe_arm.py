"""Probes as arms: features against the encoder itself, a planted signal, the cache, overlap and refusals."""

import argparse
import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image

from eval.arms import probe_arm
from eval.arms.asking import AskSettings, answer_with
from eval.arms.models.features import (
    MAX_ENCODED,
    QUERIES,
    TOKENS,
    EncoderFeatures,
    TowerFeatures,
    cached_features,
)
from eval.arms.models.loading import Placement, find_model
from eval.arms.models.training import overlap_facts, read_training
from eval.arms.respondent import RespondentError, RespondentGone
from eval.asking.answers import read_run
from eval.measures.probing import FLOOR
from eval.tasks import load_task
from skingpt4.generation.questions import CONCEPTS_QUESTION
from skingpt4.model.build import build_encoder
from skingpt4.records.images import to_tensor
from skingpt4.records.manifest import read_manifest
from tests.support.tiny import make_picture, tiny_config
from tests.support.tiny_towers import save_towers

CPU = Placement(torch.device("cpu"), torch.float32)
COLOURS = {"psoriasis": (200, 40, 40), "melanoma": (40, 30, 30), "eczema": (220, 180, 60)}
CLASSES = {
    "psoriasis": "psoriasis_and_lichen_planus",
    "melanoma": "melanoma_nevi_moles",
    "eczema": "dermatitis",
}


def write_records(path, count, seed, patients=True, **fields):
    """Pictures whose colour is their disease, each of a patient of its own."""
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(count):
        disease = list(COLOURS)[number % 3]
        pixels = np.clip(np.array(COLOURS[disease]) + rng.normal(0, 25, (48, 48, 3)), 0, 255)
        name = f"{path.stem}_{number}.png"
        Image.fromarray(pixels.astype(np.uint8)).save(path.parent / name)
        concepts = ["Plaque"] if disease == "psoriasis" else ["Macule"]
        row = {"image": name, "disease": disease, "class": CLASSES[disease], "concepts": concepts}
        row |= {"patient_id": f"{path.stem}-{number}", "case_id": f"{path.stem}-{number}"} if patients else {}
        lines.append(json.dumps(row | fields) + "\n")
    path.write_text("".join(lines))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe")
    tiny_config(folder)
    write_records(folder / "fit.jsonl", 36, seed=1)
    write_records(folder / "cases.jsonl", 9, seed=2)
    save_towers(folder / "clip")
    return folder


def parsed(folder, *words, train="fit.jsonl", model=True):
    parser = argparse.ArgumentParser()
    probe_arm.add_arguments(parser)
    tower = ["--model", str(folder / "clip")] if model else []
    cache = ["--feature-cache", str(folder / "cache")]
    args = parser.parse_args(["--train", str(folder / train), *tower, *cache, *words])
    args.cases, args.seed, args.dry_run = folder / "cases.jsonl", 0, False
    return args


def build(folder, *words, **options):
    return probe_arm.build(parsed(folder, *words, **options), load_task())


@pytest.mark.parametrize("classifier", ["logistic", "neighbours"])
def test_a_planted_signal_is_recovered(folder, tmp_path, classifier):
    model = build(folder, "--classifier", classifier)
    answer_with(model, AskSettings(folder / "cases.jsonl", tmp_path, "probe", load_task()))
    run = read_run(tmp_path)
    scores = {answer.key.case_id: answer.fields["class_scores"] for answer in run.arms["probe"].of("scores")}
    assert len(scores) == 9
    for name, row in scores.items():
        assert max(row, key=row.get) == run.cases[name]["class"]
        assert row["herpes"] == pytest.approx(FLOOR, abs=1e-3)
    meta = run.arms["probe"].meta
    assert meta["kind"] == "probe"
    assert meta["closed_set"] == "probe"
    assert meta["overlap_with_training"] == []
    assert meta["usage"]["probe"]["num_examples"] == 36
    assert meta["usage"]["peak_memory_bytes"] > 0
    assert meta["hardware"]["torch"] == torch.__version__


def test_the_features_are_those_of_the_encoder(folder):
    config = tiny_config(folder)
    encoder = build_encoder(config)
    images = [make_picture(1), make_picture(2)]
    vision = encoder.vision_encoder
    pixels = torch.stack([to_tensor(i, config.vision.image_size, vision.mean, vision.std) for i in images])
    with torch.no_grad():
        expected = {TOKENS: vision(pixels).mean(1), QUERIES: encoder(pixels).mean(1)}
    for kind, features in expected.items():
        torch.testing.assert_close(EncoderFeatures(config, kind, torch.device("cpu"))(images), features)


def test_the_cache_holds_them_and_an_interrupted_one_is_continued(folder, tmp_path, monkeypatch):
    path = folder / "fit.jsonl"
    records = read_manifest(path)
    source = TowerFeatures(find_model(str(folder / "clip")), CPU)
    direct = source([Image.open(record.image_path).convert("RGB") for record in records])
    calls = []

    class Failing:
        identity = source.identity

        def __call__(self, images):
            calls.append(len(images))
            if len(calls) == 3:
                raise KeyboardInterrupt
            return source(images)

    with pytest.raises(KeyboardInterrupt):
        cached_features(Failing(), path, records, tmp_path)
    features = cached_features(Failing(), path, records, tmp_path)
    np.testing.assert_allclose(features, direct.numpy(), atol=1e-3)
    assert calls == [1, MAX_ENCODED, MAX_ENCODED, 1, MAX_ENCODED, 36 - 2 * MAX_ENCODED]
    cached_features(Failing(), path, records, tmp_path)
    assert len(calls) == 6


def test_concepts_are_scored_by_a_regression_each(folder):
    model = build(folder)
    options = {"Plaque": ("Plaque",), "Macule": ("Macule",), "Vesicle": ("Vesicle",)}
    red, dark = (Image.new("RGB", (48, 48), COLOURS[name]) for name in ("psoriasis", "melanoma"))
    of_red, of_dark = (model.score([image], CONCEPTS_QUESTION, options) for image in (red, dark))
    assert of_red["Plaque"] > np.log(0.5) > of_dark["Plaque"]
    assert of_red["Macule"] < np.log(0.5) < of_dark["Macule"]
    assert of_red["Vesicle"] == FLOOR
    np.testing.assert_allclose(np.exp(of_red["Plaque"]) + np.exp(of_red["Macule"]), 1, atol=1e-6)


def test_several_pictures_have_the_mean_of_their_probabilities(folder):
    model = build(folder)
    options = {name: () for name in CLASSES.values()}
    red, dark = (Image.new("RGB", (48, 48), COLOURS[name]) for name in ("psoriasis", "melanoma"))
    one, two, both = (model.score(images, "What?", options) for images in ([red], [dark], [red, dark]))
    for name in options:
        assert np.exp(both[name]) == pytest.approx((np.exp(one[name]) + np.exp(two[name])) / 2, abs=1e-6)


def test_our_encoder_by_its_configuration(folder, tmp_path, caplog):
    caplog.set_level(logging.INFO, "eval")
    config = tmp_path / "own.yaml"
    c = tiny_config(folder)
    config.write_text(
        "step: step1\noutput_dir: run\n"
        f"vision: {{model: {c.vision.model}, image_size: 56, norm_eps: 1.0e-5, weights: {c.vision.weights}, "
        f"model_args: {json.dumps(c.vision.model_args)}}}\n"
        f"qformer: {{weights: {c.qformer.weights}, num_query_tokens: 4, width: 32, num_layers: 2, num_heads: 2, "
        "intermediate_width: 64}\n"
        f"language: {{model: {c.language.model}}}\ndata: {{train: [{c.data.train[0]}]}}\n"
    )
    model = build(folder, "--encoder", str(config), "--features", "queries", model=False)
    assert model.card["features"].endswith("-queries")
    scores = model.score([make_picture(1)], "What?", {name: () for name in load_task().classes})
    assert sum(np.exp(value) for value in scores.values()) == pytest.approx(1, abs=1e-6)
    assert "logistic on 36 pictures of 3 classes" in caplog.text


def test_the_card_is_json_and_names_the_training(folder):
    card = json.loads(json.dumps(build(folder).card))
    assert card["train_sha256"] != [None]
    assert card["classifier"] == "logistic"
    assert len(card["sha256"]) == 64
    with pytest.raises(RespondentError, match="writes no texts"):
        build(folder).reply([], (), "What?", 0)


def test_a_dry_run_fits_nothing(folder, caplog):
    caplog.set_level(logging.INFO, "eval")
    args = parsed(folder)
    args.dry_run = True
    model = probe_arm.build(args, load_task())
    assert "would fit logistic on 36 labelled of 36 records" in caplog.text
    assert model._probe is None


# ---- what is refused


def test_a_training_with_the_cases_in_it(folder, tmp_path):
    with pytest.raises(RespondentGone, match=r"shares records with the cases: 9 by .* add --allow-overlap"):
        build(folder, train="cases.jsonl")
    facts = build(folder, "--allow-overlap", train="cases.jsonl").card
    assert "9 by" in facts["overlap_with_training"][0]


def test_another_picture_of_a_patient_among_the_cases(folder, tmp_path):
    path = write_records(tmp_path / "same.jsonl", 6, seed=9, patient_id="cases-0")
    with pytest.raises(RespondentGone, match="shares records with the cases"):
        overlap_facts(read_manifest(path), folder / "cases.jsonl", allowed=False)


def test_pictures_that_cannot_be_compared(folder, tmp_path):
    path = tmp_path / "gone.jsonl"
    path.write_text(json.dumps({"image": "gone.png", "class": "herpes"}) + "\n")
    with pytest.raises(RespondentGone, match="cannot be checked"):
        overlap_facts(read_manifest(path), folder / "cases.jsonl", allowed=False)


def test_a_training_without_the_labels(folder, tmp_path):
    path = write_records(tmp_path / "bare.jsonl", 3, seed=4, **{"class": None})
    with pytest.raises(RespondentGone, match="has one of the labels of task skingpt4_15 under 'class'"):
        read_training([path], load_task())


def test_labels_without_examples_are_named(folder, caplog):
    caplog.set_level(logging.WARNING, "eval")
    training = read_training([folder / "fit.jsonl"], load_task())
    assert len(training.labels) == 36
    assert "no example of acne_and_rosacea, malignant_lesions" in caplog.text


def test_an_encoder_or_a_model_but_not_both(folder):
    with pytest.raises(RespondentGone, match="name either --encoder"):
        build(folder, "--encoder", "configs/tiny/step2.yaml")
    with pytest.raises(RespondentGone, match="name either --encoder"):
        build(folder, model=False)


def test_a_training_that_no_probe_can_be_fitted_on_ends_the_arm(folder, tmp_path):
    write_records(folder / "one.jsonl", 9, seed=6, **{"class": "herpes"})
    with pytest.raises(RespondentGone, match="--train: a probe needs two classes"):
        build(folder, train="one.jsonl").score([make_picture(1)], "What?", {"herpes": (), "dermatitis": ()})
    write_records(folder / "gone.jsonl", 9, seed=7, sha256="0" * 64)
    (folder / "gone_4.png").unlink()
    with pytest.raises(RespondentGone, match=r"gone_4\.png: no such picture"):
        build(folder, train="gone.jsonl").score([make_picture(1)], "What?", {"herpes": (), "dermatitis": ()})


def test_concepts_that_no_record_knows(folder, tmp_path):
    write_records(folder / "plain.jsonl", 12, seed=5, concepts=None)
    with pytest.raises(RespondentGone, match="no training record has concepts"):
        build(folder, train="plain.jsonl").score(
            [make_picture(1)], CONCEPTS_QUESTION, {"Plaque": ("Plaque",)}
        )
