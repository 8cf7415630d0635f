"""The composed network against the same sums written out: loss, gradients, answers."""

import copy

import pytest
import torch
from torch.nn import functional as F

from skingpt4.model.build import build_encoder, encoder_device
from skingpt4.model.network import ImageEncoder, cut_at
from skingpt4.model.prompts import IGNORED, IMAGE_TOKEN, Encoded
from tests.support.tiny import (
    FAMILIES,
    IMAGE_SIZE,
    NUM_QUERIES,
    batch_of,
    conversation,
    make_encoder,
    make_model,
    make_queries,
    tiny_config,
)

QUESTIONS = ("What is it?", "What is wrong with my skin?", "Is this image of psoriasis, scale or plaque?")
ANSWERS = ("Acne.", "This is a skin disease image of psoriasis. See a doctor.", "")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture
def model(folder):
    return make_model(folder)


def loss_written_out(model, queries, question, answer):
    """The original's training example, piece by piece, through full-length logits (batch of one)."""
    tokenizer, table = model.tokenizer, model.language_model.get_input_embeddings()

    def ids_of(text):
        return tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"][0]

    target = ids_of(answer + "###")
    parts = [
        *([] if tokenizer.bos_token_id is None else [table(torch.tensor([tokenizer.bos_token_id]))]),
        table(ids_of("###Human: <Img>")),
        queries @ model.projection.weight.T + model.projection.bias,
        table(ids_of("</Img> " + question + " ###Assistant: ")),
        table(target),
    ]
    embeds = torch.cat(parts)[None]
    labels = torch.full(embeds.shape[:2], IGNORED)
    labels[0, -len(target) :] = target
    logits = model.language_model(inputs_embeds=embeds).logits
    return F.cross_entropy(logits[0, :-1], labels[0, 1:], reduction="sum"), len(target)


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradient_equal_the_sum_written_out(family, folder):
    model = make_model(folder, family)
    queries = make_queries(3)
    rows = [conversation(model, q, a) for q, a in zip(QUESTIONS, ANSWERS, strict=True)]

    expected = [loss_written_out(model, *args) for args in zip(queries, QUESTIONS, ANSWERS, strict=True)]
    expected_loss = sum(loss for loss, _ in expected)
    expected_gradients = torch.autograd.grad(expected_loss, list(model.projection.parameters()))

    loss, count = model(**batch_of(rows), queries=queries)  # one right-padded batch
    assert int(count) == sum(number for _, number in expected)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=1e-5)
    gradients = torch.autograd.grad(loss, list(model.projection.parameters()))
    for gradient, expected in zip(gradients, expected_gradients, strict=True):
        assert expected.abs().max() > 1e-2
        torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-5)


def test_what_stands_in_the_padding_does_not_matter(model):
    batch = batch_of([conversation(model, q, a) for q, a in zip(QUESTIONS, ANSWERS, strict=True)])
    loss, _ = model(**batch, queries=make_queries(3))
    batch["input_ids"][batch["attention_mask"] == 0] = 50
    assert torch.equal(model(**batch, queries=make_queries(3))[0], loss)


def test_training_changes_the_projection_and_nothing_else(folder):
    model = make_model(folder, encoder=make_encoder()).train()
    assert not any(
        module.training for name, module in model.named_modules() if name not in ("", "projection")
    )
    assert not any(module.training for module in model.encoder.modules())
    before = copy.deepcopy(model.state_dict())
    batch = batch_of([conversation(model, QUESTIONS[0], ANSWERS[0])])
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(2):
        loss, _ = model(**batch, image=torch.randn(1, 3, IMAGE_SIZE, IMAGE_SIZE))
        loss.backward()
        optimizer.step()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == {
        "projection.weight",
        "projection.bias",
    }
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"projection.weight", "projection.bias"}
    trainable, total = model.num_parameters()
    assert trainable == 32 * 32 + 32
    assert total == sum(p.numel() for p in model.parameters())


def test_pictures_and_their_queries_give_the_same_loss(folder):
    model = make_model(folder, encoder=make_encoder())
    image = torch.randn(1, 3, IMAGE_SIZE, IMAGE_SIZE)
    batch = batch_of([conversation(model, QUESTIONS[0], ANSWERS[1])])
    queries = model.encode_images(image)
    assert queries.shape == (1, NUM_QUERIES, 32)
    assert torch.equal(model(**batch, image=image)[0], model(**batch, queries=queries)[0])


def test_queries_stand_in_their_places_in_order(model):
    rows = [conversation(model, QUESTIONS[0], num_images=2), conversation(model, QUESTIONS[2])]
    batch, queries = batch_of(rows), make_queries(3)
    embeds = model.embed(batch["input_ids"], queries)
    places = batch["input_ids"] == IMAGE_TOKEN
    assert torch.equal(embeds[places], model.projection(queries).flatten(0, 1))
    table = model.language_model.get_input_embeddings().weight
    assert torch.equal(embeds[~places], table[batch["input_ids"][~places]])


@pytest.mark.parametrize("num_pictures", [0, 1, 3])
def test_places_that_do_not_match_the_pictures_are_refused(model, num_pictures):
    batch = batch_of([conversation(model, QUESTIONS[0], num_images=2)])
    queries = make_queries(num_pictures) if num_pictures else None
    message = f"8 image positions, the pictures give {num_pictures * NUM_QUERIES} vectors"
    with pytest.raises(ValueError, match=message):
        model.embed(batch["input_ids"], queries)


def greedy_written_out(model, encoded, queries, steps):
    """The most likely ids one after the other, everything read again each time."""
    embeds = model.embed(torch.tensor([encoded.input_ids]), queries)
    table, ids = model.language_model.get_input_embeddings(), []
    while len(ids) < steps and model.tokenizer.eos_token_id not in ids:
        logits = model.language_model(inputs_embeds=embeds, use_cache=False).logits
        ids.append(int(logits[0, -1].argmax()))
        embeds = torch.cat([embeds, table(torch.tensor([ids[-1:]]))], dim=1)
    return model.tokenizer.decode(ids).split(model.tokenizer.eos_token)[0].strip()


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_answers_of_a_batch_are_the_greedy_ones_of_each_row_alone(family, folder):
    model = make_model(folder, family)
    rows = [
        conversation(model, QUESTIONS[0]),
        conversation(model, QUESTIONS[2], num_images=2),
        conversation(model, QUESTIONS[1], num_images=0),
    ]
    queries = make_queries(3)
    expected = [
        greedy_written_out(model, rows[0], queries[:1], 12),
        greedy_written_out(model, rows[1], queries[1:], 12),
        greedy_written_out(model, rows[2], None, 12),
    ]
    assert len(set(expected)) == 3
    assert sum(map(len, expected)) > 20
    assert model.generate(rows, queries, max_new_tokens=12, do_sample=False) == expected


@torch.no_grad()
def test_each_row_stops_on_its_own_text(model):
    rows = [conversation(model, question) for question in QUESTIONS]
    free = model.generate(rows, make_queries(3), max_new_tokens=30, do_sample=False)
    pieces = [free[0][start : start + 3] for start in range(2, 20)]
    stop = next(text for text in pieces if not all(text in row for row in free))
    stopped = model.generate(rows, make_queries(3), (stop,), max_new_tokens=30, do_sample=False)
    assert stopped == [row.split(stop)[0].strip() for row in free]
    assert stopped[0] != free[0]
    assert any(short == whole for short, whole in zip(stopped, free, strict=True))


@torch.no_grad()
def test_a_row_that_ends_early_is_not_continued_by_padding(model):
    """eos ends one row while another goes on; pad is eos, and neither shows in the answers."""
    rows, queries = [conversation(model, question) for question in QUESTIONS], make_queries(3)
    first = model.embed(torch.tensor([rows[0].input_ids]), queries[:1])
    state = model.language_model.hidden_states(first)[0, -1]
    head = model.language_model.get_output_embeddings().weight
    eos = model.tokenizer.eos_token_id
    head[eos] = 20 * state / state.norm()  # the model of row 0 wants to end at once
    answers = model.generate(rows, queries, max_new_tokens=8, do_sample=False)
    assert answers[0] == ""
    assert any(answers[1:])
    assert not any(model.tokenizer.eos_token in answer for answer in answers)
    assert answers == [
        model.generate([row], queries[n : n + 1], max_new_tokens=8, do_sample=False)[0]
        for n, row in enumerate(rows)
    ]


def test_pictures_without_an_encoder_are_refused(model):
    with pytest.raises(RuntimeError, match="without an image encoder"):
        model(**batch_of([conversation(model, "What?", "Acne.")]), image=torch.zeros(1, 3, 56, 56))


def test_nothing_to_learn_is_a_loss_of_zero(model):
    row = conversation(model, QUESTIONS[0], ANSWERS[0])
    loss, count = model(
        **batch_of([Encoded(row.input_ids, [False] * len(row.input_ids))]), queries=make_queries(1)
    )
    assert (loss.item(), count.item()) == (0.0, 0)


def test_text_is_cut_at_the_first_of_the_stop_strings():
    assert cut_at(" Acne.###Human: B</s>", ("</s>", "###")) == "Acne."
    assert cut_at("Acne. ", ("###",)) == "Acne."


# ---- the encoder's own precision and device


@pytest.mark.parametrize(("precision", "max_error"), [("float16", 3e-3), ("bfloat16", 3e-2)])
def test_an_encoder_in_half_precision_halves_its_matrices_and_keeps_residuals_in_fp32(precision, max_error):
    whole, half = make_encoder(), make_encoder()
    whole.precision = "float32"  # auto is bf16 on a CPU that is fast in it
    half = ImageEncoder(half.vision_encoder, half.qformer, precision)
    image = torch.randn(2, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(0))
    residuals = []
    half.vision_encoder.backbone.blocks[1].register_forward_pre_hook(
        lambda m, args: residuals.append(args[0].dtype)
    )
    expected, queries = whole(image), half(image)
    assert queries.dtype == torch.float32
    assert residuals == [torch.float32]
    assert 0 < (queries - expected).norm() < max_error * expected.norm()
    kinds = {type(m).__name__: p.dtype for m in half.modules() for p in m.parameters(recurse=False)}
    assert kinds["Linear"] == kinds["Conv2d"] == getattr(torch, precision)
    assert kinds["LayerNorm"] == kinds["Eva"] == torch.float32
    assert half.describe_place().startswith(f"computes in {precision} on cpu, ")


def test_the_encoder_stands_where_the_configuration_says(tmp_path):
    config = tiny_config(tmp_path, encoder__device="cpu", encoder__dtype="float32")
    assert encoder_device(config, "meta") == torch.device("cpu")
    config.encoder.device = "auto"
    assert encoder_device(config, "meta") == torch.device("meta")
    assert build_encoder(config).precision == "float32"
