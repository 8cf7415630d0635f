"""The wheel: built here, installed beside the packages that are there, run from another folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the installed wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    options = ["--no-deps", "--no-index"]
    subprocess.run(
        [*pip, "wheel", *options, "--no-build-isolation", "-w", folder, "."],
        cwd=copy_of_tree(folder), check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", *options, "--target", folder / "site", wheel], check=True)
    return folder / "site"


def copy_of_tree(folder):
    """The files that git knows, so that the build leaves nothing in the checkout."""
    tree = folder / "tree"
    files = subprocess.run(
        ["git", "ls-files", "skingpt4", "pyproject.toml", "README.md", "LICENSE", "requirements.txt"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    for name in files:
        if (ROOT / name).exists():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes((ROOT / name).read_bytes())
    return tree


def run(site, folder, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(site)}
    return subprocess.run(
        [sys.executable, site / "bin" / "skingpt4", *arguments],
        cwd=folder, env=environment, capture_output=True, text=True,
    )  # fmt: skip


def test_only_the_package_is_installed(site):
    names = {path.name for path in site.iterdir() if not path.name.startswith(("__", "bin"))}
    assert {name for name in names if not name.endswith(".dist-info")} == {"skingpt4"}


def test_the_console_runs_from_another_folder(site, tmp_path):
    done = run(site, tmp_path, "--help")
    assert done.returncode == 0
    assert "usage: skingpt4" in done.stdout


@pytest.mark.acceptance
def test_the_doctor_finds_bundled_files_from_another_folder(site, tmp_path):
    done = run(site, tmp_path, "doctor", "--config", str(ROOT / "configs/tiny/step1.yaml"))
    assert done.returncode == 1, done.stderr  # weights/ is not here
    lines = done.stdout.splitlines()
    assert any(line.startswith("ok") and "Q-Former" in line for line in lines), done.stdout
    assert any("skingpt4 weights fetch tiny" in line for line in lines), done.stdout


def test_the_taxonomy_is_installed(site, tmp_path):
    done = run(site, tmp_path, "taxonomy", "This is psoriasis.")
    assert done.stdout.startswith("psoriasis"), done.stdout + done.stderr
