"""The way that the README shows: public downloads, prepared, split, and accepted by train.py."""

import json
from pathlib import Path

import pytest

import train
from data import prepare, split
from skingpt4.config.load import load_config, to_yaml
from tests.support.downloads import image_bytes, skincon_arguments, write_dermnet, write_skincon
from tests.support.tiny import tiny_config

ROOT = Path(__file__).parents[2]
PARTS = ("train", "validation", "test")


@pytest.fixture
def downloads(tmp_path):
    write_skincon(tmp_path / "downloads/skincon", 12)
    folder = write_dermnet(tmp_path / "downloads/dermnet")
    for n in range(30):
        (folder / f"train/Acne and Rosacea Photos/rosacea-nose-{n}.jpg").write_bytes(image_bytes(800 + n))
    return tmp_path / "downloads"


@pytest.mark.parametrize("step", ["step1", "step2"])
def test_from_downloads_to_training(downloads, tmp_path, monkeypatch, capsys, step):
    monkeypatch.chdir(tmp_path)  # the default folders are relative
    if step == "step1":
        source, arguments = "skincon", skincon_arguments(Path("downloads/skincon"))
    else:
        source, arguments = "dermnet", ["dermnet", "downloads/dermnet"]
    assert prepare.main(arguments) == 0
    folder = Path("runs/data") / source
    assert split.main([str(folder / "all.jsonl"), "--out-dir", str(folder)]) == 0
    counts = [len((folder / f"{part}.jsonl").read_text().splitlines()) for part in PARTS]
    assert sum(counts) == len((folder / "all.jsonl").read_text().splitlines())
    assert min(counts) > 0

    paper = load_config(ROOT / f"configs/paper/{step}_llama2_13b.yaml", [])
    assert (paper.data.train, paper.data.validation) == (
        [f"{folder}/train.jsonl"], [f"{folder}/validation.jsonl"],
    )  # fmt: skip
    tiny = tiny_config(
        tmp_path, step=step, data__train=paper.data.train, data__validation=paper.data.validation
    )
    tiny.prompt = paper.prompt
    Path("config.yaml").write_text(to_yaml(tiny))
    capsys.readouterr()
    assert train.main(["--config", "config.yaml", "--dry-run"]) == 0, capsys.readouterr().err
    shown = capsys.readouterr().out
    assert f"{counts[0]} of {counts[0]} records have an answer in {step}" in " ".join(shown.split())
    first = json.loads((folder / "train.jsonl").read_text().splitlines()[0])
    assert (first["concepts"] is not None) == (step == "step1")
