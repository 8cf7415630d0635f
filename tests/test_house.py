"""The house keeps its rooms: few entries a folder, one idea a file. `make lint` checks the direction of imports."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
PRODUCT = ("skingpt4", "eval", "data", "benchmarks")
EVAL = ROOT / "eval"
MAX_ROOMS, MAX_ENTRIES, MAX_LINES = 13, 12, 350
# Files above the limit, each with the reason that it is one idea.
LONG: dict[str, str] = {}


def packages():
    return [init.parent for name in PRODUCT for init in (ROOT / name).rglob("__init__.py")]


def entries(package):
    """Modules and subpackages, without `__init__` and `__main__`."""
    modules = [path.stem for path in package.glob("*.py") if path.stem not in ("__init__", "__main__")]
    return modules + [path.name for path in package.iterdir() if (path / "__init__.py").is_file()]


def commands(package):
    """The modules of a package that are commands of their own, such as `python -m eval.run`."""
    return [
        path.stem
        for path in package.glob("*.py")
        if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
    ]


def test_few_rooms_and_nothing_beside_them():
    assert len(entries(ROOT / "skingpt4")) <= MAX_ROOMS
    assert {path.name for path in (ROOT / "skingpt4").glob("*.py")} == {"__init__.py", "__main__.py"}


def test_few_entries_in_a_package():
    crowded = {
        str(p.relative_to(ROOT)): len(entries(p)) for p in packages() if p not in (ROOT / "skingpt4", EVAL)
    }
    assert {name: count for name, count in crowded.items() if count > MAX_ENTRIES} == {}


def test_few_commands_and_few_rooms_behind_them():
    """`eval/` is the folder of a dozen commands; the rooms behind them are counted by themselves."""
    assert len(commands(EVAL)) <= MAX_ENTRIES
    assert len(set(entries(EVAL)) - set(commands(EVAL))) <= MAX_ENTRIES


def test_files_hold_one_idea():
    lines = {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8").count("\n")
        for name in PRODUCT
        for path in (ROOT / name).rglob("*.py")
    }
    assert {name for name, count in lines.items() if count > MAX_LINES} == set(LONG)


def test_the_tests_that_are_named_exist():
    from tests.conftest import CORE, SLOW

    assert [name for name in (*CORE, *SLOW) if not (ROOT / "tests" / name).is_file()] == []


def test_no_name_with_an_underscore_crosses_a_file():
    import ast

    crossing = [
        f"{path.relative_to(ROOT)}: {alias.name}"
        for name in PRODUCT
        for path in (ROOT / name).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PRODUCT
        for alias in node.names
        if alias.name.startswith("_") and not alias.name.startswith("__")
    ]
    assert crossing == []
