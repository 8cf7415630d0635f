"""An evaluation whose pictures are named in every way: absolute, in an archive, in bytes that are not UTF-8."""

import json
import tarfile

import pytest

from eval import cases as eval_cases
from eval import run
from eval.asking.answers import read_run
from eval.export import __main__ as export
from eval.rating.desk import select
from eval.report import main as report
from skingpt4.config.load import to_yaml
from skingpt4.support.files import write_text
from tests.support.tiny import make_picture, tiny_config

CLASS = {"class": "dermatitis", "disease": "eczema", "x_history": "two\u2028weeks\x85"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with a list of cases, lists/cases.jsonl, and pictures in it, beside it and in an archive."""
    folder = tmp_path_factory.mktemp("names")
    (folder / "lists/images").mkdir(parents=True)
    for number, name in enumerate(
        ("a.png", "lists/b.png", "lists/L\udce4sion.png", "lists/images/c.png", "d.png")
    ):
        make_picture(number).save(folder / name)
    with tarfile.open(folder / "lists/s.tar", "w") as tar:
        tar.add(folder / "d.png", "in/d.png")
    names = [
        f"{folder}/a.png",
        f"{folder}/lists/b.png",
        "L\udce4sion.png",
        "images\\c.png",
        "s.tar/in/d.png",
        "../d.png",
    ]
    rows = [json.dumps({"image": name, **CLASS}, ensure_ascii=False) + "\n" for name in names]
    write_text(folder / "lists/cases.jsonl", "".join(rows))
    config = tiny_config(folder, data__feature_cache=str(folder / "features"), data__augment=False)
    (folder / "config.yaml").write_text(to_yaml(config))
    return folder


def test_the_check_finds_every_picture_and_hints_at_what_is_alike(root, tmp_path, capsys):
    assert eval_cases.main(["check", str(root / "lists/cases.jsonl")]) == 0
    assert "6 cases, 6 pictures" in capsys.readouterr().out
    (root / "lists/bad.jsonl").write_text(json.dumps({"image": "B.png", **CLASS}) + "\n")
    assert eval_cases.main(["check", str(root / "lists/bad.jsonl")]) == 1
    assert "no such picture (1 missing); there is 'b.png'" in capsys.readouterr().err


def test_a_run_its_report_review_and_export(root, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(root)  # the list is named by a relative path, its pictures by absolute ones
    cases = ["--cases", "lists/cases.jsonl"]
    asked = ["--config", "config.yaml", "--run-dir", str(tmp_path / "run"), "--arm", "untrained"]
    assert run.main([*asked, *cases, "--max-new-tokens", "4", "--num-prompts", "1"]) == 0, (
        capsys.readouterr().err
    )
    listed = read_run(tmp_path / "run")
    assert [case["images"] for case in listed.cases.values()] == [
        [f"{root}/a.png"], ["b.png"], ["L\udce4sion.png"], ["images/c.png"], ["s.tar/in/d.png"], ["../d.png"],
    ]  # fmt: skip
    assert "L\\xe4sion.png" in listed.cases
    assert len(select(listed, root / "lists").pictures) == 6
    assert report(["--run-dir", str(tmp_path / "run"), *cases]) == 0, capsys.readouterr().err
    assert (tmp_path / "run/report.html").read_text(encoding="utf-8").count("<img") >= 6
    for kind, more in (("lmms-eval", []), ("vlmevalkit", ["--images", "lists"])):
        command = ["--run-dir", str(tmp_path / "run"), "--format", kind, "--out", str(tmp_path / kind), *more]
        assert export.main(command) == 0, capsys.readouterr().err
    assert export.main([*command[:-3], str(tmp_path / "paths"), "--images", "lists", "--image-paths"]) == 1
    assert "so VLMEvalKit cannot open it; leave out --image-paths" in capsys.readouterr().err
    assert not (tmp_path / "paths").exists()
