"""Coordinates of discriminants: they need labels that a step teaches."""

import json
from pathlib import Path

import pytest
import torch

from skingpt4.records.record import RecordError
from skingpt4.training.prepare import prepare
from tests.support.tiny import tiny_config, write_manifest


@pytest.mark.parametrize("kept", [{"note"}, {"note", "disease"}], ids=["notes alone", "one disease"])
def test_records_without_two_labels_are_refused_in_one_sentence(kept, tmp_path):
    manifest = Path(write_manifest(tmp_path / "train.jsonl", 6))
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    same = [
        {key: value for key, value in row.items() if key in {"image", *kept}} | {"note": "Itches."}
        for row in rows
    ]
    if "disease" in kept:
        same = [{**row, "disease": "acne"} for row in same]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in same))
    config = tiny_config(
        tmp_path, projection__inputs="discriminants", data__feature_cache=str(tmp_path / "cache"),
        data__train=[str(manifest)], data__augment=False,
    )  # fmt: skip
    with pytest.raises(RecordError, match="discriminants needs labels, and the 6 records have no two"):
        prepare(config, torch.device("cpu"))
