"""Whole vision-language models of seven families: likelihoods against the models' own forward, texts, refusals."""

import argparse
import importlib.util
import json
import logging
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from eval.arms import transformers_vlm
from eval.arms.models import likelihood
from eval.arms.models.likelihood import CACHED, COMPLETE
from eval.arms.models.loading import Placement, find_model
from eval.arms.respondent import RespondentError, RespondentGone
from eval.arms.transformers_vlm import TransformersModel
from skingpt4.generation.questions import CONCEPTS_QUESTION
from tests.support.tiny import make_picture, save_language_model
from tests.support.tiny_vlm import FAMILIES, save_vlm

CPU = Placement(torch.device("cpu"), torch.float32)
QUESTION = "What is wrong with my skin?"
OPTIONS = {"one": ("psoriasis",), "two": ("melanoma", "a nevus of the skin"), "three": ("eczema",)}
FORM = "This could be a skin disease image of {disease}."
EVERY = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("vlm")


def load(folder, family, **changes):
    files = find_model(save_vlm(folder / family, family))
    template = "plain" if family == "paligemma" else None
    return TransformersModel(files, CPU, **{"template": template, "max_new_tokens": 8, **changes})


def direct(folder, family, image, sentences):
    """(id, log-probability) of all tokens of each sentence: the model's own forward over complete conversations."""
    model = AutoModelForImageTextToText.from_pretrained(folder / family).eval()
    processor = AutoProcessor.from_pretrained(folder / family)
    rows = []
    for sentence in sentences:
        if family == "paligemma":  # its own way: a suffix, which it marks as answer and ends
            text = processor.image_token + QUESTION
            inputs = processor(text=[text], images=[image], suffix=[sentence], return_tensors="pt")
            answer = inputs["input_ids"][0][inputs["token_type_ids"][0] == 1][:-1]
            end = 1
        else:
            turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}
            said = {"role": "assistant", "content": [{"type": "text", "text": sentence}]}
            text = processor.apply_chat_template([turn, said])
            kept = text[: text.rindex(sentence) + len(sentence)]
            special = not text.startswith("<bos>")
            inputs = processor(text=[kept], images=[[image]], return_tensors="pt", add_special_tokens=special)
            opened = processor.apply_chat_template([turn], add_generation_prompt=True)
            before = processor(text=[opened], images=[[image]], add_special_tokens=special)["input_ids"][0]
            answer, end = inputs["input_ids"][0][len(before) :], 0
            assert inputs["input_ids"][0][: len(before)].tolist() == list(before)
        inputs.pop("labels", None)
        with torch.no_grad():
            log_probs = model(**inputs).logits[0].log_softmax(-1)
        last = inputs["input_ids"].shape[1] - end
        places = range(last - len(answer), last)
        ids = [int(inputs["input_ids"][0, place]) for place in places]
        assert ids == answer.tolist()
        rows.append([(i, float(log_probs[place - 1, i])) for i, place in zip(ids, places, strict=True)])
    return rows


@EVERY
def test_scores_are_those_of_a_direct_forward(folder, family):
    model = load(folder, family)
    image = make_picture(3)
    scores = model.score([image], QUESTION, OPTIONS)
    sentences = [FORM.format(disease=text) for texts in OPTIONS.values() for text in texts]
    tokens = direct(folder, family, image, sentences)
    shared = next(
        n for n in range(99) if len({row[n][0] for row in tokens}) > 1
    )  # they begin with the same words
    one, two, nevus, three = (sum(log_prob for _, log_prob in row[shared:]) for row in tokens)
    expected = {"one": one, "two": math.log(math.exp(two) + math.exp(nevus)), "three": three}
    assert scores == pytest.approx(expected, abs=2e-4)
    assert model.usage()["closed_set_reading"] == CACHED


@EVERY
def test_both_ways_of_reading_and_all_batch_sizes_agree(folder, family):
    image, results = make_picture(4), []
    model = load(folder, family)
    for way in (CACHED, COMPLETE):
        for size in (1, 3, 16):
            model._likelihood = likelihood.Likelihood(model._loaded(), size)
            model._likelihood.way = way
            results.append(list(model.score([image], QUESTION, OPTIONS).values()))
    for result in results[1:]:
        assert result == pytest.approx(results[0], abs=2e-4)


@EVERY
def test_the_picture_and_the_question_count(folder, family):
    model = load(folder, family)
    first = model.score([make_picture(1)], QUESTION, OPTIONS)
    assert first == model.score([make_picture(1)], QUESTION, OPTIONS)
    assert first != pytest.approx(model.score([make_picture(2)], QUESTION, OPTIONS), abs=1e-3)
    assert first != pytest.approx(model.score([make_picture(1)], "What is it?", OPTIONS), abs=1e-3)


@EVERY
def test_greedy_answers_are_those_of_generate(folder, family):
    model = load(folder, family)
    image = make_picture(5)
    reply = model.reply([image], [("Hello?", "Yes.")], "What is it?", seed=7)
    network = AutoModelForImageTextToText.from_pretrained(folder / family).eval()
    inputs = model.format.prompt([image], [("Hello?", "Yes.")], "What is it?").inputs
    network.generation_config.pad_token_id = 0
    ids = network.generate(**inputs, max_new_tokens=8, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert reply.text == model.format.decode(ids.tolist())
    assert reply.num_tokens == len(ids)
    assert 0 < reply.seconds_to_first_token <= reply.seconds
    assert model.reply([image], [("Hello?", "Yes.")], "What is it?", seed=8).text == reply.text


@EVERY
def test_the_conversation_is_read(folder, family):
    model = load(folder, family)
    text = model.format.prompt([make_picture(0)], [("First?", "It is red.")], "Second?").text
    places = [text.index(part) for part in ("First?", "It is red.", "Second?")]
    assert places == sorted(places)
    two = model.format.prompt([make_picture(0), make_picture(1)], [], "Which?")
    one = model.format.prompt([make_picture(0)], [], "Which?")
    assert two.inputs["input_ids"].shape[1] > one.inputs["input_ids"].shape[1]
    assert model.score([make_picture(0), make_picture(1)], "Which?", OPTIONS).keys() == OPTIONS.keys()


def test_a_seed_makes_a_drawn_answer_repeatable(folder):
    model = load(folder, "llava", temperature=1.0)
    state = torch.random.get_rng_state()
    texts = [model.reply([make_picture(0)], [], QUESTION, seed).text for seed in (1, 2, 1)]
    assert texts[0] == texts[2] != texts[1]
    assert torch.equal(torch.random.get_rng_state(), state)


def test_concepts_are_scored_with_their_own_sentence(folder):
    model = load(folder, "llava")
    seen = []
    model.format.answers = lambda *args: (seen.extend(args[3]), (0, [[5, 6], [7]]))[1]
    model.score([make_picture(0)], CONCEPTS_QUESTION, {"Plaque": ("Plaque",), "Scale": ("Scale",)})
    assert seen[0] == (
        "This is a skin disease image with the following medical features (clinical concepts): Plaque."
    )


def test_the_card_is_json_and_names_the_files(folder):
    card = json.loads(json.dumps(load(folder, "llava").card))
    assert card["kind"] == "transformers"
    assert card["architecture"] == "llava"
    assert card["closed_set"] == "logprobs"
    assert len(card["sha256"]) == 64
    assert card["precision"] == "float32"
    changed = folder / "changed"
    shutil.copytree(folder / "llava", changed)
    (changed / "chat_template.jinja").write_text("{{ messages }}")
    assert find_model(str(changed)).sha256 != card["sha256"]


def test_a_half_precision_model_scores(folder):
    files = find_model(save_vlm(folder / "llava", "llava"))
    half = TransformersModel(files, Placement(torch.device("cpu"), torch.bfloat16), max_new_tokens=4)
    whole = load(folder, "llava")
    scores = half.score([make_picture(0)], QUESTION, OPTIONS)
    assert scores == pytest.approx(whole.score([make_picture(0)], QUESTION, OPTIONS), rel=0.05)
    assert half.reply([make_picture(0)], [], QUESTION, 0).num_tokens <= 4


@pytest.mark.parametrize(
    ("options", "card"),
    [
        (("--device-map", "auto"), {"device_map": "auto"}),
        (("--quantization", "nf4"), {"quantization": "nf4"}),
        (("--quantization", "int8"), {"quantization": "int8"}),
    ],
)
def test_a_model_that_is_quantised_or_spread_answers_and_scores(folder, options, card):
    if "nf4" in options or "int8" in options:
        pytest.importorskip("bitsandbytes")
    args = parsed("--model", save_vlm(folder / "llava", "llava"), "--dtype", "float32", *options)
    model = transformers_vlm.build(args, ATask())
    assert {key: model.card.get(key) for key in ("device_map", "quantization") if key in model.card} == card
    whole = load(folder, "llava")
    scores = model.score([make_picture(0)], QUESTION, OPTIONS)
    exact = whole.score([make_picture(0)], QUESTION, OPTIONS)
    if "device_map" in card:
        assert scores == pytest.approx(exact, abs=2e-4)
    else:
        assert scores == pytest.approx(exact, rel=0.2)
        assert scores != pytest.approx(exact, abs=1e-6), "as if nothing had been quantised"
    assert 0 < model.reply([make_picture(0)], [], QUESTION, 0).num_tokens <= 5
    assert "quantization" not in whole.card, "cards of earlier versions stay as they are"


def test_options_that_contradict_each_other_or_lack_their_library(folder, monkeypatch):
    model = ("--model", save_vlm(folder / "llava", "llava"))
    with pytest.raises(RespondentGone, match="chooses the devices itself; leave out --device cpu"):
        transformers_vlm.build(parsed(*model, "--device-map", "auto", "--device", "cpu"), ATask())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RespondentGone, match="--quantization nf4 needs bitsandbytes"):
        transformers_vlm.build(parsed(*model, "--quantization", "nf4"), ATask())


def test_a_cache_that_cannot_be_continued_is_not_used(folder, monkeypatch):
    monkeypatch.setattr(likelihood, "_REUSABLE", ())
    model = load(folder, "llava")
    model.score([make_picture(0)], QUESTION, OPTIONS)
    assert model.usage()["closed_set_reading"] == COMPLETE


def test_a_model_that_reads_backwards_has_no_likelihood(folder):
    """PaliGemma without the marks of an answer reads the answer as part of the question."""
    model = load(folder, "paligemma")
    wrong = likelihood.Likelihood(model._loaded(), 4)
    wrong._answer_type = 0
    prompt = model.format.prompt([make_picture(0)], (), QUESTION)
    _, answers = model.format.answers(prompt, 1, QUESTION, ["psoriasis is it", "melanoma is it"])
    with pytest.raises(RespondentGone, match="in the light of the answer"):
        wrong.choose(prompt.inputs, 0, answers)


# ---- what cannot be used


def test_no_such_folder_and_no_such_name(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(RespondentGone, match="no such folder"):
        find_model(str(tmp_path / "nothing"))
    with pytest.raises(RespondentGone, match="nothing is fetched unasked; add --allow-download"):
        find_model("someone/some-model-that-is-not-here")
    with pytest.raises(RespondentGone, match="neither a folder here nor a name"):
        find_model("some one/model?")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RespondentGone, match="holds no weights"):
        find_model(str(tmp_path / "empty"))


def test_a_language_model_without_eyes_is_refused(tmp_path):
    files = find_model(save_language_model(tmp_path / "text", "llama"))
    with pytest.raises(
        RespondentGone, match="is a llama model, which does not answer questions about pictures"
    ):
        TransformersModel(files, CPU)


def test_a_model_without_a_template_is_refused(folder):
    with pytest.raises(RespondentGone, match="has no chat template; add --chat-template FILE"):
        load(folder, "paligemma", template=None)


def test_a_template_that_leaves_out_the_question_is_refused(folder):
    with pytest.raises(RespondentGone, match="leaves out the question"):
        load(folder, "llava", template="<image>{{ messages[0].role }}")
    with pytest.raises(RespondentGone, match="does not take this conversation"):
        load(folder, "llava", template="{{ raise_exception('Only one turn') }}")


def test_missing_weights_are_not_made_up(folder, tmp_path):
    save_vlm(folder / "llava", "llava")
    shutil.copytree(folder / "llava", tmp_path / "part")
    path = tmp_path / "part" / "model.safetensors"
    tensors = load_file(path)
    name = next(key for key in sorted(tensors) if "projector" in key)
    del tensors[name]
    save_file(tensors, path, {"format": "pt"})
    model = TransformersModel(find_model(str(tmp_path / "part")), CPU)
    with pytest.raises(RespondentGone, match="1 weights of the network are not in its files"):
        model.reply([make_picture(0)], [], QUESTION, 0)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(RespondentGone, match="cannot be loaded"):
        model.reply([make_picture(0)], [], QUESTION, 0)


def test_a_processor_of_another_model_is_named(folder, tmp_path):
    save_vlm(folder / "llava", "llava")
    shutil.copytree(folder / "llava", tmp_path / "mixed")
    path = tmp_path / "mixed" / "processor_config.json"
    settings = json.loads(path.read_text())
    settings["patch_size"] = 7
    path.write_text(json.dumps(settings))
    model = TransformersModel(find_model(str(tmp_path / "mixed")), CPU)
    with pytest.raises(RespondentError, match="disagree about the image tokens") as error:
        model.reply([make_picture(0)], [], QUESTION, 0)
    assert not isinstance(error.value, RespondentGone)


def test_out_of_memory_is_a_sentence(folder, monkeypatch):
    model = load(folder, "llava")

    def full(*args, **inputs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(model._loaded(), "generate", full)
    with pytest.raises(RespondentError, match="out of memory on cpu; lower --batch-size"):
        model.reply([make_picture(0)], [], QUESTION, 0)
    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", full)
    model._model = None
    with pytest.raises(
        RespondentGone, match="does not fit the memory of cpu in float32; choose --quantization nf4"
    ):
        model.reply([make_picture(0)], [], QUESTION, 0)


# ---- the command line


def parsed(*words):
    parser = argparse.ArgumentParser()
    transformers_vlm.add_arguments(parser)
    for name, value in {"temperature": 0.0, "max_new_tokens": 5, "dry_run": False}.items():
        parser.set_defaults(**{name: value})
    return parser.parse_args(words)


class ATask:
    answer_form = None


def test_the_command_line_is_the_model(folder, tmp_path, caplog):
    caplog.set_level(logging.INFO, "eval")
    template = tmp_path / "own.jinja"
    template.write_text("<image>{% for m in messages %}{{ m.content[-1].text }} {% endfor %}")
    args = parsed(
        "--model", save_vlm(folder / "llava", "llava"), "--chat-template", str(template), "--no-scores"
    )
    args.dry_run = True
    model = transformers_vlm.build(args, ATask())
    assert model.card["chat_template"] == template.read_text()
    assert model.card["closed_set"] is None
    assert not model.scores
    assert model._model is None
    assert "would load" in caplog.text
    assert "GiB of weights" in caplog.text


def test_a_template_file_that_is_not_there(folder):
    args = parsed("--model", save_vlm(folder / "llava", "llava"), "--chat-template", "nothing.jinja")
    with pytest.raises(RespondentGone, match="cannot be read"):
        transformers_vlm.build(args, ATask())
    assert not Path("nothing.jinja").exists()
