"""The estimate of memory against what torch really allocates, at sizes where that takes milliseconds."""

import dataclasses
import gc
import itertools
from types import SimpleNamespace

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import AutoConfig, AutoModelForCausalLM

from skingpt4.config.schema import LoraConfig
from skingpt4.doctor import memory
from skingpt4.doctor.shapes import language_shape, shape_of
from skingpt4.model import lora
from skingpt4.model.loss import head_loss
from tests.support.tiny import (
    FAMILIES,
    make_encoder,
    tiny_config,
)

# Wide enough that the parts which grow with width outweigh the rest, as they do in real models.
WIDE = {"hidden_size": 128, "intermediate_size": 344, "num_hidden_layers": 3, "vocab_size": 300}
# With norms of each head's queries and keys, and tied embeddings.
_HEAD_NORMS = {**FAMILIES["qwen2"], "head_dim": 32, "tie_word_embeddings": True}
MODELS = {**FAMILIES, "qwen3": _HEAD_NORMS, "gemma3_text": {**_HEAD_NORMS, "sliding_window": 20}}

ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def random_model(family, attention="sdpa", dtype=torch.float32):
    sizes = {**MODELS[family], **WIDE}
    if family == "gemma2":
        sizes["head_dim"] = 32
    config = AutoConfig.for_model(family, **sizes)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    model.is_sharded = False  # as a LanguageModel has it, to which LoRA is added
    return model.to(dtype).requires_grad_(False).eval(), language_shape(config)


def around(model):
    """What LoRA needs of a language model."""
    return SimpleNamespace(model=model, config=model.config, is_sharded=False, eval=model.eval)


def stored_for_backward(model, batch, tokens):
    """Bytes that autograd stores of a forward pass, weights not counted, each storage once."""
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    held = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    width = model.get_input_embeddings().weight.shape[1]
    embeds = torch.randn(batch, tokens, width, dtype=model.dtype, requires_grad=True)
    mask = torch.ones(batch, tokens, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.base_model(inputs_embeds=embeds, attention_mask=mask, use_cache=False)
    return sum(size for size, _ in held.values())


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("weights/vicuna-7b-v1.5", 6_738_415_616),
        ("meta-llama/Llama-2-13b-chat-hf", 13_015_864_320),
        ("tiiuae/falcon-7b-instruct", 6_921_720_704),
        ("Qwen/Qwen3-1.7B", 1_720_574_976),
        ("Qwen/Qwen3-4B", 4_022_468_096),
        ("Qwen/Qwen3-8B", 8_190_735_360),
        ("meta-llama/Llama-3.2-3B-Instruct", 3_212_749_824),
        ("google/gemma-3-4b-it", 3_880_263_168),
        ("google/medgemma-4b-it", 3_880_263_168),
    ],
)
def test_published_models_have_their_published_numbers(name, number):
    shape = shape_of(name)
    assert shape.num_parameters == number
    assert memory.weight_bytes(shape, "float16") == 2 * number
    assert (
        0.5 * number
        < memory.weight_bytes(shape, "float16", "nf4")
        < memory.weight_bytes(shape, "float16", "int8")
    )


@pytest.mark.parametrize("family", MODELS)
def test_weights_are_counted_exactly(family):
    model, shape = random_model(family)
    held = {p.data_ptr(): p.numel() * p.element_size() for p in model.parameters()}
    assert memory.weight_bytes(shape, "float32") == sum(held.values())


# In half precision Falcon's attention on a CPU stores some of it in fp32, see docs/memory.md.
COMPARED = [
    (family, attention, dtype)
    for family, attention, dtype in itertools.product(
        MODELS, ("eager", "sdpa"), (torch.float32, torch.bfloat16)
    )
    if family != "falcon" or dtype is torch.float32
]


@pytest.mark.parametrize(("family", "attention", "dtype"), COMPARED)
def test_activations_are_what_autograd_stores(family, attention, dtype):
    model, shape = random_model(family, attention, dtype)
    estimated = memory.activation_bytes(shape, 2, 96, str(dtype).removeprefix("torch."), attention)
    assert 0.75 < estimated / stored_for_backward(model, 2, 96) < 1.25


@pytest.mark.parametrize("family", MODELS)
def test_keys_and_values_are_counted_exactly(family):
    model, shape = random_model(family)
    with torch.no_grad():
        cache = model(input_ids=torch.ones(2, 15, dtype=torch.long), use_cache=True).past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert memory.kv_cache_bytes(shape, 2, 15, "float32") == held


def peak_of(work):
    """Maximum of the bytes that torch's CPU allocator held at once for it."""
    gc.collect()  # garbage of earlier tests must not be freed meanwhile: that would be subtracted
    gc.disable()
    try:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiled:
            work()
    finally:
        gc.enable()
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    return max(itertools.accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("chunk_bytes", [0, 1 << 20, 1 << 30])
def test_logits_take_what_torch_allocates_for_them(chunk_bytes, dtype):
    head = torch.nn.Linear(32, 5000, bias=False, dtype=dtype).requires_grad_(False)
    hidden = torch.randn(200, 32, dtype=dtype, requires_grad=True)
    targets = torch.randint(5000, (200,))
    shape = dataclasses.replace(random_model("llama")[1], vocabulary=5000, width=32)
    name = str(dtype).removeprefix("torch.")
    peak = peak_of(lambda: head_loss(head, hidden, targets, chunk_bytes).backward())
    assert memory.logits_bytes(shape, 200, name, chunk_bytes) == pytest.approx(peak, rel=0.1)


def test_families_that_change_logits_after_the_head_compute_all_of_them(tmp_path):
    config = tiny_config(tmp_path)
    plain, capped = (random_model(family)[1] for family in ("llama", "gemma2"))
    assert (plain.plain_head, capped.plain_head) == (True, False)
    small = memory.training(config, plain, "float32", 0, tokens=300, supervised=10)["logits"]
    assert memory.training(config, capped, "float32", 0, tokens=300, supervised=10)["logits"] > 30 * small


@pytest.mark.parametrize("targets", [[], ["q_proj", "down_proj"]])
def test_lora_is_counted_exactly(targets):
    model, shape = random_model("llama")
    language_model = around(model)
    lora.add(language_model, LoraConfig(rank=4, targets=targets), 0)
    added = sum(p.numel() for p in lora.trainable(language_model).values())
    assert memory.lora_parameters(shape, 4, targets) == added > 0
    assert memory.lora_parameters(shape, 0, targets) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dropout", [0.0, 0.05])
@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ALL_LINEAR])
def test_what_lora_stores_is_what_autograd_stores(targets, dropout, dtype):
    model, shape = random_model("qwen3", dtype=dtype)
    name = str(dtype).removeprefix("torch.")
    config = LoraConfig(rank=4, targets=targets, dropout=dropout)
    frozen = stored_for_backward(model, 2, 96)
    language_model = around(model)
    lora.add(language_model, config, 0)
    lora.set_training(language_model, True)
    added = stored_for_backward(model, 2, 96) - frozen
    estimated = memory.lora_bytes(shape, config, 2 * 96, name)
    assert 0.75 < estimated / added < 1.25
    whole = memory.activation_bytes(shape, 2, 96, name) + estimated
    assert 0.75 < whole / (frozen + added) < 1.25


def test_a_smaller_optimiser_takes_less_and_a_paged_one_nothing_of_the_gpu():
    bits32, bits8 = (memory.trained_bytes(1000, name) for name in ("adamw", "adamw_8bit"))
    assert (bits32, bits8) == (16_000, 10_032)
    for name, whole in (("paged_adamw_32bit", bits32), ("paged_adamw_8bit", bits8)):
        assert memory.trained_bytes(1000, name) == 8000
        assert memory.trained_bytes(1000, name) + memory.paged_bytes(1000, name) == whole
    assert memory.paged_bytes(1000, "adamw_8bit") == 0


def test_parts_follow_the_configuration(tmp_path):
    config = tiny_config(tmp_path)
    assert memory.encoder_parameters(config) == sum(p.numel() for p in make_encoder().parameters())
    shape = shape_of(config.language.model)
    plain = memory.training(config, shape, "float32", 1000)
    assert plain["image encoder"] == 4000
    config.optim.batch_size *= 2
    config.lora.rank = 4
    config.data.feature_cache = "x"
    other = memory.training(config, shape, "float32", 1000, num_images=10)
    assert other["image encoder"] == 0 < other["cached features"]
    assert other["logits"] == 2 * plain["logits"]
    name = memory.ACTIVATIONS
    tokens = 2 * (plain[name] // memory.activation_bytes(shape, 1, 1, "float32", "sdpa"))
    assert other[name] == 2 * plain[name] + memory.lora_bytes(shape, config.lora, tokens, "float32")
    assert memory.host_bytes(other) > memory.host_bytes(plain) > memory.host_bytes({}) == memory.LIBRARIES
    assert other["trained tensors, gradients, AdamW"] > plain["trained tensors, gradients, AdamW"]


def test_an_unknown_hub_id_has_no_shape_and_nothing_is_asked_of_the_network():
    assert shape_of("nobody/has-this-model") is None
