"""Python programs that commands start import nothing of the folder that the user happens to be in.

Whoever starts a command in a downloaded folder, or as an administrator in a folder that others write to, must not run
what lies there.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
STARTED = re.compile(r"\[\s*sys\.executable,\s*([^,\]]+)")


def sources():
    return [path for room in ("skingpt4", "data") for path in sorted((ROOT / room).rglob("*.py"))]


def test_every_python_is_started_without_the_current_folder():
    started = [(path, first) for path in sources() for first in STARTED.findall(path.read_text())]
    assert len(started) >= 5
    assert [(path, first) for path, first in started if first not in ('"-I"', '"-P"')] == []


def test_the_installer_of_a_bundle_too():
    lines = (ROOT / "skingpt4/cli/deploy/install.sh.j2").read_text().splitlines()
    started = [line for line in lines if re.search(r'python"? -', line)]
    assert len(started) == 3
    assert all(re.search(r'python" -I ', line) for line in started)


def test_what_these_options_do(tmp_path):
    (tmp_path / "venv.py").write_text("open('ran', 'w')\n")
    for option, ran in (("-B", True), ("-P", False), ("-I", False)):
        subprocess.run([sys.executable, option, "-m", "venv", "--help"], cwd=tmp_path, capture_output=True)
        assert (tmp_path / "ran").exists() == ran, option
        (tmp_path / "ran").unlink(missing_ok=True)
