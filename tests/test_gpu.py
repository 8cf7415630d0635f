"""A GPU computes what the CPU computes: `pytest -m gpu`, in seconds, with random networks of kilobytes.

Without a GPU the same tests compare the CPU with itself. That keeps them working, and shows nothing about a GPU.
A test whose packages a bare GPU machine lacks (`benchmarks/gpu.sh`) is skipped there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from skingpt4.checkpoints.load import load_model, load_projection
from skingpt4.config.load import to_yaml
from skingpt4.generation.sampling import Generation
from skingpt4.generation.scoring import score_answers
from skingpt4.model import lora
from skingpt4.model.build import build, build_encoder
from skingpt4.training import compiled
from tests.support.tiny import batch_of, conversation, make_picture, tiny_config

pytestmark = pytest.mark.gpu

ROOT = Path(__file__).parents[1]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# The largest relative difference of a loss from the CPU's in fp32; half precisions round each product.
TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2, "float16": 5e-3}
ANSWERS = ("It is acne.", "No.", "This could be psoriasis. See a doctor, please.", "Plaque, scale, erythema.")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("gpu")


def configure(folder, **changes):
    return tiny_config(folder, encoder__dtype="float32", **changes)


def network(folder, device, dtype="float32", **changes):
    """The same random network on a device."""
    config = configure(folder, language__dtype=dtype, **changes)
    return build(config, device, build_encoder(config, device))


def pixels(count):
    return torch.randn(count, 3, 56, 56, generator=torch.Generator().manual_seed(0))


def loss_and_gradient(model, answers=ANSWERS):
    """The mean loss of a token and the projection's gradient, on the CPU."""
    batch = batch_of([conversation(model, "What is it?", answer) for answer in answers])
    model.zero_grad()
    loss, count = model(**batch, image=pixels(len(answers)))
    (loss / count).backward()
    return float(loss.detach() / count), model.projection.weight.grad.cpu().flatten()


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_loss_and_gradient(folder, dtype):
    expected, direction = loss_and_gradient(network(folder, torch.device("cpu")))
    loss, gradient = loss_and_gradient(network(folder, DEVICE, dtype))
    assert loss == pytest.approx(expected, rel=TOLERANCE[dtype])
    assert torch.cosine_similarity(gradient, direction, dim=0) > 1 - TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_a_batch_is_its_rows(folder, dtype):
    model = network(folder, DEVICE, dtype).eval()
    rows = [conversation(model, "What is it?", answer) for answer in ANSWERS]
    images = pixels(len(rows))
    with torch.no_grad():
        together, count = model(**batch_of(rows), image=images)
        alone = sum(model(**batch_of([row]), image=images[n : n + 1])[0] for n, row in enumerate(rows))
    assert float(together / count) == pytest.approx(float(alone / count), rel=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_closed_sets(folder, dtype):
    def scores(model):
        prompts = [conversation(model, "What is it?"), conversation(model, "Which disease is this?")]
        with torch.no_grad():
            return score_answers(model, prompts, model.encode_images(pixels(2)), ANSWERS).cpu()

    expected = scores(network(folder, torch.device("cpu")))
    difference = (scores(network(folder, DEVICE, dtype)) - expected).abs() / expected.abs()
    assert difference.max() < TOLERANCE[dtype]


def test_heat_map(folder):
    pytest.importorskip("matplotlib")
    from skingpt4.chat.heatmap import attention_map

    maps = [
        attention_map(network(folder, device).encoder, make_picture(3))
        for device in (torch.device("cpu"), DEVICE)
    ]
    assert abs(maps[0] - maps[1]).max() < 1e-3


def test_what_the_page_answers(folder):
    """Greedy answers to the four prompts, probabilities and concepts of a picture, in fp32."""
    pytest.importorskip("scipy")
    from skingpt4.chat.batch import ImageAnswerer
    from skingpt4.chat.differential import Ranker
    from skingpt4.generation.questions import CLINICAL_PROMPTS

    def answer(device):
        config = configure(folder)
        model = build(config, device, build_encoder(config, device))
        ask = ImageAnswerer(
            model, config, Ranker(model, config), CLINICAL_PROMPTS, Generation(max_new_tokens=12)
        )
        return ask(make_picture(1))

    expected, line = answer(torch.device("cpu")), answer(DEVICE)
    assert [turn["answer"] for turn in line["turns"]] == [turn["answer"] for turn in expected["turns"]]
    for key in ("probabilities", "concepts"):
        assert line[key] == pytest.approx(expected[key], abs=1e-4)


def test_lora(folder):
    def stirred(device):
        model = network(folder, device, lora__rank=2)
        lora.add(model.language_model, configure(folder, lora__rank=2).lora, seed=0)
        generator = torch.Generator().manual_seed(3)
        for parameter in lora.trainable(model.language_model).values():
            parameter.data += torch.randn(parameter.shape, generator=generator).to(device) * 0.1
        return model

    expected, direction = loss_and_gradient(stirred(torch.device("cpu")))
    model = stirred(DEVICE)
    loss, gradient = loss_and_gradient(model)
    assert loss == pytest.approx(expected, rel=1e-4)
    assert torch.cosine_similarity(gradient, direction, dim=0) > 0.9999
    assert all(parameter.grad.isfinite().all() for parameter in lora.trainable(model.language_model).values())


@pytest.mark.skipif(DEVICE.type == "cpu", reason="what compiling does on a CPU is tested in test_compiled.py")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_compiled_layers(folder, dtype):
    model = network(folder, DEVICE, dtype)
    expected, direction = loss_and_gradient(model)
    assert compiled.compile_layers(model.language_model) is None
    loss, gradient = loss_and_gradient(model)
    assert loss == pytest.approx(expected, rel=TOLERANCE[dtype])
    assert torch.cosine_similarity(gradient, direction, dim=0) > 1 - TOLERANCE[dtype]


@pytest.mark.parametrize("quantization", ["torchao_int8", "int8", "nf4"])
def test_quantised_language_models_pass_gradients(folder, quantization):
    pytest.importorskip("torchao" if quantization == "torchao_int8" else "bitsandbytes")
    if DEVICE.type == "cpu":
        pytest.skip("what quantisation does on a CPU is tested in test_quantisation.py")
    expected, direction = loss_and_gradient(network(folder, DEVICE, "bfloat16"))
    loss, gradient = loss_and_gradient(
        network(folder, DEVICE, "bfloat16", language__quantization=quantization)
    )
    assert loss == pytest.approx(expected, rel=0.1)
    assert torch.cosine_similarity(gradient, direction, dim=0) > 0.9


def train(config, folder, *options, on_cpu=False):
    """`train.py` as a user starts it; returns the losses of its iterations."""
    path = folder / f"{Path(config.output_dir).name}.yaml"
    path.write_text(to_yaml(config))
    environment = dict(os.environ) | ({"CUDA_VISIBLE_DEVICES": ""} if on_cpu else {})
    command = [sys.executable, ROOT / "train.py", "--config", path, *options]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = [
        json.loads(line) for line in (Path(config.output_dir) / "metrics.jsonl").read_text().splitlines()
    ]
    return [line["loss"] for line in lines if line["kind"] == "train"]


def test_training_checkpoint_and_resume(folder, tmp_path):
    """Losses are the CPU's, a run in two parts has the bits of one, and its checkpoint answers on the CPU."""
    if DEVICE.type == "cpu":
        pytest.skip("training on a CPU has its own tests; here it would be compared with itself")
    complete = configure(folder, output_dir=str(tmp_path / "complete"), log__checkpoint_every=2)
    parts = configure(folder, output_dir=str(tmp_path / "parts"), log__checkpoint_every=2)
    reference = configure(folder, output_dir=str(tmp_path / "reference"))
    losses = train(complete, tmp_path)
    assert losses == pytest.approx(train(reference, tmp_path, on_cpu=True), rel=1e-3)
    parts.optim.max_epoch = 1
    train(parts, tmp_path)
    parts.optim.max_epoch = complete.optim.max_epoch
    train(parts, tmp_path, "--resume")
    tensors = []
    for config in (complete, parts):
        model = load_model(config, torch.device("cpu"))
        load_projection(model, config, config.output_dir)
        tensors.append(model.projection.weight.detach())
    assert torch.equal(*tensors)


@pytest.mark.skipif(DEVICE.type == "cpu", reason="on CPUs tests/skingpt4/training/distributed tests it")
@pytest.mark.parametrize("offload", ["false", "true"])
def test_layers_in_parts(folder, tmp_path, offload):
    """FSDP2 on all GPUs of this machine, also on a single one: the losses are those of complete models."""
    num_gpus = torch.cuda.device_count()
    changes = {"data__augment": False, "data__feature_cache": str(tmp_path / "features")}
    complete = configure(
        folder, output_dir=str(tmp_path / "complete"), optim__batch_size=2 * num_gpus, **changes
    )
    parts = configure(folder, output_dir=str(tmp_path / "parts"), optim__batch_size=2, **changes)
    losses = train(complete, tmp_path)
    (tmp_path / "parts.yaml").write_text(to_yaml(parts))
    done = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", "--config_file",
         "configs/accelerate/fsdp2_vicuna13b.yaml", "--num_processes", str(num_gpus), "--main_process_port", "0",
         "--fsdp_offload_params", offload, "train.py", "--config", str(tmp_path / "parts.yaml")],
        cwd=ROOT, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "note: FSDP2: " in done.stdout
    lines = map(json.loads, (Path(parts.output_dir) / "metrics.jsonl").read_text().splitlines())
    assert [line["loss"] for line in lines if line["kind"] == "train"] == pytest.approx(losses, rel=1e-3)
