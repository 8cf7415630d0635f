"""The feature cache: right queries, a store for each encoder and manifest, resumed, verified, complete."""

import json
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from skingpt4.model.build import build_encoder
from skingpt4.records import feature_store
from skingpt4.records.feature_store import (
    CARD,
    DATA,
    ROWS,
    FeatureError,
    FeatureStore,
    FeatureWriter,
    StoreShape,
)
from skingpt4.records.images import ImageError, open_image, to_tensor
from skingpt4.records.manifest import evenly_spread, read_manifest
from skingpt4.training import features
from skingpt4.training.features import Team, cached_images, cached_queries, crop_boxes, moments
from tests.support.tiny import (
    IMAGE_SIZE,
    NUM_QUERIES,
    QUERY_WIDTH,
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


def keep(config, cache, manifest=None, **options):
    """The store of a manifest; by default the configuration's."""
    manifest = manifest or config.data.train[0]
    return cached_queries(manifest, read_manifest(manifest), config, cache, **options)


def folders(cache):
    """Those of all complete stores."""
    return sorted(path.parent for path in cache.glob(f"*/*/{CARD}"))


def encode_records(config):
    """Queries (n, q, d) fp32 of the configuration's complete images, in order."""
    encoder = build_encoder(config)
    vision = encoder.vision_encoder
    images = [open_image(r.image_path) for r in read_manifest(config.data.train[0])]
    pixels = [to_tensor(image, IMAGE_SIZE, vision.mean, vision.std) for image in images]
    return encoder(torch.stack(pixels))


def everything(store):
    return store[range(len(store))]


def no_encoder():
    raise AssertionError("the encoder was built although its work is on disk")


def test_the_second_reading_needs_no_encoder(config, tmp_path):
    first = everything(keep(config, tmp_path))
    (folder,) = folders(tmp_path)
    written = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    store = keep(config, tmp_path, get_encoder=no_encoder)
    assert first.dtype == torch.float16
    assert torch.equal(first, everything(store))
    expected = encode_records(config)
    assert torch.equal(first, expected.half())
    assert not torch.allclose(expected[0], expected[1])
    assert written == {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    row = cached_images(store)(3, None)["queries"]
    assert row.dtype == torch.float32
    assert torch.equal(row, store[3].float())


def test_features_are_read_through_a_map_not_into_memory(config, tmp_path):
    store = keep(config, tmp_path)
    assert isinstance(store.data, np.memmap)
    assert (folders(tmp_path)[0] / DATA).stat().st_size == 6 * NUM_QUERIES * QUERY_WIDTH * 2
    assert store[[4, 0, 4]].shape == (3, NUM_QUERIES, QUERY_WIDTH)


def test_other_weights_pictures_or_records_make_another_store(config, folder, tmp_path):
    first = everything(keep(config, tmp_path / "cache"))
    other = tiny_config(folder, vision__weights=save_encoder(folder, seed=1)[0])
    assert not torch.allclose(everything(keep(other, tmp_path / "cache")), first)
    assert len(folders(tmp_path / "cache")) == 2
    keep(tiny_config(folder, vision__mean=[0.0, 0.0, 0.0]), tmp_path / "cache")
    assert len(folders(tmp_path / "cache")) == 3
    longer = write_manifest(tmp_path / "longer.jsonl", 7)
    assert len(keep(config, tmp_path / "cache", longer)) == 7
    assert len(folders(tmp_path / "cache")) == 4


def test_the_same_weights_elsewhere_are_the_same_features(config, folder, tmp_path):
    first = everything(keep(config, tmp_path / "cache"))
    moved = shutil.copy(config.vision.weights, tmp_path / "moved.safetensors")
    again = tiny_config(folder, vision__weights=moved, language__model="elsewhere", seed=7)
    assert torch.equal(everything(keep(again, tmp_path / "cache", get_encoder=no_encoder)), first)


def test_another_manifest_of_the_same_pictures_takes_them_over(config, folder, tmp_path):
    first = everything(keep(config, tmp_path))
    lines = Path(config.data.train[0]).read_text().splitlines(keepends=True)
    turned = folder / "turned.jsonl"
    turned.write_text("".join(lines[::-1]))
    store = keep(config, tmp_path, str(turned), get_encoder=no_encoder)
    assert torch.equal(everything(store), first.flip(0))
    longer = write_manifest(tmp_path / "longer.jsonl", 8)  # six of its pictures are known, two are new
    encoded = []
    monkey = build_encoder(config)
    monkey.register_forward_hook(lambda module, args, out: encoded.append(len(args[0])))
    assert torch.equal(everything(keep(config, tmp_path, longer, get_encoder=lambda: monkey))[:6], first)
    assert encoded == [2]


# ---- several views


def test_views_are_random_crops_drawn_from_the_picture_s_hash(folder, tmp_path):
    config = tiny_config(folder)
    record = read_manifest(config.data.train[0])[2]
    store, encoder = keep(config, tmp_path, views=3), build_encoder(config)
    digest = bytes(store.rows["picture"][2])
    image, vision = open_image(record.image_path), encoder.vision_encoder
    boxes = crop_boxes(digest, image.size, 3)
    assert len(set(boxes)) == 3
    assert boxes[:2] == crop_boxes(digest, image.size, 2)
    assert boxes != crop_boxes(bytes(store.rows["picture"][3]), image.size, 3)
    pixels = torch.stack([to_tensor(image, IMAGE_SIZE, vision.mean, vision.std, box) for box in boxes])
    kept = torch.stack([store.view(2, view) for view in range(3)])
    torch.testing.assert_close(kept.float(), encoder(pixels), rtol=2e-3, atol=2e-3)
    assert not torch.allclose(kept[0].float(), kept[1].float())


def test_one_view_is_drawn_a_sample(config, tmp_path):
    store = keep(config, tmp_path, views=4)
    load = cached_images(store)
    drawn = [load(1, np.random.default_rng(n))["queries"] for n in range(40)]
    assert torch.equal(drawn[7], load(1, np.random.default_rng(7))["queries"])
    views = [store.view(1, view).float() for view in range(4)]
    counts = [sum(torch.equal(queries, view) for queries in drawn) for view in views]
    assert sum(counts) == 40
    assert min(counts) >= 3


def test_rows_of_several_stores_follow_each_other(config, tmp_path):
    longer = write_manifest(tmp_path / "longer.jsonl", 7)
    one, two = keep(config, tmp_path / "c"), keep(config, tmp_path / "c", longer)
    load = cached_images(one, two)
    for row in (0, 5):
        assert torch.equal(load(row, None)["queries"], one[row].float())
        assert torch.equal(load(6 + row, None)["queries"], two[row].float())
    assert torch.equal(load(12, None)["queries"], two[6].float())


# ---- interrupted, damaged, too large


class Killed(Exception):
    pass


def test_an_interrupted_filling_goes_on_where_it_stopped(config, tmp_path, monkeypatch):
    whole = everything(keep(config, tmp_path / "whole"))
    written = []
    real = FeatureWriter.write

    def write(self, row, picture, bits):
        if len(written) == 4:
            raise Killed
        written.append(row)
        real(self, row, picture, bits)

    monkeypatch.setattr(features, "MAX_ENCODED", 2)
    monkeypatch.setattr(FeatureWriter, "write", write)
    with pytest.raises(Killed):
        keep(config, tmp_path / "cut")
    assert not folders(tmp_path / "cut")
    (data,) = (tmp_path / "cut").glob(f"*/*/{DATA}")
    torn = np.memmap(data, np.int16, "r+").reshape(6, -1)
    torn[1] += 1  # as if the machine had failed before these numbers reached the disk
    torn.flush()
    written.clear()
    store = keep(config, tmp_path / "cut")
    assert written == [1, 4, 5][: len(written)]
    assert sorted(written) == [1, 4, 5]
    assert torch.allclose(everything(store).float(), whole.float(), atol=1e-3)


def fill_slowly(config, cache, told):
    real = FeatureWriter.write

    def write(*args):
        real(*args)
        told.send("written")
        time.sleep(1.0)

    FeatureWriter.write = write
    keep(config, cache)


def test_a_killed_process_leaves_what_it_wrote(config, tmp_path):
    fork = multiprocessing.get_context("fork")  # all is imported already
    told, telling = fork.Pipe(duplex=False)
    process = fork.Process(target=fill_slowly, args=(config, tmp_path / "cache", telling))
    process.start()
    for _ in range(2):
        assert told.poll(60)
        assert told.recv() == "written"
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    encoded = []
    encoder = build_encoder(config)
    encoder.register_forward_hook(lambda module, args, out: encoded.append(len(args[0])))
    store = keep(config, tmp_path / "cache", get_encoder=lambda: encoder)
    assert encoded in ([4], [3])  # of six; the third may just have been written
    expected = encode_records(config)
    torch.testing.assert_close(everything(store).float(), expected, rtol=2e-3, atol=2e-3)


def test_processes_share_the_pictures(config, tmp_path):
    """Two members of a team, one after the other between the waits: each writes its own rows alone."""
    shape = StoreShape(6, 1, NUM_QUERIES, QUERY_WIDTH)
    FeatureWriter.prepare(tmp_path / "store", shape)
    records, encoder = read_manifest(config.data.train[0]), build_encoder(config)
    for rank in (1, 0):
        with FeatureWriter(tmp_path / "store", shape) as filling:
            assert filling.missing(rank, 2) == [rank, rank + 2, rank + 4]
        features._fill(tmp_path / "store", shape, records, config, lambda: encoder, Team(rank, 2))
        if rank:
            with pytest.raises(FeatureError, match="features of 3 pictures are missing"):
                FeatureWriter.finish(tmp_path / "store", shape)
    FeatureWriter.finish(tmp_path / "store", shape)
    expected = encode_records(config)
    torch.testing.assert_close(
        everything(FeatureStore(tmp_path / "store")).float(), expected, rtol=2e-3, atol=2e-3
    )


def test_what_two_processes_began_one_finishes(config, tmp_path, monkeypatch):
    """One of two was killed after its first picture, the other one had finished: two pictures are encoded."""
    (tmp_path / "first").mkdir()
    store = keep(config, tmp_path / "first")
    folder = tmp_path / "cache" / store.folder.relative_to(tmp_path / "first")
    shape, records, encoder = store.shape, read_manifest(config.data.train[0]), build_encoder(config)
    FeatureWriter.prepare(folder, shape)
    features._fill(folder, shape, records, config, lambda: encoder, Team(0, 2))
    real, written = FeatureWriter.write, []

    def write(self, row, picture, bits):
        if written:
            raise Killed
        written.append(row)
        real(self, row, picture, bits)

    monkeypatch.setattr(FeatureWriter, "write", write)
    with pytest.raises(Killed):
        features._fill(folder, shape, records, config, lambda: encoder, Team(1, 2))
    monkeypatch.setattr(FeatureWriter, "write", real)
    encoded = []
    encoder.register_forward_hook(lambda module, args, out: encoded.append(len(args[0])))
    resumed = keep(config, tmp_path / "cache", get_encoder=lambda: encoder)
    assert resumed.folder == folder
    assert (written, sum(encoded)) == ([1], 2)
    torch.testing.assert_close(everything(resumed).float(), everything(store).float(), rtol=2e-3, atol=2e-3)


def test_a_changed_byte_is_noticed(config, tmp_path):
    keep(config, tmp_path)
    (folder,) = folders(tmp_path)
    damaged = np.memmap(folder / DATA, np.int16, "r+").reshape(6, -1)
    damaged[2, 0] += 1
    damaged.flush()
    store = keep(config, tmp_path)
    assert torch.isfinite(store[1]).all()
    with pytest.raises(FeatureError, match="cached features are damaged; delete that folder"):
        store[2]
    # Nothing of it is taken over by another manifest, but the sound rows are.
    turned = tmp_path / "turned.jsonl"
    lines = [json.loads(line) for line in Path(config.data.train[0]).read_text().splitlines()]
    base = Path(config.data.train[0]).parent
    turned.write_text("".join(json.dumps(r | {"image": os.path.relpath(base / r["image"], tmp_path)}) + "\n"
                              for r in lines))  # fmt: skip
    encoder, encoded = build_encoder(config), []
    encoder.register_forward_hook(lambda module, args, out: encoded.append(len(args[0])))
    keep(config, tmp_path, str(turned), get_encoder=lambda: encoder)
    assert encoded == [1]


@pytest.mark.parametrize("name", [DATA, ROWS, CARD])
def test_a_damaged_file_is_refused_in_a_sentence(name, config, tmp_path):
    keep(config, tmp_path)
    (folder,) = folders(tmp_path)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-3])
    with pytest.raises(
        FeatureError, match=rf"{folder.name}: cached features are damaged; delete that folder"
    ):
        keep(config, tmp_path)


def test_what_does_not_fit_is_refused_before_it_starts(config, tmp_path, monkeypatch, caplog):
    free = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(feature_store.shutil, "disk_usage", lambda path: free._replace(free=1000))
    with pytest.raises(
        FeatureError, match=r"does not fit: 6 pictures, 0\.0 MB in .*; 0\.0 MB are free; free the"
    ):
        keep(config, tmp_path / "c", get_encoder=no_encoder)
    monkeypatch.undo()
    keep(config, tmp_path / "c", views=2)
    assert "6 pictures x 2 views, 0.0 MB in" in caplog.text


def test_the_size_is_that_of_the_files():
    shape = StoreShape(1_000_000, 4, 32, 768)
    assert shape.picture_bytes == 4 * 32 * 768 * 2
    assert shape.num_bytes == 1_000_000 * (4 * 32 * 768 * 2 + 32 + 4 * 4 + 1)


def test_a_picture_that_is_not_there_is_named(config, tmp_path):
    manifest = write_manifest(tmp_path / "gone.jsonl", 3)
    (tmp_path / "gone_1.png").unlink()
    with pytest.raises(ImageError, match=r"gone_1\.png: no such picture"):
        keep(config, tmp_path / "cache", manifest)


def test_a_run_that_waits_for_another_finds_its_work_done(config, tmp_path, monkeypatch):
    """The lock is held while another run finishes the store; this one then computes nothing."""
    real = feature_store.locked

    def busy(folder):
        monkeypatch.setattr(features, "locked", real)
        keep(config, tmp_path)
        return real(folder)

    monkeypatch.setattr(features, "locked", busy)
    began = time.monotonic()
    assert len(keep(config, tmp_path, get_encoder=no_encoder)) == 6
    assert time.monotonic() - began < 30


def test_coordinates_are_of_every_cached_vector(config, tmp_path, monkeypatch):
    """Mean and variance against numpy's over all vectors of all stores; of many images, evenly spread ones."""
    other = write_manifest(tmp_path / "other.jsonl", 5, first=40)
    stores = [keep(config, tmp_path / "cache"), keep(config, tmp_path / "cache", other)]
    vectors = torch.cat([everything(store) for store in stores]).flatten(0, 1).double()  # (11 * q, d)
    mean, covariance = moments(stores)
    torch.testing.assert_close(mean, vectors.mean(0))
    torch.testing.assert_close(covariance, torch.cov(vectors.T, correction=0))
    monkeypatch.setattr(features, "MAX_COUNTED", 4)
    rows = evenly_spread(11, 4)
    spread = torch.cat([everything(store) for store in stores])[rows].flatten(0, 1).double()
    torch.testing.assert_close(moments(stores)[0], spread.mean(0))
