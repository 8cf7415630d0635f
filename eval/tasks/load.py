"""Reading tasks: `load_task` by name or file, `read_task` from a run's folder."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from eval.tasks.task import DEFAULT, Task
from skingpt4.config.rules import sentence_with
from skingpt4.records.schema import KEYS
from skingpt4.support.errors import UserError, reason_of
from skingpt4.support.files import file_sha256, write_text
from skingpt4.support.parse import ParseError, parse_yaml, plain_texts, read_json_object
from skingpt4.support.regular import read_regular_text
from skingpt4.taxonomy.taxonomy import CONCEPTS, concept, nearest

FOLDER = Path(__file__).parent
TASK = "task.json"  # in a run's folder; without it the run's task is the default
ALL = "all"  # the word for all 48 concepts


class TaskError(UserError):
    """A task that cannot be used; the message names the file, the key and what to do."""


def available() -> list[str]:
    """The names of the bundled tasks, the default first."""
    return sorted((path.stem for path in FOLDER.glob("*.yaml")), key=lambda name: (name != DEFAULT, name))


def load_task(name_or_path: str | Path | None = None) -> Task:
    """A bundled task by its name, one's own from a YAML file, or the default.

    Raises:
        TaskError: there is no such task or file, or the file is not a task.
    """
    name_or_path = name_or_path or DEFAULT
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        return _read(path)
    names = available()
    if str(name_or_path) not in names:
        near = nearest(str(name_or_path), names)
        hint = f"did you mean {near!r}?" if near else f"the tasks are {', '.join(names)}"
        raise TaskError(f"{name_or_path}: is no task; {hint} (one's own task is a file that ends in .yaml)")
    return _read(FOLDER / f"{name_or_path}.yaml")


def write_task(run_dir: Path, task: Task) -> None:
    """Write a run's `task.json`; the default task needs none."""
    if not task.is_default:
        write_text(run_dir / TASK, json.dumps(asdict(task), indent=1, ensure_ascii=False) + "\n")


def read_task(run_dir: Path) -> Task:
    """The task of a run's folder.

    Raises:
        TaskError: its file is damaged.
    """
    path = run_dir / TASK
    if not path.is_file():
        return load_task()
    try:
        return _checked(read_json_object(path), path)
    except (OSError, ParseError) as error:
        raise TaskError(f"{path}: cannot be read ({reason_of(error)}); run eval.run again") from None


def task_of_run(run_dir: Path, name_or_path: str | Path | None) -> Task:
    """The named task, or the run's own where none is named.

    Raises:
        TaskError: the folder holds answers about another task.
    """
    has_answers = any((run_dir / "answers").glob("*.meta.json"))
    own = read_task(run_dir) if has_answers else None
    if name_or_path is None:
        return own or load_task()
    task = load_task(name_or_path)
    if own and own.sha256 != task.sha256:
        changed = ", whose file has changed since" if own.name == task.name else ""
        raise TaskError(
            f"{run_dir}: its answers are about the task {own.name}{changed}; name another --run-dir for {task.name}"
        )
    return task


def _read(path: Path) -> Task:
    try:
        content = plain_texts(parse_yaml(read_regular_text(path)))
    except FileNotFoundError:
        raise TaskError(f"{path}: no such file; python -m eval.tasks lists the bundled tasks") from None
    except (OSError, UnicodeDecodeError, ParseError) as error:
        raise TaskError(f"{path}: is not YAML that can be read ({reason_of(error)})") from None
    if not isinstance(content, dict):
        raise TaskError(f"{path}: is not a task; a task is keys with values, such as 'name: my_task'")
    task = _checked(_unfolded(content) | {"sha256": file_sha256(path)}, path)
    if task.is_default and path.parent != FOLDER:
        raise TaskError(f"{path}: 'name': {DEFAULT} is the default task; give yours another name")
    return task


def _unfolded(content: dict[str, Any]) -> dict[str, Any]:
    """`classes` as {label: options} becomes the two keys of a task, and the word for all concepts their list."""
    labels = content.get("classes")
    if isinstance(labels, dict):
        content = content | {
            "classes": list(labels),
            "options": {name: more or [name] for name, more in labels.items()},
        }
    elif isinstance(labels, list) and all(isinstance(name, str) for name in labels):
        content = content | {"options": {name: [name] for name in labels}}
    if content.get("concepts") == ALL:
        content = content | {"concepts": list(CONCEPTS)}
    return content


def _checked(content: dict[str, Any], path: Path) -> Task:
    try:
        task = TypeAdapter(Task).validate_python(content)
    except ValidationError as error:
        raise TaskError(f"{path}: {_first_problem(error)}") from None
    for key, problem in _problems(task):
        raise TaskError(f"{path}: '{key}': {problem}")
    return task


def _first_problem(error: ValidationError) -> str:
    """The first thing that pydantic refuses: the key, what is wrong, and what is there."""
    problem = error.errors()[0]
    place = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "unexpected_keyword_argument":
        top = len(problem["loc"]) == 1
        near = nearest(str(problem["loc"][-1]), Task.__dataclass_fields__) if top else None
        hint = f"; did you mean {near!r}?" if near else "; remove it"
        return f"'{place}' is not a key of a task{hint}"
    if problem["type"] == "missing":
        return f"'{place}' is missing; add it"
    return f"'{place}': {problem['msg']} (it is {str(problem['input'])[:80]!r}); correct it"


def _problems(task: Task) -> list[tuple[str, str]]:
    """What types alone do not show: each key with its problem."""
    problems = [*_problems_of_labels(task), *_problems_of_keys(task), *_problems_of_metrics(task)]
    problems += [
        ("concepts", f"{name!r} is none of SKINCON's 48; write '{ALL}' or their names")
        for name in task.concepts
        if concept(name) != name
    ]
    for key, name, what in (("answer_form", "disease", "name"), ("list_question", "options", "list")):
        text = getattr(task, key)
        if text is not None and f"{{{name}}}" not in text:
            problems.append((key, f"needs {{{name}}} where the {what} stands"))
        elif text is not None and (wrong := sentence_with(name)(text)):
            problems.append((key, wrong))
    if task.prompts == ():
        problems.append(("prompts", "is empty; leave it out for the four published prompts"))
    return problems


def _problems_of_labels(task: Task) -> list[tuple[str, str]]:
    problems = []
    if len(task.classes) == 1:
        problems.append(("classes", "holds one label; a closed set has two or more"))
    standing_for = Counter(option for options in task.options.values() for option in set(options))
    problems += [
        ("classes", f"{option!r} stands for {count} labels; an option belongs to one")
        for option, count in standing_for.items()
        if count > 1
    ]
    if set(task.options) != set(task.classes) or not all(task.options.values()):
        problems.append(("classes", "every label needs at least one text that stands for it"))
    named = [("label.values", name) for name in task.label.values.values()]
    named += [("positive", task.positive)] if task.positive is not None else []
    for key, name in named:
        if name not in task.classes:
            near = nearest(name, task.classes)
            hint = f"; did you mean {near!r}?" if near else f"; they are {', '.join(task.classes)}"
            problems.append((key, f"{name!r} is none of the labels{hint}"))
    return problems


def _problems_of_keys(task: Task) -> list[tuple[str, str]]:
    keys = [("label.key", task.label.key)] + [("group_columns", key) for key in task.group_columns]
    keys += [(name, getattr(task, name)) for name in ("cluster", "differential", "references")]
    return [
        (name, f"{key!r} is not a key of a record; keys of your own begin with x_")
        for name, key in keys
        if key is not None and key not in KEYS and not key.startswith("x_")
    ]


def _problems_of_metrics(task: Task) -> list[tuple[str, str]]:
    needs: dict[str, tuple[str, ...]] = {
        "top_k": ("classes",),
        "balanced_accuracy": ("classes",),
        "fairness": ("classes", "positive", "group_columns"),
        "weighted_top_k": ("classes", "differential"),
        "concept_auroc": ("concepts",),
        "text_overlap": ("references",),
    }
    problems = [
        ("metrics", f"{metric!r} needs '{key}', which is not given")
        for metric in task.metrics
        for key in needs.get(metric, ())
        if not getattr(task, key)
    ]
    if "fairness" in task.metrics and len(task.classes) != 2:
        problems.append(("metrics", "'fairness' is about two labels, one of them the positive one"))
    if "multiple_choice" in task.metrics:
        size = len(task.concepts or task.classes)
        if size < task.choices:
            problems.append(
                ("choices", f"{task.choices} options cannot be drawn from {size} labels or concepts")
            )
    return problems
