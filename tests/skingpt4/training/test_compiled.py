"""Compiled layers: the same loss and gradients, one compiled form for all lengths, and only where it pays."""

import json
import shutil
from pathlib import Path

import pytest
import setuptools  # noqa: F401 - before a test loads Python's own distutils, beside which it refuses to be loaded
import torch

from skingpt4.training import compiled, loop
from skingpt4.training.batches import Collate
from tests.support.tiny import (
    conversation,
    make_model,
    make_queries,
    save_language_model,
    tiny_config,
)

ANSWERS = ("It is acne.", "No.", "This could be psoriasis. See a doctor, please.", "Plaque, scale, erythema.")


@pytest.fixture(scope="module")
def compiler():
    """Skips if torch cannot compile a minimal function: no C++ compiler, or no Python headers."""
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.ones(8))
    except Exception as error:
        pytest.skip(f"torch cannot compile here: {str(error).strip().splitlines()[0][:100]}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("compiled")


def loss_and_gradients(model, groups):
    total = torch.zeros(())
    for group in groups:
        loss, _ = model(**group)
        loss.backward()
        total += loss.detach()
    tensors = [total, *(p.grad.clone() for p in model.projection.parameters())]
    model.zero_grad()
    return tensors


def write_model(folder, family="llama"):
    """With heads of 16: torch 2.11 writes C++ that does not compile for heads of 8."""
    heads = {"num_attention_heads": 2} | ({"num_key_value_heads": 1} if family == "llama" else {})
    return save_language_model(folder / family, family, **heads)


def is_the_same(model, ways, samples, backend="inductor"):
    """Compile the layers; loss and gradients of batches put together these ways stay, to 1e-5 of the largest."""
    expected = [loss_and_gradients(model, way(samples)) for way in ways]
    assert compiled.compile_layers(model.language_model, backend) is None
    frames = torch._dynamo.utils.counters["frames"]
    before = dict(frames)
    assert before["ok"] > 0
    with compiled.as_written():
        torch.testing.assert_close(loss_and_gradients(model, ways[0](samples)), expected[0], rtol=0, atol=0)
    assert frames == before  # nothing more was compiled
    for way, tensors in zip(ways, expected, strict=True):
        for found, one in zip(loss_and_gradients(model, way(samples)), tensors, strict=True):
            torch.testing.assert_close(found, one, rtol=0, atol=1e-5 * float(one.abs().max()))


def make_samples(model):
    rows = [conversation(model, "Why so?" * (1 + n % 2), answer) for n, answer in enumerate(ANSWERS)]
    return [{"encoded": row, "queries": q} for row, q in zip(rows, make_queries(len(rows)), strict=True)]


@pytest.mark.acceptance  # torch writes and compiles C++ for a minute
@pytest.mark.usefixtures("compiler")
def test_loss_and_gradients_are_those_of_the_layers_as_written(folder):
    write_model(folder)
    model = make_model(folder)
    is_the_same(model, [Collate("grouped", 150)], make_samples(model))


@pytest.mark.acceptance
@pytest.mark.parametrize("family", ["llama", "falcon", "gemma2"])
def test_every_batching_is_traced(family, tmp_path):
    """torch's own tracing and its gradients, run without writing C++."""
    torch._dynamo.reset()
    model = make_model(tmp_path, family)
    is_the_same(model, [Collate(), Collate("grouped", 150)], make_samples(model), "aot_eager")


@pytest.mark.acceptance
@pytest.mark.usefixtures("compiler")
def test_a_compiled_run_ends_where_the_other_does(folder, tmp_path, capsys):
    write_model(folder)

    def run(name, compile):
        config = tiny_config(folder, output_dir=str(tmp_path / name), language__compile=compile)
        loop.run(config)
        lines = (json.loads(line) for line in (Path(config.output_dir) / "metrics.jsonl").open())
        return [line["loss"] for line in lines]

    assert run("compiled", "always") == pytest.approx(run("plain", "never"), abs=1e-4)
    assert "(language.compile) ...\ncompiled\n" in capsys.readouterr().out


def test_auto_compiles_where_it_pays(folder, monkeypatch):
    model = make_model(folder / "auto").language_model
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/" + name)
    assert not compiled.should_compile("auto", model.to(torch.float16), 10_000)
    assert compiled.should_compile("always", model, 1)
    assert compiled.should_compile("auto", model.to(torch.float32), 10_000)
    model.to(torch.bfloat16)
    assert compiled.should_compile("auto", model, compiled.PAYS_AFTER)
    assert not compiled.should_compile("auto", model, compiled.PAYS_AFTER - 1)
    assert not compiled.should_compile("never", model, 10_000)
    model.quantization = "int8"
    assert not compiled.should_compile("auto", model, 10_000)
    model.quantization = "none"
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert not compiled.should_compile("auto", model, 10_000)


def test_a_compiler_that_fails_is_reported_in_a_sentence_and_changes_nothing(
    folder, tmp_path, capsys, monkeypatch
):
    def broken(self, *args, **options):
        def call(*args, **inputs):
            raise RuntimeError("C++ compile error\nmain.cpp:3: error: 'tmp5' was not declared\nand much more")

        self._compiled_call_impl = call

    monkeypatch.setattr(torch.nn.Module, "compile", broken)
    model = make_model(folder).language_model
    problem = "torch cannot compile the layers here (main.cpp:3: error: 'tmp5' was not declared)"
    assert compiled.compile_layers(model) == problem
    assert not any(layer._compiled_call_impl for layer in compiled.layers(model))
    loop.run(tiny_config(folder, output_dir=str(tmp_path / "run"), language__compile="always"))
    assert f"note: language.compile: {problem}; continuing without\n" in capsys.readouterr().out
    monkeypatch.setattr(model.model, "_no_split_modules", None)
    assert compiled.compile_layers(model) == "llama does not name its layers"
