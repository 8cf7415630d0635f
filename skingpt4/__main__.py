"""All commands by name: skingpt4 COMMAND --help (or python -m skingpt4 COMMAND --help)."""

from __future__ import annotations

import difflib
import importlib
import os
import signal
import sys
from collections.abc import Sequence

from skingpt4 import __version__
from skingpt4.support.cli import NOT_A_DEVICE, setup_logging

# Command: (module or module:function, what it does). A module is imported only when its command is called.
COMMANDS = {
    "chat": ("skingpt4.cli.chat", "ask about a picture in the terminal"),
    "batch": ("skingpt4.cli.batch", "ask about many pictures, one JSON line each"),
    "http-api": ("skingpt4.cli.http_api", "serve the chat in the shape of OpenAI's API"),
    "doctor": ("skingpt4.cli.doctor", "check everything a run needs without loading it"),
    "weights": ("skingpt4.cli.weights", "list, fetch, verify and inspect pretrained weights"),
    "delta": ("skingpt4.cli.delta", "merge a Vicuna delta with its base model"),
    "calibrate": ("skingpt4.cli.calibrate", "fit a checkpoint's probabilities on held-out records"),
    "share": ("skingpt4.cli.deploy.share", "write a checkpoint as a Hugging Face folder"),
    "export": (
        "skingpt4.cli.deploy.share:export",
        "write MiniGPT-4's layout, or what a vLLM server needs",
    ),
    "consultation-export": ("skingpt4.cli.consultation_export", "make HTML or PDF of a saved consultation"),
    "audit": ("skingpt4.cli.access.audit", "show and verify an audit log"),
    "users": ("skingpt4.cli.access.users", "manage who may log in to the page and the review form"),
    "taxonomy": ("skingpt4.cli.taxonomy", "show which class a free text states"),
    "bundle": ("skingpt4.cli.deploy.bundle", "collect all that a machine without network needs"),
    "train-recipe": (
        "skingpt4.cli.training.train_recipe",
        "train all steps of a recipe, each from the one before",
    ),
    "describe": (
        "skingpt4.cli.training.describe",
        "write what step 1 sees into the captions that step 2 teaches",
    ),
    "pretrain-qformer": ("skingpt4.cli.training.pretrain_qformer", "train a Q-Former for a vision backbone"),
}
HELP = (
    "usage: skingpt4 [--version] [--debug] COMMAND [--help] ...\n\n"
    + "\n".join(f"  {name:<20} {what}" for name, (_, what) in COMMANDS.items())
    + "\n\n--debug (or SKINGPT4_DEBUG=1) shows the traceback behind an error's one sentence.\n"
    "Training: python train.py --help. Consultation page: python demo.py --help.\n"
    f"Evaluation: python -m eval.run --help. Data: python -m data.prepare --help.\n{NOT_A_DEVICE}"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Hand over to the command of that name; returns its exit status."""
    argv = sys.argv[1:] if argv is None else list(argv)
    if argv[:1] == ["--debug"]:
        os.environ["SKINGPT4_DEBUG"] = "1"
        argv = argv[1:]
    if not argv or argv[0] in ("-h", "--help"):
        print(HELP)
        return 0 if argv else 2
    if argv[0] == "--version":
        print(__version__)
        return 0
    if argv[0] not in COMMANDS:
        near = difflib.get_close_matches(argv[0], COMMANDS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"choose one of {', '.join(COMMANDS)}"
        print(f"error: no command '{argv[0]}'; {hint}", file=sys.stderr)
        return 2
    setup_logging()
    # An exception, unlike the default, lets a command clean up.
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))
    sys.argv = [f"skingpt4 {argv[0]}", *argv[1:]]  # argparse shows the first as the program's name
    module, _, function = COMMANDS[argv[0]][0].partition(":")
    return getattr(importlib.import_module(module), function or "main")(argv[1:])


if __name__ == "__main__":
    sys.exit(main())
