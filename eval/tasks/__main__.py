"""Tasks of an evaluation: what there is, and one of them in numbers with what to download.

python -m eval.tasks
python -m eval.tasks show ham10000_7
python -m eval.tasks show my_task.yaml --manifest runs/data/clinic/test.jsonl
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from eval.tasks.load import TaskError, available, load_task
from eval.tasks.task import Task
from skingpt4.support.cli import make_parser
from skingpt4.support.errors import reported

WIDTH = 100  # of a line


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    parser = make_parser(__doc__ or "", prog="python -m eval.tasks")
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("list", help="the bundled tasks (also without a command)")
    show = commands.add_parser("show", help="a task in numbers, its published results and what to download")
    show.add_argument("task", help="a name or a YAML file")
    show.add_argument("--manifest", type=Path, help="also count the task's labels in a manifest")
    args = parser.parse_args(argv)
    with reported() as status:
        lines = _list() if args.command != "show" else _show(load_task(args.task), args.manifest)
        for line in lines:
            print(line)
    return status.code


def _list() -> Iterator[str]:
    for name in available():
        task = load_task(name)
        yield f"{name:20} {_size(task):12} {task.title} ({', '.join(task.metrics)})"
    yield ""
    yield "one task: python -m eval.tasks show NAME; one's own: a YAML file, see docs/tasks.md"


def _size(task: Task) -> str:
    if task.classes:
        return f"{len(task.classes)} labels"
    return f"{len(task.concepts)} concepts" if task.concepts else "texts"


def _show(task: Task, manifest: Path | None) -> Iterator[str]:
    yield f"{task.name}: {task.title}"
    yield from _wrapped(task.about)
    if task.data:
        yield f"data       {task.data.download}"
        yield f"terms      {task.data.terms}"
        yield f"prepare    {task.data.command}"
    yield f"measures   {', '.join(task.metrics)}"
    for title, keys in (
        ("groups", task.group_columns),
        ("drawn by", (task.cluster,)),
        ("label", (task.label.key,)),
    ):
        if any(keys) and (title != "label" or task.classes):
            yield f"{title:10} {', '.join(key for key in keys if key)}"
    counts = _counts(task, manifest) if manifest else None
    if task.classes:
        yield f"{len(task.classes)} labels" + (
            f", and how many records of {manifest} have them" if counts else ""
        )
        for name in task.classes:
            number = f"{counts[name]:>7} " if counts else ""
            yield f"  {number}{name}" + (
                f" ({', '.join(task.options[name])})" if _has_synonyms(task, name) else ""
            )
    if task.concepts:
        yield f"{len(task.concepts)} concepts"
    if counts:
        yield f"  {counts[None]:>7} without what the task needs"
    for row in task.published:
        n = f", n = {row.n}" if row.n else ""
        value = f"{100 * row.value:.1f} %" if 0 <= row.value <= 1 else f"{row.value:g}"
        yield f"published  {row.system}: {row.metric} {value}{n} ({row.source})"
    yield "published results are shown beside ours; nothing is tested against them"


def _has_synonyms(task: Task, name: str) -> bool:
    return task.options[name] != (name,)


def _wrapped(text: str) -> Iterator[str]:
    import textwrap

    yield from textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="  ")


def _counts(task: Task, manifest: Path) -> Counter[str | None]:
    """Records by label; None counts those that the task cannot judge.

    Raises:
        TaskError: the manifest cannot be read.
    """
    from skingpt4.records.manifest import manifest_lines

    counts: Counter[str | None] = Counter({name: 0 for name in task.classes})
    counts[None] = 0
    for number, line, _ in manifest_lines(manifest):
        try:
            row = json.loads(line)
            counts[task.label_of(row) if task.has_answer(row) else None] += 1
        except (ValueError, AttributeError) as error:
            raise TaskError(f"{manifest}, line {number}: cannot be read ({error})") from None
    return counts


if __name__ == "__main__":
    sys.exit(main())
