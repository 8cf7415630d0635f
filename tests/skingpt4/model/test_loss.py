"""Golden losses: no lever of training changes what is computed, loss and gradients to 1e-5 in fp32."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from skingpt4.model.loss import head_loss
from skingpt4.model.precision import choose_attention
from skingpt4.model.prompts import IGNORED
from skingpt4.training.batches import Collate, arrange, choose_batching
from tests.support.tiny import (
    FAMILIES,
    batch_of,
    conversation,
    make_model,
    make_queries,
)

ANSWERS = (
    "It is acne.", "No.", "This could be a skin disease image of psoriasis. See a doctor, please.",
    "Plaque, scale, erythema.", "This is a skin disease image with the following medical features: papule.",
)  # fmt: skip
close = {"rtol": 0.0, "atol": 1e-5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("levers")


@pytest.fixture(scope="module", params=FAMILIES)
def golden(request, folder):
    """(model, samples, expected): the mean loss and the gradients by plain padding and all logits at once."""
    model = make_model(folder, request.param)
    rows = [conversation(model, "Why so?" * (1 + n % 2), answer) for n, answer in enumerate(ANSWERS)]
    queries = make_queries(len(rows))
    batch = batch_of(rows)
    embeds = model.embed(batch["input_ids"], queries)
    logits = model.language_model(inputs_embeds=embeds, attention_mask=batch["attention_mask"]).logits
    targets = batch["labels"][:, 1:]
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
    loss.backward()
    samples = [{"encoded": row, "queries": q} for row, q in zip(rows, queries, strict=True)]
    return model, samples, [loss.detach(), *taken_gradients(model)]


def family_of(model):
    return model.language_model.config.model_type


def taken_gradients(model):
    gradients = [p.grad.clone() for p in model.projection.parameters()]
    model.zero_grad()
    assert all(g.abs().max() > 1e-3 for g in gradients)
    return gradients


def computed(model, groups):
    """Mean loss and gradients of a batch in groups, as `train_step` adds them up."""
    count = sum(int((group["labels"][:, 1:] >= 0).sum()) for group in groups)
    total = torch.zeros(())
    for group in groups:
        loss, tokens = model(**group)
        assert int(tokens) == int((group["labels"][:, 1:] >= 0).sum())
        (loss / count).backward()
        total += loss.detach() / count
    return [total, *taken_gradients(model)]


@pytest.mark.parametrize("chunk_bytes", [0, 1, 4000, 2**20])  # all through autograd, a row, some rows, all
def test_chunks_of_logits(chunk_bytes, golden, monkeypatch):
    model, samples, expected = golden
    monkeypatch.setattr("skingpt4.model.loss.LOSS_CHUNK_BYTES", chunk_bytes)
    torch.testing.assert_close(computed(model, Collate()(samples)), expected, **close)


@pytest.mark.parametrize("chunk_bytes", [0, 1, 4000])
def test_weights_of_tokens(chunk_bytes, golden, monkeypatch):
    """Loss and gradients as of autograd on all logits, each token's loss times its weight; all 1 is no weight."""
    model, samples, expected = golden
    monkeypatch.setattr("skingpt4.model.loss.LOSS_CHUNK_BYTES", chunk_bytes)
    (batch,) = Collate()(samples)
    unweighted = computed(model, [batch])
    torch.testing.assert_close(
        computed(model, [batch | {"weights": torch.ones(batch["labels"].shape)}]), unweighted
    )
    weights = torch.rand(batch["labels"].shape, generator=torch.Generator().manual_seed(0)) * 5
    embeds = model.embed(batch["input_ids"], batch["queries"])
    logits = model.language_model(inputs_embeds=embeds, attention_mask=batch["attention_mask"]).logits
    losses = F.cross_entropy(
        logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=IGNORED, reduction="none"
    )
    loss = (losses * weights[:, 1:].flatten()).sum() / (batch["labels"][:, 1:] >= 0).sum()
    loss.backward()
    expected = [loss.detach(), *taken_gradients(model)]
    torch.testing.assert_close(
        computed(model, [batch | {"weights": weights}]), expected, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_every_attention(attention, golden):
    model, samples, expected = golden
    if family_of(model) == "gemma2":
        pytest.skip(
            "transformers' sdpa leaves out Gemma 2's soft cap of the scores: another model, not a lever"
        )
    before = model.language_model.config._attn_implementation
    model.language_model.model.set_attn_implementation(attention)
    try:
        result = computed(model, Collate("grouped", 150)(samples))
    finally:
        model.language_model.model.set_attn_implementation(before)
    torch.testing.assert_close(result, expected, **close)


def test_attention_by_name_and_by_device():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert choose_attention("eager", torch.float32, cuda) == "eager"
    assert choose_attention("auto", torch.float32, cpu) == "sdpa"
    assert choose_attention("auto", torch.bfloat16, cpu) == "eager"
    assert choose_attention("auto", torch.bfloat16, cuda) == "sdpa"


@pytest.mark.parametrize("batching", ["padded", "grouped"])
@pytest.mark.parametrize("budget", [1, 120, 10_000])
def test_every_way_to_put_a_batch_together(batching, budget, golden):
    model, samples, expected = golden
    groups = Collate(batching, budget)(samples)
    torch.testing.assert_close(computed(model, groups), expected, **close)


# ---- the loss behind the head


class Doubled(nn.Module):
    """A head that is no `Linear`."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, hidden):
        return 2 * hidden @ self.weight.T


def linear(weight, trained=False, bias=False):
    head = nn.Linear(weight.shape[1], weight.shape[0], bias=bias)
    head.weight.data = weight
    return head.requires_grad_(trained)


@pytest.mark.parametrize("kind", ["plain", "bias", "other", "trained", "wrapped"])
@pytest.mark.parametrize("chunk_bytes", [0, 500, 2000])
def test_the_loss_and_its_gradient_are_cross_entropys(kind, chunk_bytes):
    generator = torch.Generator().manual_seed(0)
    weight, hidden = (torch.randn(n, 8, generator=generator) for n in (50, 23))
    targets = torch.randint(0, 50, (23,), generator=generator)
    head = Doubled(weight) if kind == "other" else linear(weight, kind == "trained", kind == "bias")
    if kind == "wrapped":  # as accelerate and `precision.guard` do
        inner = head.forward
        head.forward = lambda x: 3 * inner(x)
    results = []
    for of in (lambda x: F.cross_entropy(head(x), targets, reduction="sum"),
               lambda x: head_loss(head, x, targets, chunk_bytes)):  # fmt: skip
        x = hidden.clone().requires_grad_()
        loss = of(x)
        (0.3 * loss).backward()
        results.append([loss.detach(), x.grad] + ([head.weight.grad.clone()] if kind == "trained" else []))
        head.zero_grad()
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(head_loss(head, hidden, targets, chunk_bytes), results[0][0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_the_loss_is_summed_in_fp32(dtype):
    generator = torch.Generator().manual_seed(0)
    weight, hidden = (torch.randn(n, 8, generator=generator).to(dtype) for n in (50, 300))
    targets = torch.randint(0, 50, (300,), generator=generator)
    head, whole, parts = linear(weight), hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    expected = F.cross_entropy(head(whole).float(), targets, reduction="sum")
    loss = head_loss(head, parts, targets, 4000)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0.0)
    (expected / 300).backward()
    (loss / 300).backward()
    torch.testing.assert_close(parts.grad, whole.grad, rtol=0.05, atol=1e-4)


def test_no_more_logits_than_a_chunk_are_ever_there(monkeypatch):
    seen = []
    real = F.linear
    monkeypatch.setattr(F, "linear", lambda *args: seen.append(real(*args)) or seen[-1])
    head = linear(torch.randn(50, 8))
    head_loss(head, torch.randn(23, 8, requires_grad=True), torch.zeros(23, dtype=torch.long), 1000)
    assert [tuple(logits.shape) for logits in seen] == [(5, 50)] * 4 + [(3, 50)]


def test_nothing_supervised_is_zero_and_has_a_gradient():
    hidden = torch.randn(0, 8, requires_grad=True)
    loss = head_loss(linear(torch.randn(50, 8)), hidden, torch.zeros(0, dtype=torch.long), 1000)
    loss.backward()
    assert loss.item() == 0.0


# ---- which samples stand together


@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=20),
    batching=st.sampled_from(["padded", "grouped"]),
    budget=st.integers(1, 200),
)
@settings(max_examples=80, deadline=None)
def test_every_sample_stands_once_within_the_budget(lengths, batching, budget):
    groups = arrange(lengths, batching, budget)
    numbers = [number for group in groups for number in group]
    assert sorted(numbers) == list(range(len(lengths)))
    assert groups == arrange(lengths, batching, budget)
    for group in groups:
        if batching == "grouped":
            assert len(group) == 1 or len(group) * max(lengths[number] for number in group) <= budget
    assert len(groups) == 1 or batching == "grouped"


def test_what_stands_together():
    lengths = [10, 50, 12, 48, 9]
    assert arrange(lengths, "padded", 100) == [[0, 1, 2, 3, 4]]
    assert arrange(lengths, "grouped", 100) == [[1, 3], [2, 0, 4]]


def test_auto_groups_on_a_cpu_alone():
    assert choose_batching("auto", torch.device("cpu")) == "grouped"
    assert choose_batching("auto", torch.device("cuda")) == "padded"
    assert choose_batching("padded", torch.device("cpu")) == "padded"
