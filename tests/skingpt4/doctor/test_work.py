"""The operations of a run: counted from shapes, and printed in units that a person reads."""

import pytest

from skingpt4.doctor.shapes import shape_of
from skingpt4.doctor.work import duration, operations, sample_operations
from tests.support.tiny import make_model, tiny_config


def test_a_token_costs_four_operations_for_each_frozen_number(tmp_path):
    config = tiny_config(tmp_path)
    model = make_model(tmp_path).language_model.model
    matrices = sum(p.numel() for name, p in model.named_parameters()
                   if p.dim() == 2 and "embed" not in name and "lm_head" not in name)  # fmt: skip
    head = model.get_output_embeddings().weight.numel()
    counted = sample_operations(config, shape_of(config.language.model), 50, 10, 7e9)
    assert counted == pytest.approx(4 * 50 * matrices + 4 * 10 * head + 7e9)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0.0 GFLOP"), (3.26e10, "32.6 GFLOP"), (1.24e13, "12.4 TFLOP"), (7.83e12, "7.8 TFLOP"),
     (2.48e18, "2.5 EFLOP"), (5e22, "50,000.0 EFLOP")],
)  # fmt: skip
def test_operations_have_a_unit(count, text):
    assert operations(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0583, "0.1 s"), (90, "1.5 min"), (24_800, "6.9 h"), (9e5, "250.0 h")]
)
def test_times_have_a_unit(seconds, text):
    assert duration(seconds) == text
