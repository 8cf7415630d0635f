"""A soak takes new examples in every run; the seed that it prints repeats it (SKINGPT4_SOAK_SEED=N)."""

import pytest

from tests.support import soak

RUNS: dict[str, dict[str, object]] = {}


def record(name, **figures):
    """Note a target's run, in the file as soon as it has ended."""
    RUNS[name] = figures
    examples = sum(int(str(each["examples"])) for each in RUNS.values())
    soak.write("fuzz", examples, formats=len(RUNS), targets=RUNS)


@pytest.fixture(scope="session", name="soak_run")
def _soak_run(request):
    """(seed, examples of each target, the function that notes a result)."""
    with request.config.pluginmanager.get_plugin("capturemanager").global_and_fixture_disabled():
        print(f"SKINGPT4_SOAK_SEED={soak.SEED} repeats this soak")
    return soak.SEED, soak.scaled(850), record
