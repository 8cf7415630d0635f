"""A `.pth` becomes safetensors once, beside itself, complete or not at all."""

import collections
import os

import pytest
import torch
from safetensors.torch import load_file

from skingpt4.weights.files import source as pth
from skingpt4.weights.files.source import open_source, safetensors_of
from skingpt4.weights.files.tensors import WeightsMismatch
from tests.skingpt4.weights.files.test_tensors import Payload


@pytest.fixture
def tensors():
    matrix = torch.arange(12.0).reshape(3, 4)
    return {"w": matrix, "tied": matrix, "rows": matrix[1:], "turned": matrix.t(), "h": torch.ones(2).half(),
            "one": torch.tensor(7)}  # fmt: skip


@pytest.mark.parametrize("zipped", [True, False])
def test_converted_once_with_equal_values(zipped, tensors, tmp_path, caplog, monkeypatch):
    caplog.set_level("INFO")
    path = tmp_path / "w.pth"
    torch.save({"model": tensors, "epoch": 3}, path, _use_new_zipfile_serialization=zipped)
    twin = safetensors_of(path)
    assert twin == tmp_path / "w.pth.safetensors"
    converted = load_file(twin)
    assert converted.keys() == tensors.keys()
    assert all(torch.equal(converted[k], v) and converted[k].dtype == v.dtype for k, v in tensors.items())
    assert [p.name for p in tmp_path.iterdir() if not p.name.endswith(".lock")] in (
        [path.name, twin.name],
        [twin.name, path.name],
    )
    assert caplog.text.count("converting") == 1
    caplog.clear()
    monkeypatch.setattr(pth, "read_pth", None)  # not even opened again
    assert safetensors_of(path) == twin
    assert caplog.text == ""


def test_a_changed_pth_is_converted_again(tensors, tmp_path):
    path = tmp_path / "w.pth"
    torch.save(tensors, path)
    twin = safetensors_of(path)
    torch.save({**tensors, "h": torch.zeros(2).half()}, path)
    os.utime(path, ns=(1, 1))  # older than the twin, as a restored copy is
    assert load_file(safetensors_of(path))["h"].sum() == 0
    twin.write_bytes(twin.read_bytes()[:40])  # a damaged twin too
    assert load_file(safetensors_of(path)).keys() == tensors.keys()


Usage = collections.namedtuple("Usage", "total used free")


@pytest.mark.parametrize("what", ["no right", "no room", "room runs out"])
def test_where_nothing_can_be_written_the_pth_itself_is_read(what, tensors, tmp_path, monkeypatch, caplog):
    path = tmp_path / "w.pth"
    torch.save(tensors, path)

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    def run_out(tensors, part, metadata):
        part.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    if what == "no right":  # tests may run as root, for whom every directory is writable
        monkeypatch.setattr(pth, "FileLock", refuse)
    elif what == "no room":
        monkeypatch.setattr(pth.shutil, "disk_usage", lambda path: Usage(10, 10, 0))
    else:
        monkeypatch.setattr(pth, "save_file", run_out)
    source = open_source(path)
    assert all(torch.equal(source.read(name), value) for name, value in tensors.items())
    assert [p.name for p in tmp_path.iterdir() if not p.name.endswith(".lock")] == ["w.pth"]
    line = caplog.messages[-1]
    assert "w.pth: read as it is, w.pth.safetensors cannot be written beside it (" in line
    assert {"no right": "Permission", "no room": "make room", "room runs out": "No space"}[what] in line


def test_code_and_truncation_are_refused_and_leave_nothing(tensors, tmp_path):
    torch.save({"model": Payload(tmp_path / "trace")}, tmp_path / "code.pth")
    torch.save(tensors, tmp_path / "cut.pth")
    content = (tmp_path / "cut.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(content[: len(content) // 2])
    for name, why in (("code.pth", "pickle with code"), ("cut.pth", "is truncated")):
        with pytest.raises(WeightsMismatch, match=why):
            open_source(tmp_path / name)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["code.pth", "cut.pth"]
