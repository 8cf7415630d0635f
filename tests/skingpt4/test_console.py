"""The console: every command by name, its help without anything heavy, one sentence for a wrong name."""

import subprocess
import sys
from pathlib import Path

import pytest

import skingpt4
from skingpt4.__main__ import COMMANDS, main

ROOT = Path(__file__).parents[2]
HEAVY = (
    "torch",
    "transformers",
    "gradio",
    "matplotlib",
    "scipy",
    "statsmodels",
    "pandas",
    "pyarrow",
    "imagehash",
)
EVAL = ("run", "report", "review", "cases", "published", "power", "quickstart", "export", "preferences")
DATA = ("prepare", "split", "stats", "validate", "pack", "phi", "phantoms")
# Runs --help in this process and says which heavy modules that imported.
PROBE = """
import runpy, sys
module, arguments = sys.argv[1], sys.argv[2:]
sys.argv = [module, *arguments]
try:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
except SystemExit as end:
    assert not end.code, end.code
print("HEAVY:", *sorted(set({heavy}) & set(sys.modules)))
"""


def help_of(module, *arguments):
    code = PROBE.replace("{heavy}", repr(set(HEAVY)))
    done = subprocess.run(
        [sys.executable, "-c", code, module, *arguments, "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    text, _, heavy = done.stdout.rpartition("HEAVY:")
    return text, heavy.split()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_imports_nothing_heavy(command):
    text, heavy = help_of("skingpt4", command)
    assert heavy == []
    assert text.startswith(f"usage: skingpt4 {command}")
    assert skingpt4.support.cli.NOT_A_DEVICE in " ".join(text.split())


@pytest.mark.parametrize("module", [f"eval.{n}" for n in EVAL] + [f"data.{n}" for n in DATA])
def test_help_of_evaluation_and_data_imports_nothing_heavy(module):
    text, heavy = help_of(module)
    assert heavy == []
    assert "usage:" in text


def test_a_wrong_name_is_one_sentence_with_the_nearest(capsys):
    assert main(["wieghts"]) == 2
    assert capsys.readouterr().err == "error: no command 'wieghts'; did you mean 'weights'?\n"
    assert main([]) == 2
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.endswith(f"{skingpt4.__version__}\n")


def test_the_package_offers_its_names_without_importing_torch():
    code = (
        "import sys, skingpt4; assert 'torch' not in sys.modules; assert 'SkinGPT4' in dir(skingpt4); "
        "skingpt4.load_config; assert 'torch' not in sys.modules; print(skingpt4.ChatSession.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "ChatSession\n", done.stderr
    with pytest.raises(AttributeError, match="nothing"):
        _ = skingpt4.nothing
