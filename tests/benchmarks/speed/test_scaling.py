"""Scaling: rows, table and plot on the network of kilobytes; as many processes as were asked for."""

import json
import types

import pytest
import torch
from PIL import Image

from benchmarks.__main__ import main
from benchmarks.harness import shapes
from benchmarks.harness.options import Setting
from benchmarks.speed import scaling


def test_tables_and_plot_of_a_small_run(micro, tmp_path, monkeypatch, capsys):
    row = {"seconds_a_step": 1.0, "each": [1.0], "threads_each": 1, "samples_per_second": 2.0}
    monkeypatch.setattr(scaling, "processes", lambda setting, size, count: {"processes": count, **row})
    assert main(["scaling", *micro]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert [r["batch"] for r in found["batch"]] == [1, 2]
    assert found["length"][1]["tokens"] > found["length"][0]["tokens"]
    assert found["batch"][0]["tokens_per_second"] > 0
    assert {r["records"] for r in found["records"]["rows"]} >= {1000, 100_000, 1_000_000}
    with Image.open(tmp_path / "out.png") as image:
        assert image.size == (1000, 700)
        assert len(image.convert("L").getcolors()) > 20  # lines and letters, no empty sheet
    text = capsys.readouterr().out
    assert "| processes | threads each | samples/s |" in text
    assert "| 1000000 | later |" in text


def test_one_process_of_several_prints_its_step(micro, capsys):
    arguments = micro[:-2]  # without --out
    assert scaling.main(["--child", "2", "--repeats", "1", *arguments]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["world"] == 1
    assert found["seconds_a_step"] > 0


@pytest.mark.parametrize("world", [1, 2])
def test_a_row_of_two_processes_was_measured_with_two(world, monkeypatch, tmp_path):
    def answer(command, **_):
        assert command[command.index("--nproc-per-node") + 1] == "2"
        line = json.dumps({"seconds_a_step": 0.5, "each": [0.5], "world": world})
        return types.SimpleNamespace(returncode=0, stdout=line, stderr="")

    monkeypatch.setattr(scaling.subprocess, "run", answer)
    device, shape = torch.device("cpu"), shapes.SHAPES["tiny"]
    setting = Setting("scaling", [], shape, device, torch.float32, 1, True, tmp_path / "out.json")
    size = scaling.Size(1, [1], [20], [2], 1, 8)
    if world == 2:
        assert scaling.processes(setting, size, 2)["samples_per_second"] == 16
    else:
        with pytest.raises(shapes.ShapeError, match="1 processes were measured in place of 2"):
            scaling.processes(setting, size, 2)
