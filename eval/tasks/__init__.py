"""Tasks as data: what an evaluation asks, in YAML; `load_task` reads one."""

from eval.tasks.load import DEFAULT, TaskError, available, load_task, read_task, write_task
from eval.tasks.task import Task

__all__ = ["DEFAULT", "Task", "TaskError", "available", "load_task", "read_task", "write_task"]
