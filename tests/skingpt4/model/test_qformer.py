"""The Q-Former: shapes, and LAVIS's names for its tensors."""

import re

import pytest
import torch
from safetensors.torch import save_file

from skingpt4.model.qformer import QFormer
from skingpt4.weights.files.tensors import WeightsMismatch
from tests.support.tiny import NUM_QUERIES, qformer_config

ENCODER_WIDTH = 48


def qformer(**changes) -> QFormer:
    return QFormer(qformer_config(**changes), ENCODER_WIDTH).eval()


def lavis_tensors(source: QFormer) -> dict[str, torch.Tensor]:
    """Our tensors under LAVIS's names, with the text branch and the other parts its file holds."""
    named = {}
    for key, value in source.state_dict().items():
        if key != "query_tokens":
            key = "Qformer.bert." + key.removeprefix("model.")
        key = key.replace(".layernorm.", ".embeddings.LayerNorm.")
        key = key.replace(".attention.attention.", ".attention.self.")
        key = key.replace(".crossattention.attention.", ".crossattention.self.")
        named[key] = value.clone()
    for key in list(named):
        if re.search(r"\.(intermediate|output)_query\.", key):
            named[key.replace("_query.", ".")] = torch.full_like(named[key], 7.0)
    extra = ("Qformer.bert.embeddings.word_embeddings.weight", "Qformer.bert.embeddings.position_embeddings.weight",
             "Qformer.bert.embeddings.position_ids", "Qformer.cls.predictions.bias", "ln_vision.weight",
             "t5_proj.weight")  # fmt: skip
    return named | {key: torch.ones(1, 5) for key in extra}


def test_queries_read_the_tokens():
    model, tokens = qformer(), torch.randn(3, 17, ENCODER_WIDTH)
    with torch.no_grad():
        queries = model(tokens)
        other = model(tokens.flip(0))
    assert queries.shape == (3, NUM_QUERIES, model.width)
    torch.testing.assert_close(other, queries.flip(0))
    assert not torch.allclose(queries[0], queries[1], atol=1e-3)


@pytest.mark.parametrize("nested", [True, False])
def test_lavis_names_are_ours_after_the_map(tmp_path, nested):
    source, target = qformer(), qformer()
    tensors = lavis_tensors(source)
    assert "Qformer.bert.encoder.layer.0.crossattention.self.key.weight" in tensors
    assert "Qformer.bert.encoder.layer.1.output.dense.weight" in tensors
    torch.save({"model": tensors} if nested else tensors, tmp_path / "blip2.pth")
    tokens = torch.randn(2, 17, ENCODER_WIDTH)
    assert not torch.allclose(target(tokens), source(tokens))
    target.load(tmp_path / "blip2.pth")
    assert torch.equal(target(tokens), source(tokens))


def test_weights_that_do_not_fit_are_refused(tmp_path):
    source = qformer()
    torch.save({"model": lavis_tensors(source)}, tmp_path / "blip2.pth")
    wide = rf"blip2\.pth: this Q-Former reads vision tokens {ENCODER_WIDTH} wide, .*'s are {ENCODER_WIDTH + 1} wide"
    with pytest.raises(WeightsMismatch, match=wide):
        QFormer(qformer_config(), ENCODER_WIDTH + 1).load(tmp_path / "blip2.pth")
    with pytest.raises(WeightsMismatch, match=r"query_tokens \(1, 4, 32\) instead of \(1, 5, 32\)"):
        QFormer(qformer_config(num_query_tokens=NUM_QUERIES + 1), ENCODER_WIDTH).load(tmp_path / "blip2.pth")
    ours = {key: value.contiguous() for key, value in source.state_dict().items() if key != "query_tokens"}
    save_file(ours, tmp_path / "ours.safetensors")
    with pytest.raises(WeightsMismatch, match="missing 1: query_tokens"):
        qformer().load(tmp_path / "ours.safetensors")
    torch.save({"model": {"llama_proj.weight": torch.zeros(2, 2)}}, tmp_path / "projection.pth")
    with pytest.raises(WeightsMismatch, match=r"missing \d+: "):  # a file of another model entirely
        qformer().load(tmp_path / "projection.pth")
