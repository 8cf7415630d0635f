"""The measures that a task may ask for beside those of every evaluation; `figures.task_figures` computes them."""
