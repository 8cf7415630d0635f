"""What a server's processes hand on to others, and leave behind."""

import subprocess
import sys

import pytest

from skingpt4.server.decoding.environment import environment
from tests.conftest import ROOT


def test_what_python_needs_is_handed_on_and_nothing_else(monkeypatch):
    handed = {
        "PATH": "/bin",
        "LD_LIBRARY_PATH": "/lib",
        "LC_ALL": "C.UTF-8",
        "TMPDIR": "/tmp",
        "PYTHONUTF8": "1",
    }
    kept = {
        "SKINGPT4_API_KEY": "k",
        "SKINGPT4_PASSWORD": "p",
        "HF_TOKEN": "t",
        "XPATH": "x",
        "PYTHONSTARTUP": "s",
    }
    for name, value in (handed | kept).items():
        monkeypatch.setenv(name, value)
    found = environment(MALLOC_ARENA_MAX="2")
    assert handed.items() <= found.items()
    assert not kept.keys() & found.keys()
    assert found["MALLOC_ARENA_MAX"] == "2"
    assert str(ROOT) in found["PYTHONPATH"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows makes no core files")
def test_a_server_leaves_no_core():
    code = (
        "import resource; hard = resource.getrlimit(resource.RLIMIT_CORE)[1]; "
        "resource.setrlimit(resource.RLIMIT_CORE, (hard, hard)); "
        "from skingpt4.server.decoding.environment import leave_no_core; leave_no_core(); "
        "print(resource.getrlimit(resource.RLIMIT_CORE))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "(0, 0)\n", done.stderr
