"""The tables about a laptop's engines, from results of the form that the benchmarks write."""

from benchmarks.laptop import tables

NEAR = {"answers": 8, "equal_answers": 5, "same_likeliest_token": 0.985, "mean_difference_nats": 0.0123}
SPEEDS = {
    "users": [1, 8],
    "rows": [{
        "engine": "llama_cpp", "precision": "q8_0", "bytes": 144_000_000,
        "rates": [
            {"tokens_per_second": {"llama_cpp q8_0": [60.0, 70.0, 50.0], "in_process": [15.0, 14.0, 16.0]},
             "ratios": [4.0, 5.0, 3.125], "median_ratio": 4.0, "agreement": NEAR},
            {"tokens_per_second": {"llama_cpp q8_0": [80.0], "in_process": [40.0]},
             "ratios": [2.0], "median_ratio": 2.0, "agreement": NEAR},
        ],
    }],
}  # fmt: skip


def test_speeds_have_both_sides_the_ratio_and_its_spread():
    row = tables.speeds(SPEEDS).splitlines()[-1]
    assert row == (
        "| llama.cpp | q8_0, 144 MB | 60.0 against 15.0 tokens/s, **4.00 x** (3.12 to 5.00, 3 pairs) | "
        "80.0 against 40.0 tokens/s, **2.00 x** (2.00 to 2.00, 1 pairs) |"
    )


def test_agreement_is_that_of_most_users():
    assert tables.agreement(SPEEDS).splitlines()[-1] == "| llama.cpp | q8_0 | 5 of 8 | 98.5 % | 0.0123 |"


def test_cases_have_shares_with_intervals():
    share = {"value": 0.5, "low": 0.42, "high": 0.58, "n": 150}
    row = {"equal_answers": share, "top1_text": share, "concept_micro_f1": share}
    lines = tables.cases({"rows": {"in_process": row, "q8_0": row}}).splitlines()
    assert lines[2] == "| in process |  | 50.0 % (42.0 to 58.0) | 50.0 % (42.0 to 58.0) | 150 |"
    assert lines[3].startswith("| llama.cpp, q8_0 | 50.0 % (42.0 to 58.0) |")
