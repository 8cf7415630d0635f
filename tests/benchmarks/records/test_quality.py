import json

import pytest

from benchmarks.records import quality
from benchmarks.records.degraded import FAULTS


def test_rates_are_counted_by_fault_and_skin_type(tmp_path, monkeypatch, capsys):
    faults = [fault for fault in FAULTS if fault.strength in ("640 pixels", "0.15 kept")]
    monkeypatch.setattr(quality, "FAULTS", faults)
    monkeypatch.setattr(quality, "NO_SKIN", {"plant": quality.NO_SKIN["plant"]})
    monkeypatch.setattr(quality, "milliseconds", lambda: {"median": 1.0, "least": 1.0})
    assert quality.main(["--per-type", "1", "--out", str(tmp_path / "q.json")]) == 0
    result = json.loads((tmp_path / "q.json").read_text())
    rates = {row["strength"]: row["rate"] for row in result["detection"]}
    assert rates["640 pixels"]["value"] == 1
    assert rates["640 pixels"]["n"] == 6
    assert rates["0.15 kept"]["value"] >= 0.8
    assert set(result["false_alarms"]["by_skin_type"]) == {"1", "2", "3", "4", "5", "6"}
    assert result["no_skin"]["plant"]["value"] == 1
    out = capsys.readouterr().out
    assert "640 pixels" in out
    assert "skin type 6" in out


def test_the_interval_is_wilsons():
    # By hand: n = 10, 9 found, z = 1.959964: (0.9 + z^2/20 -+ z sqrt(0.009 + z^2/400)) / (1 + z^2/10)
    rate = quality.rate(9, 10)
    assert (rate["value"], rate["n"]) == (0.9, 10)
    assert (rate["low"], rate["high"]) == pytest.approx((0.5958, 0.9821), abs=2e-4)


def test_results_are_of_other_pictures_than_the_thresholds(capsys):
    assert quality.main(["--seed", str(quality.CALIBRATION_SEED)]) == 1
    assert "other pictures" in capsys.readouterr().err
