"""Scores of a closed set of answers against each complete answer, read one by one."""

import random

import pytest
import torch

from skingpt4.generation.scoring import score_answers, score_sets, score_tree, split_candidates
from skingpt4.generation.tree import Tree, takes_trees
from tests.support.tiny import (
    FAMILIES,
    conversation,
    make_model,
    make_queries,
    make_tokenizer,
    save_language_model,
)

ANSWERS = (
    "This could be a skin disease image of psoriasis.",
    "This could be a skin disease image of acne.",
    "This could be a skin disease image of psoriasis and erythema of unknown cause.",
    "This could be",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("scoring")


@torch.no_grad()
def log_probability(model, prompt, queries, answer, skip):
    """log p(answer | prompt) without its first `skip` tokens, from one full forward pass."""
    ids = model.tokenizer(answer, add_special_tokens=False)["input_ids"]
    embeds = model.embed(torch.tensor([prompt.input_ids + ids]), queries)
    logs = model.language_model(inputs_embeds=embeds, use_cache=False).logits[0].log_softmax(-1)
    start = len(prompt.input_ids) - 1
    return float(sum(logs[start + n, token] for n, token in enumerate(ids) if n >= skip))


@pytest.mark.parametrize("answers", [ANSWERS[:3], ANSWERS, ("Acne.", "Psoriasis is it.", "no")])
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_equal_each_answer_read_alone(family, answers, folder):
    model = make_model(folder, family)
    prompts = [
        conversation(model, "What is it?"),
        conversation(model, "Is this an image of my skin or of a plaque?", num_images=2),
    ]
    queries = make_queries(3)
    own = (queries[:1], queries[1:])
    shared, tails = split_candidates(model.tokenizer, answers)
    scores = score_answers(model, prompts, queries, answers)
    expected = torch.tensor(
        [
            [log_probability(model, prompt, pictures, answer, len(shared)) for answer in answers]
            for prompt, pictures in zip(prompts, own, strict=True)
        ]
    )
    assert len({len(tail) for tail in tails}) > 1
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("family", "window"), [*((family, None) for family in FAMILIES), ("gemma2", 400), ("mistral", 400)]
)
def test_hundreds_of_sentences_score_as_each_read_alone(family, window, folder):
    """Random names that begin, and end, alike; some are the beginning of others, one is there twice."""
    if window:  # longer than all texts, as in real models, so that trees are read
        folder = folder / "wide"
        save_language_model(folder / family, family, sliding_window=window)
    model = make_model(folder, family)
    assert takes_trees(model, 200) == (window is not None or family not in ("gemma2", "mistral"))
    rng = random.Random(family)
    names = ["".join(rng.choices(("ac", "ne", "ps", "o", " plaque"), k=rng.randint(1, 5))) for _ in range(40)]
    sentences = [f"A skin disease image of {name}." for name in [*names, names[0]]]
    prompts = [
        conversation(model, "What is it?"),
        conversation(model, "Is this an image of my skin or of a plaque?", num_images=2),
    ]
    queries = make_queries(3)
    own = (queries[:1], queries[1:])
    shared, _ = split_candidates(model.tokenizer, sentences)
    expected = torch.tensor(
        [
            [log_probability(model, prompt, pictures, sentence, len(shared)) for sentence in sentences]
            for prompt, pictures in zip(prompts, own, strict=True)
        ]
    )
    scores = score_tree(model, prompts, queries, sentences)
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-4)
    in_small_passes = score_tree(model, prompts, queries, sentences, max_tokens=1)
    torch.testing.assert_close(in_small_passes, expected, rtol=1e-4, atol=1e-4)


def test_hundreds_of_sentences_are_read_in_rows_and_their_last_tokens_not_at_all(folder, monkeypatch):
    model = make_model(folder)
    prompt = conversation(model, "What is it?", num_images=0)
    sentences = [f"A {a}{b}{c}." for a in "aeiou" for b in "rstlm" for c in "pqxyz"]
    shapes = []
    embed = model.embed
    monkeypatch.setattr(model, "embed", lambda ids, queries: shapes.append(ids.shape) or embed(ids, queries))
    score_tree(model, [prompt], None, sentences)
    score_answers(model, [prompt], None, sentences)
    (num_rows, length), whole = shapes
    start = len(prompt.input_ids) + len(split_candidates(model.tokenizer, sentences)[0])
    assert whole[0] == 1
    assert num_rows > 1
    assert num_rows * (length - start) < whole[1] - start - len(sentences) + num_rows * 10


@pytest.mark.parametrize("num_images", [0, 1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_sets_that_share_their_images_score_as_each_on_its_own(family, num_images, folder):
    model = make_model(folder, family)
    questions = ("What is it?", "What are the plaques?", "Which?")
    prompts = [conversation(model, question, num_images=num_images) for question in questions]
    queries = make_queries(num_images) if num_images else None
    sets = [ANSWERS[:3], ("Acne.", "Psoriasis is it.", "no"), ANSWERS[:2]]
    scores_of_sets = score_sets(model, prompts, queries, sets)
    for prompt, answers, scores in zip(prompts, sets, scores_of_sets, strict=True):
        alone = score_answers(model, [prompt], queries, answers)[0]
        torch.testing.assert_close(scores, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("reason", ["no mask", "window"])
def test_families_that_take_no_tree_read_each_text_as_a_row(reason, folder, monkeypatch):
    model = make_model(folder)
    prompts = [conversation(model, "What is it?"), conversation(model, "Which?", num_images=2)]
    expected = score_answers(model, prompts, make_queries(3), ANSWERS)
    if reason == "no mask":
        monkeypatch.setattr(model.language_model, "takes_mask", False, raising=False)
    else:
        monkeypatch.setattr(model.language_model.config, "sliding_window", 8, raising=False)
    monkeypatch.setattr(Tree, "sees", lambda tree: pytest.fail("a tree was read"))
    for score in (score_answers, score_tree):
        scores = score(model, prompts, make_queries(3), ANSWERS, max_tokens=100)
        torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-4)


def test_sets_are_read_in_one_pass_and_what_they_share_once(folder, monkeypatch):
    model = make_model(folder)
    prompts = [conversation(model, question) for question in ("What is it?", "What are the plaques?")]
    shown = []
    embed = model.embed

    def counted(input_ids, queries):
        shown.append((input_ids < 0).sum().item())
        assert input_ids.shape[1] < sum(len(prompt.input_ids) for prompt in prompts) + 60
        return embed(input_ids, queries)

    monkeypatch.setattr(model, "embed", counted)
    score_sets(model, prompts, make_queries(1), [ANSWERS[:3], ANSWERS[:2]])
    assert shown == [make_queries(1).shape[1]]


def test_answers_of_one_token_need_no_second_pass(folder):
    model = make_model(folder)
    prompts = [conversation(model, "What is it?", num_images=0)]
    letters = ("A", "B", "C")
    shared, tails = split_candidates(model.tokenizer, letters)
    assert all(len(tail) == 1 for tail in tails)
    expected = [[log_probability(model, prompts[0], None, letter, len(shared)) for letter in letters]]
    scores = score_answers(model, prompts, None, letters)
    torch.testing.assert_close(scores, torch.tensor(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "falcon"])
def test_candidates_are_split_by_ids_and_each_keeps_one(family):
    tokenizer = make_tokenizer(family)
    complete = [tokenizer(answer, add_special_tokens=False)["input_ids"] for answer in ANSWERS]
    shared, tails = split_candidates(tokenizer, ANSWERS[:3])
    assert len(shared) > 3
    assert [shared + tail for tail in tails] == complete[:3]
    assert len({tail[0] for tail in tails}) > 1
    acne = tokenizer("acne", add_special_tokens=False)["input_ids"]
    both = tokenizer("acne~", add_special_tokens=False)["input_ids"]
    assert both[: len(acne)] == acne  # one answer is the beginning of another
    shared, tails = split_candidates(tokenizer, ["acne~", "acne"])
    assert (shared, tails) == (acne[:-1], [both[len(acne) - 1 :], acne[-1:]])
    assert split_candidates(tokenizer, ["acne"]) == (acne[:-1], [acne[-1:]])
