"""Arms of different configurations and language models in one run's folder, by one command each."""

import json

import torch

from eval import run
from eval.asking.answers import arm_files, read_lines, read_run
from eval.measures.results import run_lines, write_results
from skingpt4.checkpoints.minigpt4 import BIAS, WEIGHT
from skingpt4.config.load import to_yaml
from tests.support.respondents import write_cases
from tests.support.tiny import QUERY_WIDTH, tiny_config


def test_minigpt4_s_true_pair_and_ours_with_another_language_model_are_one_run(tmp_path, capsys):
    cases, out = write_cases(tmp_path / "cases.jsonl", 4), tmp_path / "run"
    minigpt4 = tmp_path / "prerelease.pth"
    projection = torch.nn.Linear(QUERY_WIDTH, 32)
    torch.save({"model": {WEIGHT: projection.weight.data, BIAS: projection.bias.data}}, minigpt4)

    def answer(arm, family, template, *more):
        folder = tmp_path / family
        if not (folder / "config.yaml").is_file():
            config = tiny_config(folder, family, prompt__template=template, data__augment=False,
                                 data__feature_cache=str(folder / "features"))  # fmt: skip
            (folder / "config.yaml").write_text(to_yaml(config))
        return run.main(["--config", str(folder / "config.yaml"), "--cases", str(cases), "--run-dir", str(out),
                         "--arm", arm, "--max-new-tokens", "3", *more])  # fmt: skip

    def files():
        return {path.name: path.read_bytes() for path in (out / "answers").glob("*.jsonl")}

    pair = (f"minigpt4={minigpt4}", "llama", "minigpt4_chat")
    assert answer(*pair) == 1
    assert "overlap with its training cannot be checked" in capsys.readouterr().err
    assert answer(*pair, "--allow-overlap") == 0
    first = files()
    assert answer("untrained_qwen=untrained", "qwen2", "vicuna") == 0
    assert files()["minigpt4.jsonl"] == first["minigpt4.jsonl"]
    both = files()
    cards = [path.read_bytes() for path in sorted((out / "answers").glob("*.meta.json"))]
    assert all(json.loads(card)["usage"]["peak_memory_bytes"] > 0 for card in cards)
    assert answer(*pair, "--allow-overlap") == answer("untrained_qwen=untrained", "qwen2", "vicuna") == 0
    assert files() == both, "a repeated command asks nothing again"
    assert [path.read_bytes() for path in sorted((out / "answers").glob("*.meta.json"))] == cards
    assert answer("minigpt4=untrained", "qwen2", "vicuna") == 1
    assert "made with other settings" in capsys.readouterr().err
    metas = {name: json.loads((out / f"answers/{name}.meta.json").read_text())
             for name in ("minigpt4", "untrained_qwen")}  # fmt: skip
    for key in ("language_model", "template", "checkpoint_sha256"):
        assert metas["minigpt4"][key] != metas["untrained_qwen"][key]
    assert metas["untrained_qwen"]["checkpoint"] is None
    assert metas["minigpt4"]["overlap_not_compared"]
    assert {a.fields["template"] for a in read_lines(arm_files(out, "minigpt4"))} == {"minigpt4_chat"}
    assert {name: len(rows) for name, rows in run_lines(read_run(out)).items()} == {
        "minigpt4": 4,
        "untrained_qwen": 4,
    }
    results = write_results(out)
    assert results["pairs"]["minigpt4_minus_untrained_qwen"]["top1"]["n"] == 4
