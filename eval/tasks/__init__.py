"""Tasks as data: what an evaluation asks, in YAML; `load_task` reads one."""
