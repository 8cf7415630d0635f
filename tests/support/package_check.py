"""What `make package-check` does: wheel and locked requirements into a new environment, run from another folder.

Needs the package registry and several GB of disk; the test suite does the same over the packages that are there.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def main() -> int:
    """Build, install, run; returns the exit status."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run([sys.executable, "-m", "venv", folder / "venv"], folder)
        python = folder / "venv" / "bin" / "python"
        pip = [python, "-m", "pip", "--disable-pip-version-check"]
        run([*pip, "install", "-q", "--require-hashes", "-r", ROOT / "requirements.lock"], folder)
        run([*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder / "wheels", ROOT], folder)
        run([*pip, "install", "-q", "--no-deps", *(folder / "wheels").glob("*.whl")], folder)
        command = folder / "venv" / "bin" / "skingpt4"
        run([command, "--help"], folder)
        config = ROOT / "configs" / "tiny" / "step1.yaml"
        done = subprocess.run([command, "doctor", "--config", config], cwd=folder)
        assert done.returncode == 1, "weights are missing there, which the doctor must say"
    print("package-check: the wheel installs and runs from nothing")
    return 0


def run(command: list, folder: Path) -> None:
    """Run and stop at the first failure."""
    print("$", *command, flush=True)
    subprocess.run([str(part) for part in command], cwd=folder, check=True)


if __name__ == "__main__":
    sys.exit(main())
