"""A soak takes new examples in every run; the seed that it prints repeats it (SKINGPT4_FUZZ_SEED=N).

SKINGPT4_FUZZ_EXAMPLES=N sets how many each target gets, SKINGPT4_FUZZ_RESULT=FILE writes what was run as JSON.
"""

import json
import os
import secrets
from pathlib import Path

import pytest

from skingpt4.checkpoints.checkpoint import git_revision

SEED = int(os.environ.get("SKINGPT4_FUZZ_SEED") or secrets.randbits(32))

RUNS: dict[str, dict[str, object]] = {}


def record(name, **figures):
    """Note a target's run, in the file as soon as it has ended."""
    RUNS[name] = figures
    if path := os.environ.get("SKINGPT4_FUZZ_RESULT"):
        content = {"seed": SEED, "git_revision": git_revision(), "targets": RUNS}
        content["examples"] = sum(int(str(each["examples"])) for each in RUNS.values())
        Path(path).write_text(json.dumps(content, indent=1) + "\n")


@pytest.fixture(scope="session")
def soak(request):
    """(seed, examples of each target, the function that notes a result)."""
    with request.config.pluginmanager.get_plugin("capturemanager").global_and_fixture_disabled():
        print(f"SKINGPT4_FUZZ_SEED={SEED} repeats this soak")
    return SEED, int(os.environ.get("SKINGPT4_FUZZ_EXAMPLES", "850")), record
