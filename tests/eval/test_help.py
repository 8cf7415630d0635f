"""Every command's --help is instant: nothing heavy is imported before the arguments are parsed."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "scipy", "statsmodels", "matplotlib", "gradio", "pyarrow", "pandas")
COMMANDS = ("run", "report", "review", "cases", "published", "power", "quickstart", "export")
SCRIPT = """
import runpy, sys
name, sys.argv[1:] = sys.argv[1], ["--help"]
try:
    runpy.run_module(name, run_name="__main__", alter_sys=True)
except SystemExit:
    print(*sys.modules, file=sys.stderr)
"""


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_nothing_heavy(command):
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, f"eval.{command}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Research software, not a medical device" in " ".join(run.stdout.split())
    assert not set(HEAVY) & set(run.stderr.split())
