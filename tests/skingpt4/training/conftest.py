"""What starts runs as processes of their own, for all modules of this folder."""

import pytest

from tests.support.launcher import Launcher


@pytest.fixture(scope="session")
def launcher():
    """Forks commands from a process that has everything imported."""
    with Launcher() as running:
        yield running
