"""The notebook: short, without outputs, of commands that exist, and it runs on the default model to its end."""

import ast
import importlib
import importlib.util
import json
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples/own_data.ipynb"
WEIGHTS = ("weights/dinov2-vit-s14-reg4/model.safetensors", "weights/smollm2-135m-instruct")
EXTRA = ("nbformat", "nbclient", "ipykernel")


@pytest.fixture(scope="module")
def cells():
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]


def sources(cells, kind):
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == kind]


def test_no_outputs_are_committed(cells):
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) > 10
    for cell in code:
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
        assert not {*cell["metadata"]} - {"tags"}  # no times of an execution


def test_it_says_that_it_is_no_medical_device(cells):
    texts = sources(cells, "markdown")
    for text in (texts[0], texts[-1]):
        assert "not a medical device" in text
    assert "drawings" in texts[0]


def test_cells_are_short_and_explained(cells):
    assert all(len(text.splitlines()) <= 40 for text in sources(cells, "code"))
    assert len(sources(cells, "markdown")) >= 8
    assert sum("parameters" in cell["metadata"].get("tags", ()) for cell in cells) == 1


def lines_of_commands(cells):
    """The first argument of every `command(...)`, with a word for each value that is filled in."""
    for source in sources(cells, "code"):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "command":
                parts = getattr(node.args[0], "values", [node.args[0]])
                yield "".join(part.value if isinstance(part, ast.Constant) else "8" for part in parts)


def test_its_commands_and_their_options_exist(cells, capsys):
    lines = [*lines_of_commands(cells)]
    assert len(lines) >= 8
    for line in lines:
        name, *arguments = shlex.split(line)
        module = importlib.import_module("skingpt4.__main__" if name == "skingpt4" else name)
        with pytest.raises(SystemExit):
            module.main(
                [
                    *arguments[: 1 if name in ("skingpt4", "eval.add", "data.prepare", "eval.cases") else 0],
                    "--help",
                ]
            )
        text = capsys.readouterr().out
        for option in re.findall(r"--[a-z-]+", line):
            assert option in text, line


def test_its_links_lead_to_files(cells):
    for target in re.findall(r"\]\(([^)]+)\)", "\n".join(sources(cells, "markdown"))):
        assert (NOTEBOOK.parent / target).exists(), target


@pytest.mark.acceptance
@pytest.mark.default
def test_it_runs_from_a_folder_of_pictures_to_a_chat(cells, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # threads that wait for a busy core slow training tenfold
    missing = [name for name in EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: pip install -e '.[notebook]'")
    if absent := [name for name in WEIGHTS if not (ROOT / name).exists()]:
        pytest.skip(f"{absent[0]} is not there: skingpt4 weights fetch tiny")
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    parameters = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    names = re.findall(r"^(\w+) =", parameters.source, re.MULTILINE)
    values = {"PICTURES": 45, "ITERATIONS": 3, "ANSWER_TOKENS": 4, "WORK": f"Path({str(tmp_path)!r})"}
    assert names == [*values]
    parameters.source = "\n".join(f"{name} = {value}" for name, value in values.items())
    NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": str(ROOT)}}).execute()

    records = (tmp_path / "prepared/all.jsonl").read_text().splitlines()
    refused = [
        json.loads(line)["reason"] for line in (tmp_path / "prepared/rejected.jsonl").read_text().splitlines()
    ]
    assert (len(records), refused) == (43, ["phi", "missing"])
    results = json.loads((tmp_path / "study/results.json").read_text())
    assert {*results["arms"]} == {"two_step", "blank_image", "untrained", "probe"}
    assert (tmp_path / "study/report.html").exists()
    pictures = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if "image/png" in output.get("data", {})
    ]
    assert len(pictures) >= 5  # the drawings, two curves, the figure of the arms, the case
    said = "".join(output.get("text", "") for output in notebook.cells[-2].outputs)
    assert "not a diagnosis" in said
