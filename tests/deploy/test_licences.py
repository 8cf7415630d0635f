"""The list of licences names every locked package."""

from __future__ import annotations

import importlib.util
import re
from email.message import Message
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("licences", ROOT / "deploy/licences.py")
licences = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(licences)


def test_every_line_of_the_lock_is_a_row():
    lock = ROOT / "requirements.lock"
    rows = licences.rows(lock)
    assert len(rows) == len(re.findall(r"^[a-z]\S*==", lock.read_text(), flags=re.M)) > 100
    by_name = {row[0]: row for row in rows}
    assert "BSD" in by_name["torch"][2]
    assert "Apache" in by_name["transformers"][2]
    assert all(row[2] for row in rows)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([("License-Expression", "MIT"), ("License", "old")], "MIT"),
        ([("License", "UNKNOWN"), ("Classifier", "License :: OSI Approved :: BSD License")], "BSD License"),
        ([("License", "MIT License\n\nPermission is ..."), ("Classifier", "License :: OSI Approved :: MIT License")],
         "MIT License"),
        ([("License", "Some licence\n\nWords")], "Some licence"),
        ([("Classifier", "Topic :: Utilities")], "not stated"),
    ],
)  # fmt: skip
def test_a_licence_is_what_a_package_states(fields, expected):
    meta = Message()
    for name, value in fields:
        meta[name] = value
    assert licences.licence(meta) == expected
