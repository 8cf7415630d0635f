"""Modules of this folder share one list of cases."""

import pytest

from tests.support.respondents import write_cases


@pytest.fixture(scope="session")
def cases(tmp_path_factory):
    return write_cases(tmp_path_factory.mktemp("foreign") / "cases.jsonl")
