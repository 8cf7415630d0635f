"""The tables of README and docs/performance.md from results on file, and from results that are not there."""

import json

from benchmarks.speed import summary

PAIRED = {
    "ratios": {
        "seconds": {"median": 2.0, "minimum": 1.5, "maximum": 2.5, "each": [1.5, 2.5]},
        summary.FOLLOW_UP: {"median": 4.0, "minimum": 4.0, "maximum": 4.0, "each": [4.0]},
    },
    "peak_ratio": 8.0,
    "ours": {"seconds": [1.0, 3.0], summary.FOLLOW_UP: [0.5]},
    "yardstick": {"seconds": [4.0], summary.FOLLOW_UP: [2.0]},
}
PLACE = {
    "dtype": "float32", "commit": "0123456789" * 4 + "+changes",
    "hardware": {"cpu": "Intel(R) Xeon(R) Processor", "cores": 2},
}  # fmt: skip


def test_a_row_has_both_ways_the_spread_and_where_it_was_measured(tmp_path, monkeypatch):
    chat = {"what": "a consultation with answers of 9 tokens", "same_answers": [True], "measured": PAIRED}
    (tmp_path / "chat.json").write_text(json.dumps(PLACE | chat))
    monkeypatch.setattr(summary, "RESULTS", tmp_path)
    lines = summary.pairs_table().splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2] == "| `train` | not measured | | | | |"
    assert (
        "| `chat`: 4 turns, answers of 9 tokens, all equal | 2 and 4 s | **2.00 x** (1.50 to 2.50, 2 pairs) |  "
        "| 0.12 x | fp32, 2 cores, Intel Xeon, 0123456+changes |"
    ) in lines
    assert (
        "| its first tokens of turns 2 to 4 | 0.5 and 2 s | **4.00 x** (4.00 to 4.00, 1 pair) |  |  "
        "| fp32, 2 cores, Intel Xeon, 0123456+changes |"
    ) in lines


def test_several_users_beside_one_answer_at_a_time():
    waits = {"mean seconds to first token": [0.1, 0.3], "longest seconds to first token": [1.0]}
    compared = PAIRED | {"ours": waits, "yardstick": waits}
    side = {"tokens_per_second": 12.34}
    result = {"users": [{"num_users": 4, "measured": compared, "ours": side, "yardstick": side}]}
    assert summary.serving_table(result).splitlines()[-1] == (
        "| 4 | 12.3 against 12.3 | 0.20 against 0.20 | 1.00 against 1.00 | 2.00 x (1.50 to 2.50) |"
    )
