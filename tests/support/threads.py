"""One thread for a folder of tests: sums this small only get slower, up to tenfold, when threads share them."""

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """For a folder's conftest to import."""
    torch = sys.modules.get("torch")
    if torch is None:  # nothing of this module computes
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
