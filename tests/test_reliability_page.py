"""docs/reliability.md names only tests that are there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_test_that_is_named_is_there():
    text = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and "tests/" in line]
    assert len(rows) > 20
    for row in rows:
        folder = ROOT
        for name in re.findall(r"`((?:tests/[\w/]+/)?test_\w+\.py|tests/test_\w+\.py)`", row):
            folder = (ROOT / name).parent if name.startswith("tests/") else folder
            path = ROOT / name if name.startswith("tests/") else folder / name
            assert path.is_file(), row
