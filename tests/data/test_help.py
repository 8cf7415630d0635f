"""Every command's --help is instant: nothing heavy is imported before the arguments are parsed."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "scipy", "matplotlib", "imagehash")
SCRIPT = """
import importlib, sys
try:
    importlib.import_module(sys.argv[1]).main(["--help"])
except SystemExit as end:
    assert end.code == 0
print(*sys.modules, file=sys.stderr)
"""


@pytest.mark.parametrize(
    "command", ["prepare", "split", "validate", "stats", "pack", "phi", "phantoms.__main__"]
)
def test_help_imports_nothing_heavy(command):
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, f"data.{command}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"python -m data.{command.split('.')[0]}" in run.stdout
    assert not set(HEAVY) & set(run.stderr.split())
