"""The feature cache: right queries, one file for each encoder and manifest, there whole or not at all."""

import shutil

import pytest
import torch

from skingpt4 import features
from skingpt4.datasets import read_manifest
from skingpt4.features import cached_queries, encode_records, picture_queries
from skingpt4.images import open_image, to_tensor
from skingpt4.model import build_encoder
from tests.skingpt4.tiny import (
    IMAGE_SIZE,
    NUM_QUERIES,
    QUERY_WIDTH,
    one_thread,  # noqa: F401
    save_encoder,
    tiny_config,
    write_manifest,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("features")


@pytest.fixture
def config(folder):
    return tiny_config(folder)


def no_encoder():
    raise AssertionError("the encoder was built although its work is on disk")


def test_queries_are_those_of_the_whole_pictures_in_order(config):
    records, encoder = read_manifest(config.data.train[0]), build_encoder(config)
    queries = encode_records(records, encoder, IMAGE_SIZE, batch_size=4)  # 6 pictures: a full batch, a rest
    assert queries.shape == (6, NUM_QUERIES, QUERY_WIDTH)
    vision = encoder.vision_encoder
    pixels = torch.stack(
        [to_tensor(open_image(r.image_path), IMAGE_SIZE, vision.mean, vision.std) for r in records]
    )
    assert torch.equal(queries, torch.cat([encoder(pixels[:4]), encoder(pixels[4:])]))
    assert not torch.allclose(queries[0], queries[1])


def test_the_second_reading_needs_no_encoder(config, tmp_path):
    records = read_manifest(config.data.train[0])
    first = cached_queries(config.data.train[0], records, config, tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    written = file.stat().st_mtime_ns
    second = cached_queries(config.data.train[0], records, config, tmp_path / "cache", no_encoder)
    assert first.dtype == torch.float16
    assert torch.equal(first, second)
    expected = encode_records(records, build_encoder(config), IMAGE_SIZE)
    assert torch.equal(first, expected.half())
    assert [p.stat().st_mtime_ns for p in (tmp_path / "cache").iterdir()] == [written]
    row = picture_queries(second)(3, None)["queries"]
    assert row.dtype == torch.float32
    assert torch.equal(row, second[3].float())


def test_other_weights_pictures_or_records_make_another_file(config, folder, tmp_path):
    manifest, cache = config.data.train[0], tmp_path / "cache"
    records = read_manifest(manifest)
    first = cached_queries(manifest, records, config, cache)
    other = tiny_config(folder, vision__weights=save_encoder(folder, seed=1)[0])
    assert not torch.allclose(cached_queries(manifest, records, other, cache), first)
    assert len(list(cache.iterdir())) == 2
    cached_queries(manifest, records, tiny_config(folder, vision__mean=[0.0, 0.0, 0.0]), cache)
    assert len(list(cache.iterdir())) == 3
    longer = write_manifest(tmp_path / "longer.jsonl", 7)
    assert len(cached_queries(longer, read_manifest(longer), config, cache)) == 7
    assert len(list(cache.iterdir())) == 4


def test_the_same_weights_elsewhere_are_the_same_features(config, folder, tmp_path):
    manifest = config.data.train[0]
    records = read_manifest(manifest)
    first = cached_queries(manifest, records, config, tmp_path / "cache")
    moved = shutil.copy(config.vision.weights, tmp_path / "moved.safetensors")
    again = tiny_config(folder, vision__weights=moved, language__model="elsewhere", seed=7)
    assert torch.equal(cached_queries(manifest, records, again, tmp_path / "cache", no_encoder), first)


def test_an_interrupted_writing_leaves_nothing_to_be_mistaken(config, tmp_path, monkeypatch):
    records = read_manifest(config.data.train[0])

    def torn(tensors, path):
        path.write_bytes(b"half of it")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(features, "save_file", torn)
        with pytest.raises(KeyboardInterrupt):
            cached_queries(config.data.train[0], records, config, tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*.safetensors"))
    assert len(cached_queries(config.data.train[0], records, config, tmp_path / "cache")) == 6
