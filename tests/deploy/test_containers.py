"""What Dockerfile, compose.yaml and the systemd units promise, and the entry point as a user without rights."""

from __future__ import annotations

import fnmatch
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import demo
from eval import review
from skingpt4.cli import http_api

ROOT = Path(__file__).parents[2]
PARSERS = {"page": demo.parser, "review": review._parser, "api": http_api.parser}
SERVERS = tuple(PARSERS)
UNIT = ROOT / "deploy/systemd/skingpt4@.service"


def instructions(text: str) -> list[tuple[str, str]]:
    """A Dockerfile's instructions, each with its words, continued lines joined."""
    joined = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", text, flags=re.M))
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in joined.splitlines() if line.strip()]


def stages() -> dict[str, list[tuple[str, str]]]:
    """The instructions of each stage of the Dockerfile, with those of the stages that it is built upon."""
    result: dict[str, list[tuple[str, str]]] = {}
    name = ""
    for word, rest in instructions((ROOT / "Dockerfile").read_text()):
        if word == "FROM":
            base, _, name = rest.split()
            result[name] = list(result.get(base, []))
        elif name:
            result[name].append((word, rest))
    return result


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_an_image_runs_as_nobody_in_particular_and_says_whether_it_is_well(target):
    stage = dict(stages()[target])
    assert stage["USER"] == "10001:10001"
    assert "/health" in stage["HEALTHCHECK"]
    assert stage["ENTRYPOINT"] == '["/opt/skingpt4/app/deploy/serve.sh"]'
    assert stage["VOLUME"] == '["/data", "/weights", "/models"]'
    last = [word for word, _ in stages()[target]]
    assert last[-1] == "USER", "nothing is done as that user, and nothing after it as root"


def test_packages_come_with_hashes_and_tools_of_the_build_stay_behind():
    for target in ("cpu", "cuda"):
        build = [rest for word, rest in stages()[f"build-{target}"] if word == "RUN"]
        assert any("--require-hashes" in rest and "--only-binary :all:" in rest for rest in build)
        copies = [rest for word, rest in stages()[target] if word == "COPY"]
        assert copies == [f"--from=build-{target} /opt/skingpt4 /opt/skingpt4"]


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="no hadolint on this machine")
def test_the_linter_has_nothing_to_say():
    done = subprocess.run(["hadolint", str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps a path out of an image; the last pattern that fits decides."""
    out = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.strip().removeprefix("!")
        if not pattern or pattern.startswith("#"):
            continue
        parts = [path, *(str(parent) for parent in Path(path).parents if str(parent) != ".")]
        tail = pattern.removeprefix("**/")
        if any(fnmatch.fnmatch(part, pattern) or (fnmatch.fnmatch(Path(part).name, tail) and pattern != tail)
               for part in parts):  # fmt: skip
            out = not line.startswith("!")
    return out


def test_no_weights_pictures_or_keys_get_into_an_image():
    for path in ("weights/smollm2/model.safetensors", "models/step2/card.json", "runs/x/ratings.sqlite", ".env",
                 "deploy/tls/server.key", "deploy/api-key", ".git/config", "tests/conftest.py", ".venv/bin/python",
                 "skingpt4/__pycache__/x.pyc", "private/patient.jpg"):  # fmt: skip
        assert ignored(path), path
    for path in (
        "skingpt4/__main__.py",
        "demo.py",
        "requirements.lock",
        "deploy/unneeded.py",
        "eval/review.py",
    ):
        assert not ignored(path), path
    bundled = [path for path in (ROOT / "skingpt4").rglob("*.safetensors")]
    assert all(path.stat().st_size < 10e6 for path in bundled), "only the small parts that are in the package"


def services() -> dict[str, dict]:
    return yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]


def test_every_container_is_read_only_and_without_rights():
    for name, service in services().items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
    for name in SERVERS:
        service = services()[name]
        assert service["user"] == "10001:10001"
        assert {"./weights:/weights:ro", "./models:/models:ro"} <= set(service["volumes"])
        assert "ports" not in service, "only the proxy is reached from outside"
        assert service["ulimits"] == {"core": 0}, "a core file would hold pictures and conversations"
        assert service["networks"] == ["inner"]


def test_the_proxy_is_published_on_this_machine_alone_unless_told_otherwise():
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    assert compose["networks"]["inner"]["internal"] is True
    proxy = compose["services"]["proxy"]
    assert proxy["ports"] == [
        "${SKINGPT4_PUBLISH:-127.0.0.1}:443:443",
        "${SKINGPT4_PUBLISH:-127.0.0.1}:80:80",
    ]
    named = re.findall(r"\{\$(\w+)", (ROOT / "deploy/Caddyfile").read_text())
    assert set(proxy["environment"]) == set(named) - {"SKINGPT4_HTTP_PORT", "SKINGPT4_HTTPS_PORT"}


def test_images_are_built_from_the_same_folder_with_and_without_a_gpu():
    """Compose reads every path of every file from the folder of the first one."""
    gpu = yaml.safe_load((ROOT / "deploy/compose.cuda.yaml").read_text())["services"]
    for name, service in gpu.items():
        assert services()[name]["build"]["context"] == service["build"]["context"] == "."


@pytest.mark.parametrize("name", SERVERS)
def test_the_commands_of_the_containers_are_commands(name):
    service = services()[name]
    words = [re.sub(r"\$\{\w+:-(.*)\}", r"\1", word) for word in service["command"]]
    assert words[0] == name
    args = PARSERS[name]().parse_args(words[1:])
    address = services()["proxy"]["networks"]["inner"]["ipv4_address"]
    assert (args.host, args.port, args.trusted_proxy) == ("0.0.0.0", 8080, [address])
    assert services()["proxy"]["environment"][f"SKINGPT4_{name.upper()}"] == f"{name}:{args.port}"
    caddy = (ROOT / "deploy/Caddyfile").read_text()
    assert f"path {args.root_path}" in caddy


def test_the_images_drop_packages_of_the_tests_and_keep_those_of_the_servers():
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "deploy/unneeded.py"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    dropped = set(done.stdout.split())
    assert {"pytest", "ruff", "mypy"} <= dropped
    assert not {"torch", "gradio", "uvicorn", "pydicom", "setuptools", "packaging"} & dropped


# ---- the entry point


@pytest.fixture
def installed(tmp_path) -> Iterator[Path]:
    """A folder like /opt/skingpt4: the entry point, and in place of the commands a script that prints its words."""
    before = os.umask(0o022)  # a command that ran in this process may have set another one
    app = tmp_path / "opt/app"
    (app / "deploy").mkdir(parents=True)
    shutil.copy(ROOT / "deploy/serve.sh", app / "deploy/serve.sh")
    (tmp_path / "opt/venv/bin").mkdir(parents=True)
    for name in ("python", "skingpt4"):
        script = tmp_path / "opt/venv/bin" / name
        script.write_text(
            f'#!/bin/sh\necho "{name}" "$@" "in $PWD" "key ${{SKINGPT4_API_KEY:-}}" "user $(id -u)"\n'
        )
        script.chmod(0o755)
    yield tmp_path / "opt"
    os.umask(before)


def start(
    installed: Path, *words: str, prefix: tuple[str, ...] = (), **env: str
) -> subprocess.CompletedProcess[str]:
    command = [*prefix, str(installed / "app/deploy/serve.sh"), *words]
    return subprocess.run(command, env=os.environ | env, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (("page", "--port", "1", "a b"), "python demo.py --port 1 a b"),
        (("review", "--run-dir", "x"), "python -m eval.review --run-dir x"),
        (("api", "--port", "1"), "skingpt4 http-api --port 1"),
        (("--help",), "skingpt4 --help"),
        (("weights", "list"), "skingpt4 weights list"),
    ],
)
def test_the_entry_point_starts_what_it_is_told(installed, words, command):
    assert start(installed, *words).stdout.startswith(f"{command} in {installed.resolve()}/app key ")


def test_the_entry_point_finds_its_folder_whatever_the_shells_search_path(installed):
    command = ["sh", "deploy/serve.sh", "--help"]
    env = os.environ | {"CDPATH": f"{installed}/app:/"}
    done = subprocess.run(command, cwd=installed / "app", env=env, capture_output=True, text=True)
    assert f"in {installed.resolve()}/app key" in done.stdout, done.stderr


def test_the_entry_point_needs_a_word_and_reads_the_key_from_a_file(installed, tmp_path):
    done = start(installed)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: say what to start")
    (tmp_path / "key").write_text("secret\n")
    assert "key secret " in start(installed, "api", SKINGPT4_API_KEY_FILE=str(tmp_path / "key")).stdout
    missing = start(installed, "api", SKINGPT4_API_KEY_FILE=str(tmp_path / "nothing"))
    assert (missing.returncode, missing.stdout) != (0, ""), "without its key the API does not start"


READ_ONLY = """
mount --make-rprivate /
mount --rbind / "$1" && mount -o remount,bind,ro "$1"
mount --bind "$2" "$1/opt" && mount -o remount,bind,ro "$1/opt"
mount --bind "$3" "$1/mnt"
mount -t tmpfs tmpfs "$1/tmp"
exec chroot --userspec=10001:10001 "$1" /opt/app/deploy/serve.sh page
"""
WRITES = """#!/bin/sh
echo "user $(id -u):$(id -g), rights $(grep CapEff /proc/self/status | cut -f2)"
for place in /etc/x /opt/x "$PWD/x" /tmp/x /mnt/x; do touch "$place" 2> /dev/null && echo "wrote $place"; done
exit 0
"""


@pytest.mark.skipif(
    os.getuid() != 0 or shutil.which("unshare") is None, reason="needs root, to change the root folder"
)
def test_the_entry_point_runs_as_that_user_on_a_read_only_file_system(installed, tmp_path):
    (installed / "venv/bin/python").write_text(WRITES)
    root, data = tmp_path / "root", tmp_path / "data"
    root.mkdir()
    data.mkdir()
    os.chown(data, 10001, 10001)
    command = ["unshare", "--mount", "sh", "-euc", READ_ONLY, "sh", str(root), str(installed), str(data)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        "user 10001:10001, rights 0000000000000000",
        "wrote /tmp/x",
        "wrote /mnt/x",
    ]


# ---- systemd


def setting(name: str) -> list[str]:
    return [line.split("=", 1)[1] for line in UNIT.read_text().splitlines() if line.startswith(f"{name}=")]


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="no systemd-analyze (apt install systemd)"
)
def test_systemd_finds_little_that_a_server_may_do():
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=29", "--no-pager", str(UNIT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-200:]  # the threshold is in tenths: an exposure below 3
    assert re.search(r"Overall exposure level for skingpt4@\S*: [0-2]\.\d", done.stdout)


def test_the_unit_starts_the_entry_point_with_the_options_of_its_file():
    (command,) = setting("ExecStart")
    assert command == "/opt/skingpt4/current/app/deploy/serve.sh %i $OPTIONS"
    assert setting("EnvironmentFile") == ["/etc/skingpt4/%i.conf"]
    assert setting("LimitCORE") == ["0"], "a core file would hold pictures and conversations"


@pytest.mark.parametrize("name", SERVERS)
def test_the_options_in_the_docs_are_options(name):
    text = (ROOT / "docs/deploy.md").read_text()
    (options,) = re.findall(rf"^# /etc/skingpt4/{name}\.conf\n(?:\w+=.*\n)*?OPTIONS=(.*)$", text, flags=re.M)
    args = PARSERS[name]().parse_args(shlex.split(options))
    assert args.trusted_proxy == ["127.0.0.1"]
