"""The floor plan of docs/design.md: imports point downward, so they form no circle."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "skingpt4"


def imported(path: Path) -> set[str]:
    """The package's own modules that a file names anywhere, in functions too."""
    modules = {p.stem for p in PACKAGE.glob("*.py")}
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "skingpt4":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("skingpt4."):
            found.add(node.module.split(".")[1])
    return found & modules


def test_imports_form_no_circle():
    graph = {path.stem: imported(path) for path in PACKAGE.glob("*.py")}
    assert len(tuple(TopologicalSorter(graph).static_order())) == len(graph)  # raises CycleError on a circle


def test_nothing_below_imports_an_entry_point():
    for path in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            above = {name.split(".")[0] for name in names} & {"eval", "benchmarks", "train", "demo"}
            assert not above, f"{path.name} imports {above}"
