"""Tasks as data: what an evaluation asks, in YAML; `load_task` reads one."""

from eval.tasks.load import TaskError, available, load_task, read_task, task_of_run, write_task
from eval.tasks.task import DEFAULT, Task

__all__ = ["DEFAULT", "Task", "TaskError", "available", "load_task", "read_task", "task_of_run", "write_task"]
