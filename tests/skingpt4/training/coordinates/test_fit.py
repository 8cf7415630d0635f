"""Coordinates of discriminants: labels and features of the same rows, and labels that a step teaches."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

from skingpt4.config.schema import Config
from skingpt4.doctor.dry_run import dry_run
from skingpt4.records.feature_store import StoreShape
from skingpt4.records.manifest import chain, read_manifest
from skingpt4.records.record import RecordError
from skingpt4.training.coordinates.fit import fit_coordinates
from skingpt4.training.prepare import prepare
from tests.support.tiny import tiny_config, write_manifest


@dataclass
class Stored:
    """Two views of each picture, as a store of features has them; the second one is of the picture before it."""

    vectors: Tensor  # (n, q, d)

    def __len__(self):
        return len(self.vectors)

    @property
    def shape(self):
        return StoreShape(len(self.vectors), 2, *self.vectors.shape[1:])

    def view(self, row, view):
        return self.vectors[(row - view) % len(self.vectors)].half()


def explained(vectors, present):
    """The share of the variance of vectors (n, d) that is linear in a label (n,)."""
    x, y = vectors - vectors.mean(0), (present - present.mean()) / present.std(correction=0)
    return float(((x.T @ y / len(y)) ** 2).sum() / x.var(0, correction=0).sum())


def test_what_labels_explain_is_large_where_they_belong_to_their_pictures(tmp_path):
    generator = torch.Generator().manual_seed(0)
    acne = [(torch.rand(count, generator=generator) > 0.5).float() for count in (150, 250)]
    faint = torch.nn.functional.normalize(torch.randn(12, generator=generator), dim=0)
    stores, manifests = [], []
    for number, present in enumerate(acne):
        noise = torch.randn(len(present), 1, 12, generator=generator)
        noise -= (noise @ faint)[..., None] * faint  # the label alone lies in its direction
        signal = (present - 0.5)[:, None, None] * faint + 0.1 * torch.randn(
            len(present), 3, 12, generator=generator
        )
        stores.append(Stored(3 + 2 * noise + 0.5 * signal))
        path = tmp_path / f"{number}.jsonl"
        names = ["acne" if value else "psoriasis" for value in present]
        path.write_text(
            "".join(json.dumps({"image": f"{n}.png", "disease": d}) + "\n" for n, d in enumerate(names))
        )
        manifests.append(read_manifest(path))
    config, present = Config(step="step2", output_dir="unused"), torch.cat(acne)
    config.projection.inputs = "discriminants"
    means = torch.cat([store.vectors for store in stores]).mean(1)
    inputs = fit_coordinates(stores, chain(manifests), config)
    assert explained(means, present) < 0.02
    assert explained(inputs(means), present) > 0.8
    exchanged = fit_coordinates(stores, chain(manifests[::-1]), config)
    assert explained(exchanged(means), present) < 0.4


@pytest.mark.parametrize("kept", [{"note"}, {"note", "disease"}], ids=["notes alone", "one disease"])
def test_records_without_two_labels_are_refused_before_anything_is_loaded(kept, tmp_path, monkeypatch):
    manifest = Path(write_manifest(tmp_path / "train.jsonl", 6))
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    same = {"note": "Itches."} | ({"disease": "acne"} if "disease" in kept else {})
    manifest.write_text("".join(json.dumps({"image": row["image"], **same}) + "\n" for row in rows))
    config = tiny_config(
        tmp_path, projection__inputs="discriminants", data__feature_cache=str(tmp_path / "cache"),
        data__train=[str(manifest)], data__augment=False,
    )  # fmt: skip
    monkeypatch.setattr(
        "skingpt4.training.prepare.build_encoder", lambda *_: pytest.fail("the encoder was built")
    )
    with pytest.raises(
        RecordError, match="needs labels that tell records apart, and the 6 records have no two"
    ):
        prepare(config, torch.device("cpu"))
    report, is_stopped = dry_run("config.yaml", config)
    assert is_stopped
    assert "needs labels that tell records apart" in " ".join(report.split())
