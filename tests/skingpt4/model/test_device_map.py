"""A language model divided among the CPU and the disk computes, teaches and answers as the undivided one.

Several GPUs go the same way (accelerate's hooks carry inputs from device to device); no GPU was here to measure it.
"""

import shutil

import pytest
import torch

from skingpt4.checkpoints import checkpoint
from skingpt4.checkpoints.load import load_model
from skingpt4.config.schema import ConfigError
from skingpt4.model.language import LanguageModel
from skingpt4.model.network import SkinGPT4
from skingpt4.model.precision import DeviceError
from skingpt4.training.distributed import launchers
from skingpt4.training.loop import run
from skingpt4.weights.language_model import LanguageModelError
from tests.support.tiny import (
    QUERY_WIDTH,
    batch_of,
    conversation,
    load_language_model,
    make_queries,
    save_language_model,
    tiny_config,
)

# Which modules go to the disk; everything else stays on the CPU.
MAPS = {
    "llama": {
        "last layer": {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk",
                       "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"},
        "embeddings and head": {"model.embed_tokens": "disk", "model.layers": "cpu", "model.norm": "disk",
                                "model.rotary_emb": "cpu", "lm_head": "disk"},
    },
    "falcon": {
        "last layer": {"transformer.word_embeddings": "cpu", "transformer.h.0": "cpu", "transformer.h.1": "disk",
                       "transformer.ln_f": "disk", "transformer.rotary_emb": "cpu", "lm_head": "cpu"},
    },
}  # fmt: skip
CASES = [(family, name) for family, maps in MAPS.items() for name in maps]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("device_map")


def network(folder, family, dtype, **place):
    path = save_language_model(folder / family, family)
    language_model = load_language_model(path, dtype, **place)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return SkinGPT4(None, language_model, QUERY_WIDTH)


@pytest.fixture
def one_chunk(monkeypatch):
    """In chunks a head that is moved between devices sums by another route, see `test_in_chunks`."""
    monkeypatch.setattr("skingpt4.model.loss.LOSS_CHUNK_BYTES", 0)


@pytest.mark.usefixtures("one_chunk")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize(("family", "name"), CASES)
def test_loss_gradient_and_greedy_text_are_those_of_the_undivided_model(
    family, name, dtype, folder, tmp_path
):
    whole = network(folder, family, dtype)
    places = MAPS[family][name]
    divided = network(folder, family, dtype, device_map=places, offload_dir=str(tmp_path))
    assert any(p.is_meta for p in divided.language_model.parameters())  # it is not all in memory
    results = []
    for model in (whole, divided):
        batch = batch_of(
            [conversation(model, "What is it?", "psoriasis"), conversation(model, "And?", "acne")]
        )
        loss, _ = model(**batch, queries=make_queries(2))
        loss.backward()
        prompts = [conversation(model, "What is it?"), conversation(model, "Is it?")]
        texts = model.generate(prompts, make_queries(2), max_new_tokens=8, do_sample=False)
        results.append((loss.detach(), model.projection.weight.grad, texts))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert results[0][1].abs().max() > 0
    assert results[0][2] == results[1][2]
    assert divided.language_model.input_device == torch.device("cpu")
    assert " GiB on cpu" in divided.language_model.describe_place()
    assert " GiB on disk" in divided.language_model.describe_place()


@pytest.mark.parametrize(("family", "name"), CASES)
def test_in_chunks_the_loss_is_the_same_to_rounding(family, name, folder, tmp_path):
    results = []
    for place in ({}, {"device_map": MAPS[family][name], "offload_dir": str(tmp_path)}):
        model = network(folder, family, torch.float32, **place)
        loss, _ = model(**batch_of([conversation(model, "What is it?", "acne")]), queries=make_queries(1))
        loss.backward()
        results.append((loss.detach(), model.projection.weight.grad))
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("device_map", ["auto", "balanced", "sequential", "cpu"])
def test_rules_put_a_small_model_where_there_is_room(device_map, folder, tmp_path):
    memory = {} if device_map == "cpu" else {"max_memory": {"cpu": "1GiB"}}
    model = network(folder, "llama", torch.float32, device_map=device_map, **memory).language_model
    assert not any(p.is_meta for p in model.parameters())


def test_what_does_not_fit_into_max_memory_goes_to_the_disk(folder, tmp_path):
    place = {"device_map": "auto", "max_memory": {"cpu": "60KB"}, "offload_dir": str(tmp_path)}
    model = network(folder, "llama", torch.float32, **place).language_model
    assert any(p.is_meta for p in model.parameters())
    assert list(tmp_path.iterdir()) or "disk" in model.device_map.values()


def test_a_map_that_leaves_modules_out_is_refused(folder, tmp_path):
    path = save_language_model(folder / "llama")
    places = {"model.embed_tokens": "cpu", "model.layers": "disk", "model.norm": "cpu"}
    with pytest.raises(
        LanguageModelError, match=r"language\.model: .* cannot be loaded \(.* lm_head\.weight\)"
    ):
        load_language_model(path, device_map=places, offload_dir=str(tmp_path))


def test_a_gpu_that_is_not_here_is_refused_by_its_key(tmp_path):
    count = torch.cuda.device_count()
    config = tiny_config(tmp_path, language__device_map=f"cuda:{count}")
    with pytest.raises(
        DeviceError, match=rf"language\.device_map: cuda:{count} is not here; .* {count} CUDA"
    ):
        LanguageModel(config.language, "cpu")
    config = tiny_config(tmp_path, encoder__device=f"cuda:{count}")
    with pytest.raises(DeviceError, match=r"encoder\.device: cuda:"):
        load_model(config, None)


PLACES = {
    "last layer": {"language__device_map": MAPS["llama"]["last layer"]},
    "embeddings and head": {"language__device_map": MAPS["llama"]["embeddings and head"]},
    "all that does not fit": {"language__device_map": "auto", "language__max_memory": {"cpu": "20KB"}},
}


@pytest.mark.usefixtures("one_chunk")
@pytest.mark.parametrize("name", PLACES)
def test_a_run_on_a_divided_model_equals_the_undivided_one(name, tmp_path):
    """Through saves with their self-test, a resume, and a load with another map."""
    whole = tiny_config(tmp_path, output_dir=str(tmp_path / "whole"))
    place = {**PLACES[name], "language__offload_dir": str(tmp_path / "o")}
    divided = tiny_config(tmp_path, output_dir=str(tmp_path / "divided"), **place)
    saved = [run(config) for config in (whole, divided)]
    assert (saved[0] / checkpoint.TENSORS).read_bytes() == (saved[1] / checkpoint.TENSORS).read_bytes()
    answers = [checkpoint.load(folder)[1]["known_answer"]["mean_log_probability"] for folder in saved]
    assert answers[0] == pytest.approx(answers[1], abs=1e-4)
    shutil.rmtree(saved[1])
    assert run(divided, resume=True) == saved[1]
    assert (saved[0] / checkpoint.TENSORS).read_bytes() == (saved[1] / checkpoint.TENSORS).read_bytes()
    load_model(whole, saved[1])


def test_a_model_whose_embeddings_were_sent_away_is_one_of_those(tmp_path):
    for name in ("embeddings and head", "all that does not fit"):
        config = tiny_config(tmp_path, **PLACES[name], language__offload_dir=str(tmp_path / "o"))
        assert LanguageModel(config.language).get_input_embeddings().weight.is_meta


def test_several_processes_and_a_map_exclude_each_other(tmp_path, monkeypatch):
    from accelerate import Accelerator

    monkeypatch.setattr(Accelerator, "num_processes", 2)
    monkeypatch.setattr(launchers, "require_launched", lambda num_gpus: 2)
    with pytest.raises(ConfigError, match=r"language\.device_map: spreads one process over devices"):
        run(tiny_config(tmp_path, language__device_map="auto"))
