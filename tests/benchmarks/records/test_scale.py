"""The benchmark of readers: what it writes is what the product reads, and it finds what it wrote."""

import pytest

from benchmarks.records import scale
from skingpt4.records.archives import member_names, read_bytes
from skingpt4.records.feature_store import FeatureStore


def test_generated_shards_and_features_are_read_by_the_product(tmp_path, monkeypatch):
    monkeypatch.setattr(scale, "SHARD_RECORDS", 20)
    monkeypatch.setattr(scale, "READS", 30)
    scale.write_shards(tmp_path / "shards", 50)
    assert [len(list(member_names(path))) for path in sorted((tmp_path / "shards").iterdir())] == [40, 40, 20]
    assert len(read_bytes(tmp_path / "shards/000001.tar/000000039.jpg")) == scale.PICTURE_BYTES
    scale.write_features(tmp_path / "features", 50)
    store = FeatureStore(tmp_path / "features")
    assert len(store) == 50
    assert store.view(49, 0).shape == (scale.NUM_QUERIES, scale.WIDTH)
    for reader in ("shards", "features"):
        figures = scale.measure(reader, tmp_path, 50)
        # Thirty reads may take less than a step of the processor's clock, so their time itself is not looked at.
        assert list(figures) == ["start_seconds", "ms_per_read", "kernel_ms_per_read", "private_mib"]
    rows = [{"reader": "shards", "records": 50, "first": figures, "later": figures}]
    assert scale.table(rows).splitlines()[2].startswith("| shards | 50 | ")


def test_a_generated_photograph_is_decoded():
    figures = scale.measure_decoding()
    assert 20_000 < figures["bytes"] < 200_000
    assert figures["ms_per_picture"] > 0


def test_a_picture_of_another_size_is_noticed(tmp_path, monkeypatch):
    scale.write_shards(tmp_path / "shards", 5)
    monkeypatch.setattr(scale, "PICTURE_BYTES", 399)
    with pytest.raises(RuntimeError, match="has another size"):
        scale.measure_shards(tmp_path / "shards", 5)
