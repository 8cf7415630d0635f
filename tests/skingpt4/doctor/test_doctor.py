"""The doctor: each mistake that users make is named before anything is loaded, with the command that fixes it."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from skingpt4.cli import doctor
from skingpt4.config.load import to_yaml
from skingpt4.config.schema import Config, LanguageConfig
from skingpt4.doctor import memory
from skingpt4.doctor.examine import examine
from skingpt4.doctor.findings import MISSING, OK, WARNING, Facts
from skingpt4.doctor.machine import kernels
from skingpt4.doctor.shapes import shape_of
from skingpt4.training.loop import run
from skingpt4.weights.fetch.catalogue import fetch_command
from tests.support.tiny import (
    make_tokenizer,
    tiny_config,
    write_manifest,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("doctor")


@pytest.fixture(scope="module")
def parent(folder):
    return str(run(tiny_config(folder, output_dir=str(folder / "parent"))))


class Plenty:
    available = 64 << 30


@pytest.fixture(autouse=True)
def nothing_is_loaded(parent, monkeypatch):
    """No language model is ever loaded, and no hub is ever asked."""
    monkeypatch.setattr(
        AutoModelForCausalLM, "from_pretrained", lambda *a, **k: pytest.fail("loaded a model")
    )
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *a, **k: pytest.fail("asked the hub"))
    monkeypatch.setattr("psutil.virtual_memory", Plenty)  # whatever else this machine is doing


@pytest.fixture
def configure(folder, tmp_path):
    def make(**changes):
        return tiny_config(folder, **{"output_dir": str(tmp_path / "run"), **changes})

    return make


def examined(config):
    return examine(Facts(config))


def finding(config, name):
    (one,) = [f for f in examined(config) if f.name == name]
    return one


def states(config):
    return {f.name: f.state for f in examined(config)}


def test_a_complete_configuration_passes(configure):
    assert set(states(configure()).values()) == {OK}


def test_it_takes_no_memory_for_the_network(configure, monkeypatch):
    """Nothing larger than the probe of one image is allocated outside the meta device."""
    largest = 0
    empty = torch.empty

    def watched(*size, **options):
        nonlocal largest
        made = empty(*size, **options)
        largest = max(largest, 0 if made.is_meta else made.nbytes)
        return made

    monkeypatch.setattr(torch, "empty", watched)
    before = torch.nn.Parameter.__new__
    made = []
    monkeypatch.setattr(
        torch.nn.Parameter, "__new__", lambda cls, *a, **k: made.append(before(cls, *a, **k)) or made[-1]
    )
    examined(configure())
    assert largest < 1 << 20
    assert made


def test_each_missing_file_has_a_line_and_a_fix(configure):
    config = configure(
        vision__weights="weights/dinov2-vit-s14-reg4/none.safetensors",
        qformer__weights="weights/blip2_none.pth",
        data__train=["runs/phantoms/none/manifest.jsonl"],
        initial_checkpoint="runs/none",
    )
    assert "skingpt4 weights fetch tiny" in finding(config, "vision encoder").fix
    assert "docs/weights.md" in finding(config, "Q-Former").fix
    assert "make quickstart" in finding(config, "data.train").fix
    lines = {f.name: f for f in examined(config)}
    for name in ("vision encoder", "Q-Former", "data.train", "starts from"):
        assert lines[name].state == MISSING


def test_wrong_shapes_are_read_from_headers(configure):
    line = finding(configure(qformer__num_query_tokens=5), "Q-Former")
    assert line.state == MISSING
    assert "query_tokens (1, 4, 32) instead of (1, 5, 32)" in line.text


def test_a_truncated_file_is_named(configure, folder, tmp_path):
    complete = Path(configure().vision.weights)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(complete.read_bytes()[:-100])
    line = finding(configure(vision__weights=str(cut)), "vision encoder")
    assert line.state == MISSING
    assert "truncated" in line.text


def test_a_lost_shard_of_the_language_model_is_named(configure, tmp_path):
    shutil.copytree(configure().language.model, tmp_path / "lm")
    path = tmp_path / "lm" / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.norm.weight"]
    save_file(tensors, path)
    line = finding(configure(language__model=str(tmp_path / "lm")), "its tensors")
    assert line.state == MISSING
    assert "model.norm.weight" in line.text


def test_a_language_model_with_an_unknown_part_is_named(configure, tmp_path):
    path = tmp_path / "lm"
    shutil.copytree(configure().language.model, path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"hidden_act": "no_such_activation"}))
    *_, line = [f for f in examined(configure(language__model=str(path))) if f.name == "language model"]
    assert line.state == MISSING
    assert re.search(r"its config.json is not usable: .* cannot be loaded: .*no_such_activation", line.text)


def test_a_tokenizer_of_another_model_is_refused(configure, tmp_path):
    shutil.copytree(configure().language.model, tmp_path / "lm")
    make_tokenizer("falcon").save_pretrained(tmp_path / "lm")  # 300 tokens for a table of fewer
    line = finding(configure(language__model=str(tmp_path / "lm")), "tokenizer")
    assert line.state == MISSING
    assert "another model's tokenizer" in line.text


def test_a_template_whose_end_is_not_a_token_is_refused(configure):
    line = finding(configure(prompt__template="chatml"), "prompt template")
    assert line.state == MISSING
    assert "<|im_end|>" in line.text
    assert finding(configure(prompt__template="llama2"), "prompt template").state == OK
    assert finding(configure(prompt__template="tokenizer"), "prompt template").state == MISSING
    assert "unknown" in finding(configure(prompt__template="vicunna"), "prompt template").text


def test_a_published_model_that_is_not_here_is_estimated_and_not_fetched(configure, monkeypatch):
    monkeypatch.delenv(
        "HF_HUB_OFFLINE", raising=False
    )  # a served page in another test sets it for its process
    config = configure(language__model="meta-llama/Llama-2-13b-chat-hf")
    lines = {f.name: f for f in examined(config)}
    assert lines["language model"].state == WARNING
    assert "26 GB; gated" in lines["language model"].text
    assert lines["language model"].fix == (
        "skingpt4 weights fetch llama-2-13b-chat, then language.model=weights/llama-2-13b-chat"
    )
    assert "13,016 M" in lines["family and sizes"].text
    assert lines["memory, training"].text.startswith("about ")
    unknown = finding(configure(language__model="nobody/nothing"), "language model")
    assert "size unknown offline" in unknown.text


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("vicuna-7b-v1.5", "6,738 M"), ("vicuna-13b-v0", "13,016 M"), ("falcon-40b-instruct", "")],
)
def test_a_published_model_that_was_not_fetched_is_estimated_and_its_command_named(
    name, parameters, configure
):
    lines = {f.name: f for f in examined(configure(language__model=f"weights/{name}"))}
    assert lines["language model"].state == MISSING
    assert lines["language model"].fix == fetch_command(f"weights/{name}")
    assert parameters in lines["family and sizes"].text
    assert lines["family and sizes"].text.endswith("(published sizes)")
    assert lines["memory, training"].text.startswith("about ")


def test_offline_a_model_that_is_not_here_stops_the_run(configure, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert finding(configure(language__model="nobody/nothing"), "language model").state == MISSING


def test_too_little_memory_stops_and_says_what_helps(configure, monkeypatch):
    class Little:
        available = 100 << 20

    monkeypatch.setattr("psutil.virtual_memory", Little)
    line = finding(configure(), "memory, training")
    assert line.state == MISSING
    assert "optim.batch_size" in line.fix


@pytest.fixture
def ranks(monkeypatch):
    """Sets a launcher's environment: four processes, two of them on this machine."""

    def launch(**more):
        for name, value in {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", **more}.items():
            monkeypatch.setenv(name, value)

    return launch


def test_the_memory_of_each_process_is_compared_with_what_a_machine_has(configure, ranks, monkeypatch):
    class Free:
        available = 64 << 30

    monkeypatch.setattr("psutil.virtual_memory", Free)
    config = configure()
    plain = finding(config, "memory, training")
    ranks()
    several = finding(config, "memory, training")
    assert "of host memory for each of 4 processes, 2 of them on this machine (" in several.text
    assert several.text.split(" GiB")[0] == plain.text.split(" GiB")[0]
    count = config.optim.batch_size * config.optim.accumulation * 4
    assert f"4, 2 on this machine; a step takes {count} samples" in finding(config, "processes").text
    need = float(plain.text.removeprefix("about ").split()[0])
    Free.available = int(need * 1.5 * 2**30)  # enough for one of them
    assert finding(config, "memory, training").state == MISSING
    assert finding(config, "memory, chat").state != MISSING


def test_sharded_processes_hold_a_part_of_the_language_model(configure, ranks):
    config = Config(language=LanguageConfig("tiiuae/falcon-40b-instruct", "bfloat16", attention="sdpa"))
    config.data.feature_cache, config.step = "cached", "step1"
    fsdp = {"FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP"}
    ranks(ACCELERATE_USE_FSDP="true", **fsdp)
    found = {line.name: line for line in examined(configure())}
    assert "FSDP shards the language model" in found["processes"].text
    assert "for each of 4 processes" in found["memory, training"].text
    assert "memory, chat" not in found
    shape = shape_of(config.language.model)
    parts = memory.training(config, shape, "bfloat16", 0)
    four = memory.sharded(parts, config, shape, "bfloat16", memory.Sharding(4))
    layers, complete = 2 * shape.num_in_matrices, 2 * shape.num_others
    assert four[memory.LANGUAGE_MODEL] == complete + layers / 4
    assert four[memory.GATHERED] == 2 * layers / 60
    assert four[memory.ACTIVATIONS] == parts[memory.ACTIVATIONS]
    less = memory.sharded(parts, config, shape, "bfloat16", memory.Sharding(4, True, True))
    assert less[memory.LANGUAGE_MODEL] == complete
    tokens = 2 * (32 + 40 + 160)
    assert less[memory.ACTIVATIONS] == 60 * tokens * 8192 * 2 + parts[memory.ACTIVATIONS] // 60


@pytest.mark.parametrize(
    ("capability", "built_for", "state"),
    [
        ((7, 0), ["sm_75", "sm_80", "sm_90a", "compute_120"], MISSING),
        ((7, 0), ["sm_50", "sm_70", "sm_90"], None),
        ((9, 0), ["sm_75", "sm_90a"], None),
        ((7, 0), [], None),
    ],
)
def test_a_card_without_kernels_in_this_torch_is_named(capability, built_for, state, monkeypatch):
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: capability)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "Tesla V100")
    monkeypatch.setattr("torch.cuda.get_arch_list", lambda: built_for)
    lines = list(kernels())
    assert [line.state for line in lines] == ([state] if state else [])
    if lines:
        assert "Tesla V100 has capability 7.0" in lines[0].text
        assert "TORCH_INDEX" in lines[0].fix


def test_a_full_disk_stops_the_run(configure, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))
    assert finding(configure(), "disk").state == MISSING


def test_a_parent_is_compared_without_loading_it(configure, folder, parent):
    untrained = finding(configure(seed=7), "starts from").text
    assert untrained.startswith(
        "an untrained projection (seed 7); this step then has to learn what the vectors mean"
    )
    line = finding(configure(initial_checkpoint=parent), "starts from")
    assert line.state == OK, line
    other = finding(configure(initial_checkpoint=parent, prompt__template="llama2"), "starts from")
    assert other.state == MISSING
    assert "template" in other.text
    wrong_family = finding(
        configure(initial_checkpoint=parent, language__model=str(folder / "qwen2")), "starts from"
    )
    assert wrong_family.state != OK


def test_of_a_projection_of_minigpt4_only_the_widths_are_checked(configure, tmp_path):
    tensors = {"llama_proj.weight": torch.ones(32, 32), "llama_proj.bias": torch.ones(32)}
    torch.save({"model": tensors, "epoch": 1}, tmp_path / "prerelease.pth")
    line = finding(configure(initial_checkpoint=str(tmp_path / "prerelease.pth")), "starts from")
    assert line.state == WARNING
    assert "MiniGPT-4's layout" in line.text
    assert "the file does not say" in line.text
    tensors = {"llama_proj.weight": torch.ones(4096, 768), "llama_proj.bias": torch.ones(4096)}
    torch.save({"model": tensors}, tmp_path / "minigpt4.pth")
    for name, state in (("vicuna-7b-v0", "the file does not say"), ("vicuna-7b-v1.5", "has 32,000")):
        config = configure(
            language__model=f"weights/{name}", initial_checkpoint=str(tmp_path / "minigpt4.pth")
        )
        config.qformer.width = 768
        line = finding(config, "starts from")
        assert line.state == WARNING
        assert state in line.text
    tensors = {"llama_proj.weight": torch.ones(32, 768), "llama_proj.bias": torch.ones(32)}
    torch.save({"model": tensors}, tmp_path / "other.pth")
    line = finding(configure(initial_checkpoint=str(tmp_path / "other.pth")), "starts from")
    assert line.state == MISSING
    assert "[32, 768], this network needs [32, 32]" in line.text


def test_a_device_that_is_not_here_stops_the_run(configure):
    gone = f"cuda:{torch.cuda.device_count()}"
    for key in ("encoder__device", "language__device_map"):
        line = finding(configure(**{key: gone}), "placement")
        assert line.state == MISSING
        assert f"{key.replace('__', '.')}: {gone} is not here" in line.text
    assert "placement" not in states(configure(encoder__device="cpu", language__device_map="cpu"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, which is fast in fp16")
def test_fp16_on_a_cpu_is_slow_and_not_impossible(configure):
    assert finding(configure(language__dtype="float16"), "device").state == WARNING


def test_a_file_in_place_of_a_language_model_is_named_as_one(configure, tmp_path):
    config = configure(language__model=configure().vision.weights)
    assert "is a file; name a language model's directory" in finding(config, "language model").text
    assert "is not there" in finding(configure(language__model=str(tmp_path / "none")), "language model").text


def test_the_command_prints_a_table_or_json_and_sets_the_status(configure, tmp_path, capsys):
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(configure()))
    assert doctor.main(["--config", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "Nothing stops this run." in shown
    assert "Research software, not a medical device." in shown
    assert doctor.main(["--config", str(path), "--json", "prompt.template=chatml"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False
    (template,) = [f for f in report["findings"] if f["name"] == "prompt template"]
    assert template["state"] == "missing"
    assert template["fix"] == "prompt.template=vicuna"
    assert doctor.main(["--config", str(path), "prompt.templte=x"]) == 1
    assert "did you mean" in capsys.readouterr().err


def test_records_shared_with_the_evaluation_stop_the_run_unless_allowed(configure, tmp_path):
    train = write_manifest(tmp_path / "train.jsonl", 4, sha256="ab" * 32)
    cases = write_manifest(tmp_path / "cases.jsonl", 2, sha256="ab" * 32)
    changes = {"data__train": [train], "data__evaluation": [cases]}
    line = finding(configure(**changes), "data.evaluation")
    assert line.state == MISSING
    assert "4 by the same picture, first " in line.text
    assert "train.jsonl, line 1" in line.text
    line = finding(configure(**changes, data__allow_overlap=True), "data.evaluation")
    assert line.state == WARNING
    assert "allowed by data.allow_overlap" in line.text
    line = finding(configure(data__evaluation=["later.jsonl"]), "data.evaluation")
    assert line.state == WARNING
    assert line.text.startswith("later.jsonl does not exist, so overlap")
    separate = write_manifest(tmp_path / "b.jsonl", 1, first=100)
    assert finding(configure(data__evaluation=[separate]), "data.evaluation").state == OK
    copied = write_manifest(tmp_path / "c.jsonl", 1)  # neither side has hashes: they are computed
    line = finding(configure(data__evaluation=[copied]), "data.evaluation")
    assert line.state == MISSING
    assert "1 by the same picture, first " in line.text


def test_records_without_an_answer_stop_the_run(configure, tmp_path):
    config = configure(data__train=[write_manifest(tmp_path / "train.jsonl", 3, concepts=[])])
    config.prompt.use_disease = config.prompt.use_note = False
    for model in (config.language.model, "nobody/nothing"):  # with a tokenizer and without
        config.language.model = model
        line = finding(config, "samples")
        assert line.state == MISSING
        assert "none of the 3 records has what this step teaches" in line.text


def test_the_parts_of_answers_are_counted_and_captions_that_nobody_wrote_are_missed(configure, tmp_path):
    assert finding(configure(), "answers").text.endswith(": 6 concepts, 6 disease, 3 note")
    config = configure(prompt__use_caption=True)
    line = finding(config, "answers")
    assert (line.state, line.fix) == (WARNING, "skingpt4 describe, with a checkpoint of step 1")
    config.data.train = [write_manifest(tmp_path / "described.jsonl", caption="I see plaques.")]
    assert "6 caption" in finding(config, "answers").text


def test_what_is_trained_is_counted(configure):
    assert finding(configure(), "trained").text.startswith("1 linear layer: 0.00 M of 0 M")
    assert "and LoRA of rank 2 on the" in finding(configure(lora__rank=2), "trained").text


def test_a_chat_needs_no_data(configure):
    names = states(configure(step="none", data__train=[]))
    assert "data.train" not in names
    assert not names.keys() & {"memory, training", "samples", "trained"}
