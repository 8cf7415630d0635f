"""Lower precisions beside fp32, on a network of kilobytes: what is equal, what differs, what has no kernels."""

import pytest
import torch

from benchmarks.learning import precision
from benchmarks.learning.precision import Precision, measure, table
from skingpt4.support.errors import UserError
from tests.support.tiny import tiny_config


@pytest.fixture
def config(tmp_path, monkeypatch):
    made = tiny_config(tmp_path)
    shown = torch.randn(1, made.qformer.num_query_tokens, made.qformer.width)
    monkeypatch.setattr(precision, "queries", lambda config, dtype: shown.to(getattr(torch, dtype)).float())
    return made


def test_a_lower_precision_is_compared_with_fp32(config):
    result = measure(config, None, (Precision("float32"), Precision("bfloat16", "bfloat16")))
    same, lower = result["rows"]
    assert (same["difference"], same["queries_difference"]) == (0.0, 0.0)
    assert same["cosine_of_gradients"] == pytest.approx(1.0)
    assert 0 < lower["queries_difference"] < 0.02
    assert 0.99 < lower["cosine_of_gradients"] < 1.0
    assert lower["language_model_bytes"] * 2 == same["language_model_bytes"]
    assert table(result).splitlines()[-1].startswith("| bfloat16 | bfloat16 | 0.0")


def test_what_has_no_kernels_is_named_and_nothing_without_fp32(config, monkeypatch):
    real = precision.load_model

    def load(config, *rest, **more):
        if config.language.quantization != "none":
            raise UserError("no kernels here")
        return real(config, *rest, **more)

    monkeypatch.setattr(precision, "load_model", load)
    nf4 = Precision("float32", quantization="nf4")
    result = measure(config, None, (Precision("float32"), nf4))
    assert result["skipped"] == {str(nf4): "UserError: no kernels here"}
    assert len(result["rows"]) == 1
    with pytest.raises(UserError, match=r"fp32 cannot be measured: UserError: no kernels here"):
        measure(config, None, (nf4,))
