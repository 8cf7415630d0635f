"""The CPU's settings: how answers are compared, the table, and (with the default's weights) the whole path."""

import json

import pytest

from benchmarks.__main__ import main
from benchmarks.speed import cpu
from skingpt4.support.errors import UserError


def test_answers_are_compared_up_to_the_first_word_that_differs():
    found = cpu.agreement(["a b c d", "x y"], ["a b z d", "x y"])
    assert found == {"equal_answers": 1, "of": 2, "share_before_the_first_difference": 0.75}
    assert cpu.agreement(["a b"], ["a b c d"])["share_before_the_first_difference"] == 0.5


def test_the_table_has_a_row_a_setting_and_no_step_where_none_was_taken():
    row = {
        "setting": "float32 sdpa", "threads": 2, "weights_mib": 513.1, "read_seconds": 0.25,
        "decode_tokens_per_second": 20.0, "train_seconds": None, "equal_answers": 3, "of": 4,
    }  # fmt: skip
    assert (
        cpu.table({"rows": [row]}).splitlines()[-1]
        == "| float32 sdpa | 2 | 513 | 0.250 | 20.0 | - | 3 of 4 |"
    )


@pytest.mark.default
def test_variants_in_turns_and_one_without_kernels_is_skipped_with_its_reason(tmp_path, monkeypatch, capsys):
    real = cpu.load

    def load(variant, checkpoint):
        if variant.quantization != "none":
            raise UserError("no kernels here")
        return real(variant, checkpoint)

    monkeypatch.setattr(cpu, "load", load)
    monkeypatch.setattr(cpu, "VARIANTS", (cpu.VARIANTS[0], cpu.VARIANTS[1], cpu.VARIANTS[4]))
    out = tmp_path / "cpu.json"
    assert main(["cpu", "--small", "--threads", "1", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert {row["setting"] for row in found["rows"]} == {"float32 eager", "float32 sdpa"}
    assert all(row["decode_tokens_per_second"] > 0 and row["equal_answers"] == 1 for row in found["rows"])
    assert found["skipped"] == {"float32 eager torchao_int8": "UserError: no kernels here"}
    assert "skipped float32 eager torchao_int8: UserError: no kernels here" in capsys.readouterr().out
