"""This process with what only Unix has taken away from our modules: run it as a program, it prints JSON.

The libraries are loaded first, because they look at the system themselves. Then fcntl, resource and the like cannot
be imported any more, functions and flags of `os` and signals are gone, and every module of ours is imported.
"""

import importlib
import json
import os
import pkgutil
import signal
import sys
import traceback
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("skingpt4", "eval", "data", "benchmarks")
MODULES = ("fcntl", "resource", "termios", "tty", "pty", "pwd", "grp", "syslog", "readline")
FUNCTIONS = (
    "fork", "forkpty", "setsid", "setpgid", "killpg", "getuid", "geteuid", "getgid", "getegid", "chown", "fchmod",
    "fchown", "pread", "pwrite", "mkfifo", "uname", "nice", "getloadavg", "sched_getaffinity",
    "O_NOFOLLOW", "O_DIRECTORY", "O_NONBLOCK", "O_CLOEXEC", "O_SYNC",
)  # fmt: skip
SIGNALS = ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGKILL", "SIGALRM", "SIGPIPE", "SIGCHLD", "SIGQUIT")


class Missing:
    """A finder that has none of MODULES."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in MODULES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def load_libraries() -> None:
    for name in (
        "accelerate",
        "gradio",
        "matplotlib.pyplot",
        "pandas",
        "peft",
        "torch",
        "transformers",
        "uvicorn",
    ):
        importlib.import_module(name)


def take_away() -> None:
    for name in MODULES:
        sys.modules.pop(name, None)
    sys.meta_path.insert(0, Missing())
    for name in FUNCTIONS:
        if hasattr(os, name):
            delattr(os, name)
    for name in SIGNALS:
        if hasattr(signal, name):
            delattr(signal, name)


def modules() -> list[str]:
    names = []
    for package in PACKAGES:
        names += [found.name for found in pkgutil.walk_packages([str(ROOT / package)], f"{package}.")]
    return [name for name in names if not name.endswith("__main__")]


def failures() -> dict[str, str]:
    """Modules that cannot be imported, with the last line of the reason."""
    result = {}
    for name in modules():
        try:
            importlib.import_module(name)
        except Exception as error:
            result[name] = traceback.format_exception_only(error)[-1].strip()
    return result


def train_and_chat(folder: Path) -> dict[str, object]:
    """A tiny training, and an answer of its result."""
    from skingpt4.chat.session import ChatSession
    from skingpt4.checkpoints.load import load_model
    from skingpt4.generation.sampling import Generation
    from skingpt4.server.private_folder import private_folder
    from skingpt4.training.loop import run
    from tests.support.tiny import make_picture, tiny_config

    config = tiny_config(folder)
    saved = run(config)
    session = ChatSession(load_model(config, str(saved)), config)
    session.add_image(make_picture(1))
    answer = session.ask("What is it?", Generation(max_new_tokens=4))
    with private_folder(1) as private:
        (private / "a").write_text("x")
    return {"checkpoint": saved.name, "answered": isinstance(answer, str), "left": private.exists()}


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    load_libraries()
    take_away()
    print(json.dumps({"failures": failures(), **train_and_chat(Path(sys.argv[1]))}))
