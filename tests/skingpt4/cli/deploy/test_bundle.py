"""A bundle is collected, continued and installed where there is no network; its packages are tiny and made here."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from skingpt4.cli.deploy import bundle, collect, locked
from skingpt4.cli.deploy.collect import BundleError, Contents
from skingpt4.cli.deploy.locked import Locked, LockError, Target, needed, read_lock, requirements_of
from tests.support.package_index import make_wheel, serving, sha256

ROOT = Path(__file__).parents[4]
PYTHON = ".".join(platform.python_version_tuple()[:2])
HERE = Target(PYTHON, platform.machine())
WITHOUT_NETWORK = ["unshare", "--net", "--map-root-user"]


def has_namespaces() -> bool:
    return (
        shutil.which("unshare") is not None
        and subprocess.run([*WITHOUT_NETWORK, "true"], capture_output=True).returncode == 0
    )


@pytest.fixture
def index(tmp_path, monkeypatch):
    """The folder of an index with two wheels, and the list of files that were downloaded from it.

    The console imports yaml, so a module of that name must be there.
    """
    folder, asked = tmp_path / "index", []
    folder.mkdir()
    for name in ("tiny_one", "yaml"):
        make_wheel(folder, name)
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_CONSTRAINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    with serving(folder, asked) as url:
        monkeypatch.setenv("PIP_INDEX_URL", url)
        yield folder, asked


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Path:
    """This software's wheel and archive, made once as a bundle makes them."""
    folder = tmp_path_factory.mktemp("own")
    collect._add_own(folder)
    return folder


@pytest.fixture
def contents(index, own, tmp_path, monkeypatch) -> Contents:
    monkeypatch.setattr(collect, "_add_own", lambda place: shutil.copytree(own, place, dirs_exist_ok=True))
    folder, _ = index
    packages = [
        Locked(name.replace("_", "-"), "1.0", (sha256(folder / f"{name}-1.0-py3-none-any.whl"), "0" * 64))
        for name in ("tiny_one", "yaml")
    ]
    model = tmp_path / "runs/step2"
    model.mkdir(parents=True)
    (model / "card.json").write_text("{}")
    weights = tmp_path / "weights/net"
    (weights / "deep").mkdir(parents=True)
    (weights / "deep/model.safetensors").write_bytes(b"x" * 1000)
    trees = {"weights/net": weights, "models/step2": model}
    return Contents(tmp_path / "bundle", HERE, packages, [], None, trees)


def installed(bundle_folder: Path, prefix: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """What install.sh does without a network, by a Python like the one that runs this."""
    command = [*WITHOUT_NETWORK, "sh", str(bundle_folder / "install.sh"), str(prefix)]
    return subprocess.run(
        command, env=os.environ | {"PYTHON": sys.executable} | env, capture_output=True, text=True, cwd="/"
    )


def test_it_says_its_size_and_loads_nothing_for_that(contents, index, capsys):
    size = sum(path.stat().st_size for path in index[0].glob("*.whl"))
    assert bundle.announce(contents) == size
    text = capsys.readouterr().out
    assert "2 packages, 2 still to be downloaded" in text
    assert "unknown size" not in text
    assert (index[1], contents.out.exists()) == ([], False)


@pytest.mark.acceptance
@pytest.mark.skipif(not has_namespaces(), reason="no network namespace can be made here (unshare --net)")
def test_it_installs_without_a_network(contents, index, tmp_path):
    collect.collect(contents, bundle.announce(contents))
    prefix = tmp_path / "a place" / "opt"
    done = installed(contents.out, prefix)
    assert done.returncode == 0, done.stderr
    run = [
        *WITHOUT_NETWORK,
        str(prefix / "current/venv/bin/python"),
        "-c",
        "import tiny_one, yaml; print(yaml.VERSION)",
    ]
    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout == "1.0\n"
    command = [*WITHOUT_NETWORK, str(prefix / "current/venv/bin/skingpt4"), "--version"]
    version = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    assert (prefix / "current").resolve().name == version
    app = prefix / "current/app"
    assert (app / "demo.py").is_file()
    assert not (app / "skingpt4").exists(), "the installed package is the only one"
    assert (app / "weights/net/deep/model.safetensors").read_bytes() == b"x" * 1000
    assert (prefix / "models/step2/card.json").is_file()

    again = installed(contents.out, prefix)
    assert (again.returncode, "is already there" in again.stdout) == (0, True)
    (prefix / f"releases/{version}/complete").unlink()  # as if it had been killed
    (prefix / f"releases/{version}/venv/bin/skingpt4").unlink()
    assert installed(contents.out, prefix).returncode == 0
    assert (prefix / "current/venv/bin/skingpt4").is_file()


@pytest.mark.skipif(not has_namespaces(), reason="no network namespace can be made here (unshare --net)")
def test_what_is_damaged_incomplete_or_for_another_machine_is_not_installed(contents, index, tmp_path):
    collect.collect(contents, bundle.announce(contents))
    prefix = tmp_path / "opt"
    wheel = next((contents.out / "wheels").glob("*.whl"))
    whole = wheel.read_bytes()
    wheel.write_bytes(whole[:-1] + b"?")
    damaged = installed(contents.out, prefix)
    assert (damaged.returncode, "files of the bundle are damaged" in damaged.stderr) == (1, True)
    wheel.write_bytes(whole)
    script = contents.out / "install.sh"
    text = script.read_text()
    script.write_text(text.replace(f"Linux-{platform.machine()}", "Linux-riscv64"))
    assert "error: this bundle is for Linux on" in installed(contents.out, prefix).stderr
    script.write_text(text)
    assert (
        "error: there is no no-such-python" in installed(contents.out, prefix, PYTHON="no-such-python").stderr
    )
    stranger = contents.out / "own/stranger-1.0-py3-none-any.whl"
    stranger.write_bytes(whole)
    assert "files that SHA256SUMS does not list" in installed(contents.out, prefix).stderr
    stranger.unlink()
    wheel.rename(tmp_path / "wheel")
    wheel.symlink_to(tmp_path / "wheel")
    assert "the bundle holds a link" in installed(contents.out, prefix).stderr
    wheel.unlink()
    (tmp_path / "wheel").rename(wheel)
    (contents.out / "SHA256SUMS").unlink()
    assert "the bundle is not complete" in installed(contents.out, prefix).stderr
    assert not prefix.exists(), "nothing was written"


def test_it_goes_on_where_it_was_interrupted(contents, index, capsys):
    folder, asked = index
    second = folder / "yaml-1.0-py3-none-any.whl"
    whole = second.read_bytes()
    second.unlink()
    with pytest.raises(BundleError, match=r"pip cannot get yaml==1\.0 .*what has arrived stays"):
        collect.collect(contents, bundle.announce(contents))
    assert not (contents.out / "SHA256SUMS").exists()
    second.write_bytes(whole)
    collect.collect(contents, bundle.announce(contents))
    assert asked == ["tiny_one-1.0-py3-none-any.whl", "yaml-1.0-py3-none-any.whl"], "each was loaded once"
    assert "1 still to be downloaded" in capsys.readouterr().out


def test_a_wheel_that_is_not_the_locked_one_is_refused(contents, index):
    make_wheel(index[0], "yaml", tag="py2.py3-none-any").replace(index[0] / "yaml-1.0-py3-none-any.whl")
    with pytest.raises(BundleError, match="yaml"):
        collect.collect(contents, 0)


def test_the_sums_are_of_every_file(contents, index):
    collect.collect(contents, bundle.announce(contents))
    names = {line.split("  ", 1)[1] for line in (contents.out / "SHA256SUMS").read_text().splitlines()}
    files = {str(path.relative_to(contents.out)) for path in contents.out.rglob("*") if path.is_file()}
    assert names == files - {"SHA256SUMS"}
    assert {"install.sh", "requirements.txt", "own/application.tar.gz", "models/step2/card.json"} <= names


# ---- the lock


def test_conditions_are_judged_for_the_other_machine(tmp_path):
    lock = tmp_path / "lock"
    hashes = f" \\\n    --hash=sha256:{'a' * 64}\n"
    lock.write_text(
        f"# a comment\nsame==1{hashes}old==1 ; python_full_version < '3.12'{hashes}"
        f"Old.Two==2 ; python_full_version >= '3.12'{hashes}mac==1 ; sys_platform == 'darwin'{hashes}"
    )
    assert list(read_lock(lock, Target("3.11", "x86_64"))) == ["same", "old"]
    assert list(read_lock(lock, Target("3.12", "x86_64"))) == ["same", "old-two"]
    assert read_lock(lock, Target("3.12", "x86_64"))["same"].line == f"same==1 --hash=sha256:{'a' * 64}"
    lock.write_text("unpinned>=1\n")
    with pytest.raises(LockError, match="is not name==version"):
        read_lock(lock, HERE)
    with pytest.raises(LockError, match="no such file"):
        read_lock(tmp_path / "nothing", HERE)


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_the_servers_packages_of_the_real_lock(python):
    target = Target(python, "x86_64")
    lock = read_lock(ROOT / "requirements.lock", target)
    served = set(needed(lock, requirements_of(ROOT, ["serve"]), target, gpu=False))
    with_gpu = set(needed(lock, requirements_of(ROOT, ["serve"]), target, gpu=True))
    clinic = set(needed(lock, requirements_of(ROOT, ["serve", "clinic"]), target, gpu=False))
    assert {"torch", "gradio", "uvicorn", "starlette", "transformers", "typing-extensions"} <= served
    assert not {"pytest", "mypy", "pydicom", "triton", "ruff"} & served
    assert {"triton", "nvidia-cublas"} <= with_gpu - served
    assert "pydicom" in clinic - served
    with pytest.raises(LockError, match="--extras: there is no 'no-such'; there are clinic"):
        requirements_of(ROOT, ["no-such"])


@pytest.mark.parametrize(
    ("name", "fits_it"),
    [
        ("a-1-py3-none-any.whl", True),
        ("a-1-cp311-cp311-manylinux_2_28_x86_64.whl", True),
        ("a-1-cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64.whl", True),
        ("a-1-cp39-abi3-manylinux1_x86_64.whl", True),
        ("a-1-cp312-cp312-manylinux_2_28_x86_64.whl", False),
        ("a-1-cp311-cp311-manylinux_2_35_x86_64.whl", False),
        ("a-1-cp311-cp311-manylinux_2_28_aarch64.whl", False),
        ("a-1-cp311-cp311-win_amd64.whl", False),
        ("a-1-cp311-cp311-musllinux_1_2_x86_64.whl", False),
        ("a-1.tar.gz", False),
    ],
)
def test_which_wheels_a_machine_can_install(name, fits_it):
    assert locked.fits(name, Target("3.11", "x86_64")) is fits_it


# ---- the command


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--python", "2.7"], "--python '2.7': give 3.11 or a newer one"),
        (["--python", "3.10"], "--python '3.10'"),
        (["--extras", "no-such"], "--extras: there is no 'no-such'"),
        (["--weights", "--checkpoint", "nowhere"], "--checkpoint nowhere: no such folder"),
        (["--weights-dir", "nowhere"], "is not in nowhere"),
    ],
)
def test_what_cannot_be_bundled_gets_a_sentence(words, error, tmp_path, capsys):
    assert bundle.main(["--out", str(tmp_path / "bundle"), *words]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert error in line
    assert not (tmp_path / "bundle").exists()


def test_a_disk_that_is_too_small_is_known_before_anything_is_loaded(contents, index, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(Exception, match="the rest of the bundle needs"):
        bundle.announce(contents)
    assert (index[1], contents.out.exists()) == ([], False)


@pytest.mark.parametrize("kind", ["absolute", "relative", "of a folder", "to nothing", "of links"])
def test_a_checkpoint_with_a_link_that_leads_out_is_refused(tmp_path, capsys, kind):
    (tmp_path / "home").mkdir()
    (tmp_path / "home/id_rsa").write_text("secret")
    model = tmp_path / "runs/step2"
    (model / "deep").mkdir(parents=True)
    (model / "card.json").write_text("{}")
    (model / "deep/inner").symlink_to("../card.json")
    link = model / "deep/notes.txt"
    target = {
        "absolute": tmp_path / "home/id_rsa", "relative": "../../../home/id_rsa", "of a folder": "../../../home",
        "to nothing": tmp_path / "home/later", "of links": "../a",
    }  # fmt: skip
    (model / "a").symlink_to(tmp_path / "home/id_rsa" if kind == "of links" else "card.json")
    link.symlink_to(target[kind])
    words = ["--out", str(tmp_path / "bundle"), "--weights", "--checkpoint", str(model), "--dry-run"]
    assert bundle.main(words) == 1
    error = capsys.readouterr().err
    assert f"is a link to {tmp_path / 'home'}" in error
    assert not (tmp_path / "bundle").exists()


def test_links_within_a_checkpoint_and_to_it_are_no_problem(tmp_path):
    model = tmp_path / "runs/step2"
    model.mkdir(parents=True)
    (model / "card.json").write_text("{}")
    (model / "again.json").symlink_to("card.json")
    (tmp_path / "newest").symlink_to(model)
    collect.refuse_links_out(tmp_path / "newest")
