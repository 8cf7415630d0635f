"""Preparing data in tests: what was written, and what must fail before it begins."""

import json
from pathlib import Path
from typing import Any

from data import prepare


def prepared(arguments: list[Any], out_dir: Path, status: int = 0) -> list[list[dict[str, Any]]]:
    """Prepare; returns the records and the refusals."""
    assert prepare.main([*map(str, arguments), "--out-dir", str(out_dir), "--workers", "1"]) == status
    return [
        [json.loads(line) for line in (out_dir / name).read_text(encoding="utf-8").splitlines()]
        for name in ("all.jsonl", "rejected.jsonl")
    ]


def refused(arguments: list[Any], out_dir: Path, capsys: Any) -> str:
    """Run what must fail before it begins: returns its one sentence; nothing is written."""
    assert prepare.main([*map(str, arguments), "--out-dir", str(out_dir)]) == 1
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not out_dir.exists()
    return err
