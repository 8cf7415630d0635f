"""A card says where the pictures of a training come from, and under which terms."""

import json

from skingpt4.checkpoints.card import problem
from skingpt4.checkpoints.sources import MAX_SOURCES, card_sources
from skingpt4.records.manifest import read_manifest


def manifest(tmp_path, rows):
    path = tmp_path / "manifest.jsonl"
    lines = [json.dumps({"image": f"{n}.jpg", **row}) + "\n" for n, row in enumerate(rows)]
    path.write_text("".join(lines))
    return read_manifest(path)


def test_sources_of_a_run_and_of_its_parent_are_counted_with_their_terms(tmp_path):
    scin = {"source": "scin", "licence": "SCIN Data Use License"}
    records = manifest(tmp_path, [scin, {"source": "clinic"}, scin])
    parent = {"sources": [{**scin, "records": 5}, {"source": None, "licence": None, "records": 1}]}
    values = card_sources(records, parent)
    assert values["sources"] == [
        {**scin, "records": 7},
        {"source": None, "licence": None, "records": 1},
        {"source": "clinic", "licence": None, "records": 1},
    ]
    assert problem({"tensors_sha256": "", **values}) is None


def test_of_many_terms_the_commonest_are_kept(tmp_path):
    rows = [{"source": "isic", "licence": f"CC-BY, clinic {n}"} for n in range(MAX_SOURCES + 5)]
    values = card_sources(manifest(tmp_path, [*rows, rows[7]]), {})
    assert len(values["sources"]) == MAX_SOURCES
    assert values["sources"][0] == {**rows[7], "records": 2}
