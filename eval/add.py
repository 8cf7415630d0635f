"""Add an arm that is not a projection of ours: python -m eval.add KIND --run-dir RUN --cases CASES --name NAME ...

The folder may hold arms of `eval.run` and of earlier commands; all are about one list of cases. Every answer is
written at once: to continue a stopped command, repeat it. `python -m eval.add KIND --help` shows a kind's options.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.asking.perturbations import CONTROLS, STANDARD
from skingpt4.support.cli import make_parser, setup_logging
from skingpt4.support.errors import reported

# Kind: (module, what it is). A module is imported only when its kind is named. It offers `add_arguments(parser)` and
# `build(args, task) -> Respondent`; `import` instead has `write(args, task)`, for its answers exist already.
KINDS = {
    "endpoint": ("eval.arms.endpoint.command", "a server with OpenAI's API: vLLM, Ollama, llama.cpp, ..."),
    "transformers": ("eval.arms.transformers_vlm", "a vision-language model in this process, by name or folder"),
    "contrastive": ("eval.arms.contrastive", "a CLIP or SigLIP model, zero-shot"),
    "probe": ("eval.arms.probe_arm", "a classifier on an encoder's features, fitted on a training manifest"),
    "import": ("eval.arms.importing.command", "answers of any system or person, from a table"),
}  # fmt: skip
EXAMPLE = """kinds:
""" + "\n".join(f"  {name:<14}{what}" for name, (_, what) in KINDS.items()) + """

example:
  python -m eval.add endpoint --run-dir runs/quickstart --cases runs/phantoms/cases/manifest.jsonl \\
    --name local_server --url http://127.0.0.1:8000/v1 --model skingpt4"""  # fmt: skip


def _parser(kind: str, module: Any) -> argparse.ArgumentParser:
    parser = make_parser(module.__doc__ or "", prog=f"python -m eval.add {kind}")
    add = parser.add_argument
    add("--run-dir", required=True, type=Path, help="answers go to its folder answers/")
    add("--cases", required=True, type=Path, help="a manifest (JSONL) with labels, see eval.cases")
    add("--name", required=True, help="of the arm: letters, digits and _")
    add("--task", help="labels and questions, by name or YAML file (default: the run's, else skingpt4_15)")
    add("--replace", action="store_true", help="delete answers that were made with other settings")
    add("--dry-run", action="store_true", help="say what would be done, and do nothing")
    if kind != "import":
        _add_asking(parser)
    module.add_arguments(parser)
    return parser


def _add_asking(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("what is asked").add_argument
    add(
        "--num-prompts", type=int, default=4, choices=range(5), help="only the first of the published prompts"
    )
    add("--repeats", type=int, default=1, help="of every conversation, for consistency")
    add("--temperature", type=float, default=0.0, help="0 (default) is greedy")
    add("--max-new-tokens", type=int, default=300, help="of an answer (default: %(default)s)")
    add("--seed", type=int, default=0, help="of sampling, noise and exchanged pictures")
    add("--perturb", action="append", default=[], metavar="KIND:STRENGTH",
        help=f"also ask about changed pictures; 'all': {', '.join(STANDARD)}")  # fmt: skip
    add("--control", choices=CONTROLS, help="show pictures that do not show the case")
    add("--concept-scores", action="store_true", help="also score each of the task's concepts")
    add("--with-history", action="store_true", help="put a case's history before the first prompt")
    add("--concurrency", type=int, default=1, help="cases asked at the same time (default: %(default)s)")
    add("--max-failures", type=int, default=10,
        help="stop after so many cases in a row that failed (default: %(default)s; 0: never)")  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Add one arm; returns the exit status."""
    argv = sys.argv[1:] if argv is None else list(argv)
    top = make_parser(__doc__ or "", EXAMPLE, prog="python -m eval.add")
    top.add_argument("kind", choices=KINDS, metavar="KIND", help=f"one of {', '.join(KINDS)}")
    kind = top.parse_args(argv[:1]).kind
    setup_logging()
    with reported() as status:
        module = importlib.import_module(KINDS[kind][0])
        args = _parser(kind, module).parse_args(argv[1:])
        from eval.tasks import task_of_run

        task = task_of_run(args.run_dir, args.task)
        if kind == "import":
            module.write(args, task)
        else:
            from eval.arms.asking import AskSettings, answer_with

            answer_with(module.build(args, task), AskSettings.of(args, task))
    return status.code


if __name__ == "__main__":
    sys.exit(main())
