"""The comparison of estimated and measured memory, without measuring: what is asked of processes, what is written."""

import json

from benchmarks.memory import estimate


def test_estimates_stand_beside_what_processes_measured(tmp_path, monkeypatch, capsys):
    asked = []

    def measured(words, environment=None):
        asked.append((words, environment))
        return {"tokens": 216, "peak": (2 if environment else 4) * 2**30}

    monkeypatch.setattr(estimate, "_measured", measured)
    monkeypatch.setattr(estimate.torch.cpu, "_is_amx_tile_supported", lambda: False)
    out = tmp_path / "memory.json"
    assert estimate.main(["--measure", "--out", str(out)]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [(row["what"], row["batch"]) for row in rows] == [("training", 1), ("training", 8), ("chat", 1)]
    assert [row["returning_gib"] for row in rows] == [None, 2.0, None]
    assert [environment for _, environment in asked] == [None, None, estimate.RETURNING, None]
    assert rows[1]["estimated_gib"] > rows[0]["estimated_gib"] > 0.5
    lines = capsys.readouterr().out.splitlines()
    assert lines[3].startswith("| training | float32 | 8 | 216 | ")
    assert lines[3].endswith(" | 2.00 |")
