"""A shape of kilobytes named micro, built as the paper's shapes are."""

import json

import pytest

from benchmarks.harness import shapes
from tests.support.tiny import EVA, EVA_ARGS, FAMILIES

MICRO = """
step: step2
output_dir: unused
vision: {{model: {eva}, model_args: {args}, image_size: 56, norm_eps: 1.0e-5}}
qformer: {{num_query_tokens: 4, width: 32, num_layers: 2, num_heads: 2, intermediate_width: 64}}
language: {{model: micro/llama, dtype: float32}}
prompt: {{template: vicuna}}
"""


@pytest.fixture
def make_micro(tmp_path, monkeypatch):
    """Registers the shape with a language model of a family; returns the arguments that ask for it."""

    def make(family, *options):
        path = tmp_path / "micro.yaml"
        path.write_text(MICRO.format(eva=EVA, args=json.dumps(EVA_ARGS)))
        language = family, {**FAMILIES[family], "vocab_size": 1100}
        monkeypatch.setitem(shapes.SHAPES, "micro", shapes.Shape("micro", str(path), language))
        common = ["--shape", "micro", "--device", "cpu", *options]
        return [*common, "--small", "--out", str(tmp_path / "out.json")]

    return make


@pytest.fixture
def micro(make_micro):
    """The arguments that ask for the shape with a Llama."""
    return make_micro("llama")
