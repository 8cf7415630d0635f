"""fp16 whose activations would pass 65,504: guarded it agrees with fp32, unguarded it gives inf or NaN."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.integrations import sdpa_attention

from skingpt4.model.network import SkinGPT4
from skingpt4.model.precision import Float16Error, guard, guard_linear
from skingpt4.training.loop import run
from tests.support.tiny import (
    FAMILIES,
    NUM_QUERIES,
    QUERY_WIDTH,
    batch_of,
    conversation,
    load_language_model,
    make_queries,
    save_language_model,
    tiny_config,
)

# Which weights are blown up, and by how much, so that fp16 overflows there.
DOWN = ("down_proj.weight", "dense_4h_to_h.weight")  # the residual stream behind it
UP = ("up_proj.weight", "dense_h_to_4h.weight")  # the product in the MLP, or its activation
QUERY = ("q_proj.weight", "query_key_value.weight")  # attention scores
BLOWN_UP = {"residual": (DOWN, 3e4), "mlp": (UP, 6e4), "attention": (QUERY, 2e4)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("float16")


def blown_up(folder, family, place):
    """A random model whose weights at one place are large; returns its folder."""
    target = folder / f"{family}_{place}"
    if not target.exists():
        names, factor = BLOWN_UP[place]
        model = load_language_model(save_language_model(folder / family, family))
        grown = 0
        for name, parameter in model.named_parameters():
            if name.endswith(names):
                parameter.data *= factor
                grown += 1
        assert grown >= 2
        model.model.save_pretrained(target)
        model.tokenizer.save_pretrained(target)
    return str(target)


def logits_and_gradient(model, dtype):
    embeds = torch.randn(2, 20, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    logits = model(inputs_embeds=embeds.to(dtype)).logits.float()
    nn.functional.cross_entropy(logits.flatten(0, 1), torch.arange(40) % 7).backward()
    return logits.detach(), embeds.grad


@pytest.mark.parametrize("place", ["residual", "mlp"])
@pytest.mark.parametrize("family", ["llama", "falcon", "gpt_neox", "qwen2"])
def test_what_overflows_plain_fp16_is_as_in_fp32_when_guarded(family, place, folder):
    path = blown_up(folder, family, place)
    expected, expected_gradient = logits_and_gradient(load_language_model(path), torch.float32)
    plain = AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float16, attn_implementation="eager"
    ).eval()
    broken, _ = logits_and_gradient(plain.requires_grad_(False), torch.float16)
    assert not broken.isfinite().all()  # or this test shows nothing
    guarded = load_language_model(path, torch.float16, "eager")
    logits, gradient = logits_and_gradient(guarded, torch.float32)
    assert logits.dtype == torch.float32
    assert (logits - expected).norm() < 1e-2 * expected.norm()
    assert torch.cosine_similarity(gradient.flatten(), expected_gradient.flatten(), 0) > 0.999


@pytest.mark.parametrize("family", ["llama", "falcon", "gpt_neox"])
def test_attention_scores_past_fp16s_end_give_no_nan(family, folder):
    # They cannot be compared with fp32: at 65,504 the rounding of fp16 alone moves a score by 32.
    path = blown_up(folder, family, "attention")
    plain = AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float16, attn_implementation="eager"
    ).eval()
    assert not logits_and_gradient(plain.requires_grad_(False), torch.float16)[0].isfinite().all()
    logits, gradient = logits_and_gradient(load_language_model(path, torch.float16, "eager"), torch.float32)
    assert logits.isfinite().all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("family", FAMILIES)
def test_where_nothing_overflows_the_guarded_model_is_at_least_as_exact(family, folder):
    path = save_language_model(folder / family, family)
    expected, expected_gradient = logits_and_gradient(load_language_model(path), torch.float32)
    plain = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float16).eval().requires_grad_(False)
    ordinary, _ = logits_and_gradient(plain, torch.float16)
    logits, gradient = logits_and_gradient(load_language_model(path, torch.float16), torch.float32)
    assert (logits - expected).norm() < 1.1 * (ordinary - expected).norm() < 1e-2 * expected.norm()
    assert torch.cosine_similarity(gradient.flatten(), expected_gradient.flatten(), 0) > 0.9999


@settings(max_examples=40, deadline=None)
@given(exponents=st.lists(st.integers(-15, 15), min_size=2, max_size=4), weight=st.integers(-6, 4))
def test_a_linear_layer_keeps_fp16s_precision_for_rows_from_1e_minus_15_to_1e15_and_so_does_its_gradient(
    exponents, weight
):
    generator = torch.Generator().manual_seed(0)
    plain = nn.Linear(16, 8).requires_grad_(False)
    plain.weight.data = torch.randn(8, 16, generator=generator) * 10.0**weight
    plain.weight.data = plain.weight.data.half().float()
    small = nn.Linear(16, 8).requires_grad_(False)
    small.load_state_dict(plain.state_dict())
    small.half()
    plain.bias.data = small.bias.data.float()
    guard_linear(small)
    x = torch.randn(len(exponents), 16, generator=generator) * 10.0 ** torch.tensor(exponents)[:, None]
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    expected, got = plain(a), small(b)
    reach = x.norm(dim=-1, keepdim=True) * plain.weight.norm()  # what an entry of W x may reach
    # fp16 ends at 6e-8 below, so the bound's looseness (sqrt of the sizes) may cost a few bits more
    assert ((got - expected).abs() <= 4e-3 * reach + 1e-6 * plain.bias.abs()).all()
    incoming = torch.randn(expected.shape, generator=generator) * 10.0 ** -torch.tensor(exponents)[:, None]
    expected.backward(incoming)
    got.backward(incoming)
    reach = incoming.norm(dim=-1, keepdim=True) * plain.weight.norm()
    assert ((a.grad - b.grad).abs() <= 4e-3 * reach).all()


def test_rows_of_zeros_stay_zeros_and_carry_their_gradient():
    layer = nn.Linear(4, 3, bias=False).requires_grad_(False).half()
    guard_linear(layer)
    x = torch.zeros(2, 4, requires_grad=True)
    out = layer(x)
    out.sum().backward()
    assert torch.equal(out, torch.zeros(2, 3))
    torch.testing.assert_close(x.grad, layer.weight.float().sum(0).expand(2, 4), rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("family", ["llama", "falcon"])
def test_projection_gradient_and_greedy_text_in_fp16_are_those_of_fp32(family, folder):
    path = blown_up(folder, family, "residual")
    models = []
    for dtype in (torch.float32, torch.float16):
        language_model = load_language_model(path, dtype)
        torch.manual_seed(1)
        models.append(SkinGPT4(None, language_model, QUERY_WIDTH))
    batch = batch_of([conversation(models[0], "What is it?", "psoriasis")])
    losses, gradients, texts = [], [], []
    for model in models:
        loss, _ = model(**batch, queries=make_queries(1))
        loss.backward()
        losses.append(loss.item())
        gradients.append(model.projection.weight.grad.flatten())
        prompt = conversation(model, "What is it?")
        texts.append(model.generate([prompt], make_queries(1), max_new_tokens=8, do_sample=False))
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)
    assert torch.cosine_similarity(*gradients, 0) > 0.999
    assert texts[0] == texts[1]
    assert make_queries(1).shape[1] == NUM_QUERIES


def test_a_run_in_fp16_learns_on_a_cpu_and_writes_json(tmp_path):
    config = tiny_config(
        tmp_path,
        language__dtype="float16",
        optim__max_epoch=1,
        optim__iters_per_epoch=12,
        optim__init_lr=3e-2,
    )
    run(config)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 12
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.3
    assert not any("skipped" in line for line in lines)


def test_flash_attention_and_families_with_matrices_of_their_own_are_refused():
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "vocab_size": 50,
             "num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 2}  # fmt: skip
    mixture = AutoModelForCausalLM.from_config(AutoConfig.for_model("mixtral", **sizes), dtype=torch.float16)
    with pytest.raises(
        Float16Error, match=r"mixtral cannot be guarded .* \(model\.layers\.0\.mlp\.gate mult"
    ):
        guard(mixture)
    llama = AutoModelForCausalLM.from_config(
        AutoConfig.for_model("llama", **{k: v for k, v in sizes.items() if k != "num_local_experts"})
    )
    llama.config._attn_implementation = "flash_attention_2"
    with pytest.raises(Float16Error, match=r"language\.attention: .*; choose sdpa or eager"):
        guard(llama)


def test_shared_keys_are_not_copied_for_a_masked_batch_and_the_logits_stay(tmp_path, monkeypatch):
    model = load_language_model(save_language_model(tmp_path / "llama", "llama"))
    groups = model.config.num_attention_heads // model.config.num_key_value_heads
    ids = torch.arange(24).reshape(2, 12) % 20
    mask = torch.ones(2, 12, dtype=torch.long)
    mask[0, :5] = 0

    def logits():
        return model(input_ids=ids, attention_mask=mask).logits[:, 5:].detach()

    copied = []
    repeat = sdpa_attention.repeat_kv
    monkeypatch.setattr(sdpa_attention, "repeat_kv", lambda x, n: copied.append(n) or repeat(x, n))
    with_copies = logits()  # with gradients transformers' own way
    assert set(copied) == {groups}
    assert groups > 1
    copied.clear()
    with torch.no_grad():
        torch.testing.assert_close(logits(), with_copies, atol=1e-5, rtol=1e-5)
    assert not copied
