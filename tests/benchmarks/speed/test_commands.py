"""Each benchmark's whole path on a random network of kilobytes; figures are looked at for sense, not for size."""

import json

import pytest
import torch

from benchmarks.__main__ import COMMANDS, main
from benchmarks.harness import counts, shapes
from skingpt4.doctor import memory
from tests.support.tiny import EVA_ARGS, FAMILIES, QFORMER_ARGS, make_encoder


def result_of(argv):
    assert main(argv) == 0
    with open(argv[-1], encoding="utf-8") as file:
        return json.load(file)


def test_training_both_ways_has_equal_losses_and_shows_the_count_beside_the_gain(micro, capsys):
    found = result_of(["train", *micro])
    losses = found["first_loss"]
    assert losses["ours"] == pytest.approx(losses["yardstick"], abs=1e-3)
    assert found["count_ours"]["pictures"] == 0
    assert found["count_yardstick"]["pictures"] == 2
    assert found["count_yardstick"]["logits"] == found["count_yardstick"]["tokens"]
    assert found["count_ours"]["logits"] < found["count_ours"]["tokens"] <= found["count_yardstick"]["tokens"]
    assert found["count_ratio"] > 1
    assert found["measured"]["ratios"]["seconds"]["median"] > 0
    assert found["measured"]["ours"]["peak_bytes_above_weights"][0] is not None
    assert found["command"].startswith("python -m benchmarks train --shape micro")
    assert "fewer operations; measured" in capsys.readouterr().out


def test_every_lever_is_left_out_in_its_turn(micro, capsys, monkeypatch):
    monkeypatch.setattr("skingpt4.training.compiled.compile_layers", lambda model: None)
    monkeypatch.setattr("skingpt4.training.batches.GROUP_TOKENS", 100)  # makes more than one group
    found = result_of(["levers", "language.compile=always", "--dtype", "float32", *micro])["ways"]
    assert list(found) == [
        "all levers", "data.feature_cache=null", "logits at all positions", "logits in one chunk",
        "data.batching=padded", "language.attention=eager", "language.compile=never",
        "the original's way",
    ]  # fmt: skip
    assert found["all levers"]["ratios"]["seconds"]["each"] == [1.0]
    counted = {name: row["counted"] for name, row in found.items()}
    own, every = counted["all levers"], counted["logits at all positions"]
    assert own["logits"] < every["logits"] == every["tokens"] == own["tokens"]
    assert counted["data.feature_cache=null"]["pictures"] == counted["the original's way"]["pictures"] == 2
    assert (
        counted["data.batching=padded"]["tokens"] == counted["the original's way"]["tokens"] >= own["tokens"]
    )
    assert found["the original's way"]["count_ratio"] > found["logits at all positions"]["count_ratio"] > 1
    assert "| without | time | peak memory | by the count |" in capsys.readouterr().out


def test_where_torch_cannot_compile_the_benchmark_runs_the_layers_as_written(micro, capsys, monkeypatch):
    monkeypatch.setattr("skingpt4.training.compiled.compile_layers", lambda model: "no compiler")
    found = result_of(["levers", "language.compile=always", *micro])
    assert found["compile_seconds"] is None
    assert "language.compile=never" not in found["ways"]
    assert "layers as written: no compiler" in capsys.readouterr().out


def test_a_lever_is_an_override_of_our_side(micro):
    found = result_of(["train", "data.batching=padded", *micro])
    assert found["settings"]["batching"] == "padded"
    assert found["count_ours"]["tokens"] == found["count_yardstick"]["tokens"]


def test_scoring_is_timed_only_where_both_ways_agree(micro, monkeypatch, capsys):
    found = result_of(["scoring", *micro])
    assert found["largest_difference_nats"] < 1e-3
    assert found["count_ratio"] > 1
    assert found["with_the_encoder_for_every_class"]["ratios"]["seconds"]["each"]
    monkeypatch.setattr("benchmarks.speed.scoring.score_answers", lambda *args: torch.zeros(1, 15))
    assert main(["scoring", *micro]) == 1
    assert "differ by" in capsys.readouterr().err


def test_decoding_gives_the_originals_tokens(micro):
    found = result_of(["decode", *micro])
    assert [row["conversations"] for row in found["rows"]] == [1, 2]
    for row in found["rows"]:
        assert row["equal_answers"] == row["conversations"]
        assert row["roofline"]["copy_share"] > 0


def test_what_does_not_fit_is_refused_with_its_parts(micro, monkeypatch, capsys):
    monkeypatch.setattr(memory, "weight_bytes", lambda *args: 10**15)
    assert main(["train", *micro]) == 1
    message = capsys.readouterr().err
    assert "needs about" in message
    assert "language model 931322.6" in message


@pytest.mark.parametrize("name", COMMANDS)
def test_every_name_has_its_help(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert f"usage: python -m benchmarks {name}" in capsys.readouterr().out


def test_names_are_listed_and_unknown_ones_refused(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in COMMANDS)
    assert main(["trian"]) == 2
    assert "no benchmark 'trian'" in capsys.readouterr().err


@pytest.mark.parametrize("family", ["llama", "falcon"])
def test_random_models_are_filled_where_they_stand_and_keep_ties(family):
    sizes = {**FAMILIES[family], "vocab_size": 50, "tie_word_embeddings": family == "falcon"}
    model = shapes.random_language_model(family, sizes, torch.device("cpu"), torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert not any(p.is_meta or p.requires_grad for p in model.parameters())
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert tied == (family == "falcon")
    assert model(input_ids=torch.arange(5)[None]).logits.std() > 0
    table = model.get_input_embeddings().weight
    total = sum(p.numel() * 2 for p in model.parameters())
    assert counts.decode_bytes(model) == total - (0 if tied else table.numel() * 2)


def test_the_encoders_operations_are_those_of_its_matrices():
    vision = make_encoder().vision_encoder
    width, tokens, hidden = EVA_ARGS["embed_dim"], 17, vision.backbone.blocks[0].mlp.fc1.out_features
    block = 2 * tokens * (4 * width * width + 2 * width * hidden)
    patches = 2 * 16 * 3 * 14 * 14 * width
    assert counts.forward_flops(vision, torch.zeros(1, 3, 56, 56)) == 2 * block + patches
    assert QFORMER_ARGS["width"] == width
