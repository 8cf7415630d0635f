"""The frozen language model in fewer bits: smaller, near the whole one's answers, and passable for gradients.

The cosines below are those of a random Llama of 128 channels; `-s` prints them.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from skingpt4.checkpoints import checkpoint
from skingpt4.checkpoints.load import load_model
from skingpt4.config.schema import LoraConfig
from skingpt4.model import lora
from skingpt4.model.network import SkinGPT4
from skingpt4.model.precision import num_bytes
from skingpt4.model.quantisation import QuantisationError, require_quantised
from skingpt4.training.loop import run
from skingpt4.weights.files.tensors import load_tensors
from tests.support.tiny import (
    QUERY_WIDTH,
    batch_of,
    conversation,
    load_language_model,
    make_queries,
    save_language_model,
    tiny_config,
)

ROOT = Path(__file__).parents[3]
SIZES = {"hidden_size": 128, "intermediate_size": 256, "initializer_range": 0.05}
FAMILIES = ["llama", "falcon", "qwen2"]  # Qwen2's quantised layers have biases
# The smallest cosine between the projection's gradients through the quantised and the unquantised model.
MIN_COSINE = {"int8": 0.999, "nf4": 0.94, "torchao_int8": 0.999}
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def require_kernels(quantization):
    """Skip, and say why, where the library has no kernels for this machine."""
    if quantization == "torchao_int8":
        pytest.importorskip("torchao", reason="torchao is not installed")
        return
    library = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    try:
        if quantization == "int8":
            library.functional.int8_vectorwise_quant(torch.ones(2, 64, dtype=torch.float16))
        else:
            library.functional.quantize_4bit(torch.ones(2, 64), quant_type="nf4")
    except (RuntimeError, NotImplementedError, AttributeError) as error:
        pytest.skip(f"bitsandbytes {library.__version__} has no {quantization} kernels for the CPU: {error}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("quantisation")


def network(folder, family, dtype=torch.float32, quantization="none"):
    path = save_language_model(folder / family, family, **SIZES)
    language_model = load_language_model(path, dtype, quantization=quantization)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return SkinGPT4(None, language_model, QUERY_WIDTH)


def loss_and_gradient(model):
    batch = batch_of([conversation(model, "What is it?", "psoriasis"), conversation(model, "And?", "acne")])
    loss, count = model(**batch, queries=make_queries(2))
    (loss / count).backward()
    return loss.item() / int(count), model.projection.weight.grad.flatten()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("quantization", MIN_COSINE)
def test_the_projections_gradient_passes_through(quantization, dtype, family, folder):
    require_kernels(quantization)
    whole_loss, whole = loss_and_gradient(network(folder, family))
    model = network(folder, family, dtype, quantization)
    loss, gradient = loss_and_gradient(model)
    cosine = F.cosine_similarity(gradient, whole, 0).item()
    print(
        f"{family} {quantization} {dtype}: cosine {cosine:.5f}, loss {loss:.4f} instead of {whole_loss:.4f}"
    )
    assert cosine > MIN_COSINE[quantization]
    assert loss == pytest.approx(whole_loss, rel=0.02)
    assert not any(p.requires_grad for p in model.language_model.parameters())


def test_no_layer_of_nf4_packs_itself_for_a_kernel_without_a_backward_pass(folder, monkeypatch):
    require_kernels("nf4")
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: True)  # as on a CPU that has it
    model = network(folder, "llama", quantization="nf4")
    layers = [m for m in model.modules() if type(m).__name__ == "Linear4bit"]
    assert len(layers) == 14
    assert not any(layer.support_avx512bf16_for_cpu for layer in layers)
    # What is asked of a model first is an answer without a gradient, as whether its head is plain.
    with torch.no_grad():
        loss_of_answer = model(**batch_of([conversation(model, "And?", "acne")]), queries=make_queries(1))[0]
    assert loss_of_answer.isfinite()
    assert loss_and_gradient(model)[1].abs().max() > 0


def test_bitsandbytes_is_imported_without_asking_a_hub_for_kernels(tmp_path):
    """On CPUs with AVX512-bf16 it would; elsewhere this holds anyway."""
    (tmp_path / "kernels.py").write_text("raise SystemExit('the package kernels was imported')")
    code = (
        "import sys; from skingpt4.model.quantisation import import_bitsandbytes; sys.path.insert(0, sys.argv[1]); "
        "import_bitsandbytes(); sys.exit('kernels' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_layer_that_stays_unquantised_is_refused_by_name(folder):
    model = network(folder, "llama").language_model
    with pytest.raises(
        QuantisationError, match=r"nf4 leaves 14 of 14 .* llama unquantised, e\.g\. model\.layers\.0\."
    ):
        require_quantised(model.model, "nf4")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("quantization", MIN_COSINE)
def test_what_is_quantised_takes_less_memory_and_says_so(quantization, family, folder):
    require_kernels(quantization)
    sizes = {}
    for name in ("none", quantization):
        model = network(folder, family, torch.bfloat16, name).language_model
        matrices = [
            m.weight for n, m in model.named_modules() if isinstance(m, nn.Linear) and n != "model.lm_head"
        ]
        sizes[name] = sum(map(num_bytes, matrices))
    max_ratio = {"int8": 0.53, "torchao_int8": 0.54, "nf4": 0.30}[
        quantization
    ]  # of two bytes for each number
    assert sizes[quantization] < max_ratio * sizes["none"]
    assert model.describe_place().startswith(f"bfloat16, {quantization}, ")
    assert model.describe_place().endswith(" on cpu")


def test_int8_takes_activations_past_fp16s_end(folder):
    require_kernels("int8")  # bitsandbytes turns its input into fp16 even where the model is in bf16
    path = folder / "large"
    model = load_language_model(save_language_model(folder / "llama", **SIZES))
    for layer in model.model.model.layers:
        layer.mlp.up_proj.weight.data *= 3e4
    model.model.save_pretrained(path)
    model.tokenizer.save_pretrained(path)
    whole = load_language_model(str(path))
    small = load_language_model(str(path), quantization="int8")
    embeds = torch.randn(1, 12, SIZES["hidden_size"], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, got = whole(inputs_embeds=embeds).logits, small(inputs_embeds=embeds).logits
    assert got.isfinite().all()
    assert F.cosine_similarity(got.flatten(), expected.flatten(), 0) > 0.98


@pytest.mark.parametrize("quantization", MIN_COSINE)
def test_a_run_on_a_quantised_model_learns_and_answers(quantization, tmp_path):
    require_kernels(quantization)
    config = tiny_config(
        tmp_path,
        language__quantization=quantization,
        optim__max_epoch=1,
        optim__iters_per_epoch=12,
        optim__init_lr=3e-2,
    )
    run(config)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    losses = [float(line.split('"loss": ')[1].split(",")[0]) for line in lines]
    assert losses[-1] < losses[0] - 0.3


LORA = LoraConfig(
    rank=4, alpha=8.0, targets=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
)


def lora_gradients(model):
    """The loss and each branch's gradient; the branches are not zero, so both halves have one."""
    lora.add(model.language_model, LORA, seed=0)
    generator = torch.Generator().manual_seed(5)
    branches = lora.trainable(model.language_model)
    for name, parameter in branches.items():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.05
    loss, _ = loss_and_gradient(model)
    return loss, {name: parameter.grad for name, parameter in branches.items()}


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_loras_gradients_through_nf4_are_those_through_the_dequantised_model(family, folder):
    """The same numbers in both: what differs is only that one model multiplies by them as fp32 matrices."""
    require_kernels("nf4")
    from bitsandbytes.functional import dequantize_4bit

    small = network(folder, family, quantization="nf4")
    whole = network(folder, family)
    matrices = dict(whole.language_model.named_modules())
    for name, layer in small.language_model.named_modules():
        if type(layer).__name__ == "Linear4bit":
            assert layer.weight.quant_state.nested  # scales quantised too
            matrices[name].weight.data = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    (loss, gradients), (expected_loss, expected) = lora_gradients(small), lora_gradients(whole)
    assert gradients.keys() == expected.keys()
    assert len(gradients) == 2 * 14
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    for name, gradient in expected.items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-3, atol=1e-6, msg=name)


def test_qlora_trains_its_branches_and_the_projection_and_leaves_the_nf4_matrices_alone(tmp_path):
    require_kernels("nf4")
    config = tiny_config(
        tmp_path, language__quantization="nf4", lora__rank=2, optim__name="adamw_8bit", optim__max_epoch=1,
        optim__iters_per_epoch=12, optim__init_lr=3e-2,
    )  # fmt: skip
    saved = run(config)
    losses = [
        line["loss"]
        for line in map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    ]
    assert losses[-1] < losses[0] - 0.3
    branches = load_tensors(saved / checkpoint.LORA)
    assert all(tensor.abs().max() > 0 for tensor in branches.values())
    assert load_model(config, saved).language_model.quantization == "nf4"
