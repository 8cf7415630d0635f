"""A soak takes new examples in every run; the seed that it prints repeats it (SKINGPT4_FUZZ_SEED=N)."""

import os
import secrets

import pytest

SEED = int(os.environ.get("SKINGPT4_FUZZ_SEED") or secrets.randbits(32))


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "soak: minutes, with examples that differ in every run; -m soak runs them"
    )


def pytest_collection_modifyitems(config, items):
    if "soak" not in (config.getoption("-m") or ""):
        for item in items:
            if item.get_closest_marker("soak"):
                item.add_marker(pytest.mark.skip(reason="run with -m soak"))


def pytest_terminal_summary(terminalreporter, config):
    if "soak" in (config.getoption("-m") or ""):
        terminalreporter.write_line(f"seed of the soak: SKINGPT4_FUZZ_SEED={SEED}")


@pytest.fixture(scope="session")
def soak_seed():
    return SEED
