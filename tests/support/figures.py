"""The figures that documents print, and the files that they were measured in: python -m tests.support.figures

Run as a program it rewrites every table and every marked number whose file has changed, and lists what it could not.
Three comments, none of them visible, say where numbers come from:

    <!-- figures of benchmarks/results/train.json: 2.04 = measured.ratios.seconds.median; ... -->
    <!-- table of benchmarks/results/cpu.json by benchmarks.speed.cpu:table --> ... <!-- end of table -->
    <!-- table of benchmarks/results/seed_*.json by benchmarks.speed.cpu:table_of_all --> ... <!-- end of table -->
    <!-- given: 12.6 = a version of CUDA; 18.5 31.3 = docs/memory.md -->

A place is keys and numbers of list items with dots between them. `median(...)`, `mean(...)`, `min(...)`, `max(...)`
and `len(...)` go over a list; `+ - * /` between places and numbers are carried out from left to right. A table
without a file is calculated (`<!-- table by benchmarks.memory.estimate:table -->`). What is given is not measured
here: a setting, a version, something that others print, or a number of another document.
"""

from __future__ import annotations

import importlib
import json
import operator
import re
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skingpt4.support.files import write_text

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    "README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
    "data/README.md", "benchmarks/README.md", "skingpt4/weights/bundled/README.md",
]  # fmt: skip
FIGURES = re.compile(r"<!-- figures of (\S+\.json): (.*?) -->", re.S)
GIVEN = re.compile(r"<!-- given: (.*?) -->", re.S)
TABLE_END = "<!-- end of table -->"
# A table's text has no comment in it: one whose end is missing does not swallow what follows.
TABLE = re.compile(
    rf"<!-- table (?:of (\S+\.json) )?by (\S+):(\w+) -->\n((?:(?!<!--).)*?)\n?{TABLE_END}", re.S
)
TABLE_BLOCK = rf"<!-- table (?:(?!<!--).)*{TABLE_END}"
COMMENT = re.compile(r"<!--.*?-->", re.S)
NUMBER = re.compile(r"(?<![\w.,])-?\d+(?:,\d{3})*(?:\.\d+)?(?:e-?\d+)?(?![\w.]*\d)")
NOT_MEASURED = "Not measured yet at a commit without changes."
COMMIT_KEYS = ("commit", "git_revision")  # the second one in older files
FUNCTIONS = {"median": statistics.median, "mean": statistics.mean, "min": min, "max": max, "len": len}
OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


@dataclass(frozen=True)
class Figure:
    """A printed number and where it comes from; a given one has a reason in place of a file and a place."""

    printed: str
    path: str
    place: str

    def measured(self) -> str:
        """The number of the file, rounded and written as the printed one."""
        value, (mantissa, exponent, _) = read(self.path, self.place), self.printed.partition("e")
        decimals = len(mantissa.partition(".")[2])
        if exponent:
            return re.sub(r"e-0?", "e-", f"{value:.{decimals}e}")
        return f"{value:{',' if ',' in mantissa else ''}.{decimals}f}"


def sections(text: str) -> dict[str, str]:
    """Headings with what follows them, up to the next heading."""
    parts = re.split(r"^(#+ .*)$", text, flags=re.M)
    return dict(zip(["", *parts[1::2]], [parts[0], *parts[2::2]], strict=True))


def figures(section: str) -> list[Figure]:
    """What a section's comments name."""
    return [figure for path, items in FIGURES.findall(section) for figure in _items(items, path)]


def given(section: str) -> list[Figure]:
    """What a section's comments declare as not measured; several numbers may share a reason."""
    found = [figure for items in GIVEN.findall(section) for figure in _items(items, "")]
    return [Figure(printed, "", figure.place) for figure in found for printed in figure.printed.split()]


def _items(items: str, path: str) -> list[Figure]:
    parts = (" ".join(item.split()).partition(" = ") for item in items.split(";"))
    return [Figure(printed, path, place) for printed, _, place in parts]


def body(section: str) -> str:
    """A section as people read it, without the tables that programs write."""
    return COMMENT.sub("", TABLE.sub("", section))


def read(path: str, place: str) -> float:
    """The value of a place, e.g. ``1 / measured.peak_ratio`` or ``max(rows.0.bytes) / 1048576``."""
    held = json.loads((ROOT / path).read_text(encoding="utf-8"))
    first, *rest = re.split(r" ([-+*/]) ", place)
    value = _operand(held, first)
    for sign, operand in zip(rest[::2], rest[1::2], strict=True):
        value = OPERATORS[sign](value, _operand(held, operand))
    return value


def _operand(held: Any, text: str) -> float:
    if re.fullmatch(r"-?[\d.]+(e\d+)?", text):
        return float(text)
    match = re.fullmatch(rf"({'|'.join(FUNCTIONS)})\((.*)\)", text)
    keys = (match[2] if match else text).split(".")
    while keys:
        if isinstance(held, list):
            held, keys = held[int(keys[0])], keys[1:]
            continue
        count = next(n for n in range(1, len(keys) + 1) if ".".join(keys[:n]) in held)  # a key may have dots
        held, keys = held[".".join(keys[:count])], keys[count:]
    return FUNCTIONS[match[1]](held) if match else held


def files(path: str) -> list[str]:
    """The files of a table; with a `*` in it, the path names as many as there are."""
    return sorted(str(found.relative_to(ROOT)) for found in ROOT.glob(path)) if path else []


def table(path: str, module: str, function: str) -> str:
    """The table as its program writes it today; a file that is not there has not been measured yet."""
    if path and not files(path):
        return NOT_MEASURED
    make = getattr(importlib.import_module(module), function)
    if not path:
        return str(make())
    results = {name: json.loads((ROOT / name).read_text(encoding="utf-8")) for name in files(path)}
    made = make(list(results.values()) if "*" in path else results[path])
    return "\n".join([made, "", *(origin(name, result) for name, result in results.items())])


def everywhere(value: Any, names: tuple[str, ...]) -> list[str]:
    """The texts under these keys, at any depth, each once."""
    found: list[str] = []
    if isinstance(value, dict):
        found = [item for key, item in value.items() if key in names and isinstance(item, str)]
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        found += everywhere(item, names)
    return list(dict.fromkeys(found))


def origin(path: str, result: Any) -> str:
    """A line under a table: its file, the processor and the commits."""
    cpus = [name.replace("(R)", "").removesuffix(" Processor") for name in everywhere(result, ("cpu",))]
    commits = [re.sub(r"^([0-9a-f]{7})[0-9a-f]+", r"\1", c) for c in everywhere(result, COMMIT_KEYS)]
    return f"*`{Path(path).name}`: {', '.join([*cpus, *commits])}*"


def rewritten(text: str) -> tuple[str, list[str]]:
    """A document with the numbers of its files, and what has to be written by hand."""
    text = TABLE.sub(lambda m: f"{m[0].partition('-->')[0]}-->\n{table(m[1], m[2], m[3])}\n{TABLE_END}", text)
    left = []
    for section in sections(text).values():
        new = section
        wanted: dict[str, set[str]] = {}
        for figure in figures(section):
            wanted.setdefault(figure.printed, set()).add(figure.measured())
        for printed, values in wanted.items():
            if values == {printed}:
                continue
            places = [m.span() for m in NUMBER.finditer(body(section)) if m[0] == printed]
            if len(values) > 1 or ("." not in printed and len(places) > 1):
                left.append(f"{printed} is now {' or '.join(sorted(values))}")
                continue
            new = _replaced(new, printed, values.pop())
        text = text.replace(section, new)
    return text, left


def _replaced(section: str, printed: str, value: str) -> str:
    """A number replaced where it is printed and in its comment, but not inside a place or a program's table."""

    def new(match: re.Match[str]) -> str:
        if match["table"]:
            return match[0]
        if match["comment"]:
            return re.sub(rf"(: |;\s){re.escape(printed)}(?= = )", rf"\g<1>{value}", match[0])
        return value if match[0] == printed else match[0]

    parts = rf"(?P<table>{TABLE_BLOCK})|(?P<comment>{COMMENT.pattern})|{NUMBER.pattern}"
    return re.sub(parts, new, section, flags=re.S)


def main() -> None:
    """Rewrite all documents."""
    for name in DOCUMENTS:
        old = (ROOT / name).read_text(encoding="utf-8")
        new, left = rewritten(old)
        if new != old:
            write_text(ROOT / name, new)
            print(f"rewritten: {name}")
        for line in left:
            print(f"{name}: {line}; write it by hand")


if __name__ == "__main__":
    main()
