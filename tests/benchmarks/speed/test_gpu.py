"""The GPU's script on the CPU: every stage at the size of kilobytes, its JSON after each, its bounds in time."""

import json

import pytest
import torch

from benchmarks.__main__ import main
from benchmarks.speed import gpu
from skingpt4.model.prompts import IMAGE_TOKEN
from tests.support.tiny import one_thread  # noqa: F401


@pytest.fixture
def out(tmp_path):
    return tmp_path / "gpu.json"


def test_the_whole_path_runs_without_a_gpu(out, capsys):
    assert main(["gpu", "--small", "--device", "cpu", "--models", "vicuna7b", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    stages = found["stages"]
    assert not any({"failed", "left_out"} & stage.keys() for stage in stages.values())
    assert [name.removeprefix("vicuna7b ") for name in stages] == [
        "build", "train 2", "train 4", *[f"decode {r} {w}" for w in ("plain", "graph") for r in (1, 2)],
        "decode 1 compiled", "train 2 compiled",
    ]  # fmt: skip
    assert stages["vicuna7b train 2 compiled"]["compile_seconds"] > 0
    trained = stages["vicuna7b train 2"]
    assert trained["roofline"]["matrix_share"] > 0
    hours = 20 * 5000 * 2 * (2 / 2) * trained["seconds_a_step"] / 3600
    assert trained["hours_of_both_steps_for_as_many_samples"] == pytest.approx(hours, rel=1e-3)
    assert trained["tokens"]["real"] < trained["tokens"]["with padding"]
    decoded = {name: stage for name, stage in stages.items() if "decode" in name}
    for rows in (1, 2):
        told = [tuple(stage["first_tokens"]) for name, stage in decoded.items() if f"decode {rows}" in name]
        assert len(told) == 4 - rows
        assert len(set(told)) == 1
    assert all(stage["roofline"]["copy_share"] > 0 for stage in decoded.values())


def test_a_stage_that_fails_or_has_no_time_left_is_written_down(out, monkeypatch):
    class Setting:
        class args:
            small = False

        saved = 0

        def save(self, result):
            self.saved += 1

    stages = gpu.Stages(Setting(), minutes=1)
    stages.run("a", lambda: {"line": "good"}, 1)
    stages.run("b", lambda: 1 / 0, 1)
    stages.run("c", lambda: {"line": "good"}, 100)
    kept = stages.result["stages"]
    assert kept["a"]["line"] == "good"
    assert kept["b"]["failed"] == "ZeroDivisionError: division by zero"
    assert "left_out" in kept["c"]
    assert stages.setting.saved == 3


def test_without_a_gpu_it_says_so(capsys, out):
    assert main(["gpu", "--device", "cpu", "--out", str(out)]) == 1
    assert "there is no GPU here" in capsys.readouterr().err
    assert not out.exists()


def test_decoding_on_the_static_cache_is_the_models_own_greedy_decoding():
    model = gpu.build("vicuna7b", torch.device("cpu"), torch.float32, small=True).language_model.model
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(20)  # else all logits are alike
    bench = gpu.Decoding(model, rows=2, prompt=6, tokens=5)
    bench.read()
    first = bench.ids.clone()
    ids = torch.cat([first, *[bench._keep(bench.step) for _ in range(4)]], 1)
    prompt = torch.randint(5, model.config.vocab_size, (2, 6), generator=torch.Generator().manual_seed(0))
    wanted = model.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=5,
                            eos_token_id=None, pad_token_id=0)[:, 6:]  # fmt: skip
    assert torch.equal(ids, wanted)


def test_a_batch_has_a_picture_a_row_and_answers_of_the_spread():
    batch = gpu.batch_of(16, 1000, torch.device("cpu"))
    assert ((batch["input_ids"] == IMAGE_TOKEN).sum(1) == gpu.QUERIES).all()
    lengths = (batch["labels"] >= 0).sum(1)
    assert (lengths.min(), lengths.max()) == (20, 160)
    assert torch.equal(batch["attention_mask"].sum(1), lengths + gpu.PROMPT + gpu.QUERIES)
