"""Headers: the same names, shapes and dtypes as loading gives, for nothing; broken files named for what they are."""

import contextlib
import json
import os
import pickle
import pickletools
import struct

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from skingpt4.weights.files.headers import TensorInfo, UnreadableWeights, lfs_pointer, read_header

OID = "4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393"
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{OID}\nsize 13476857000\n"


class Payload:
    """A pickle that would leave a trace if it were run."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def tensors():
    return {
        "a.weight": torch.arange(6.0).reshape(2, 3),
        "a.bias": torch.ones(2, dtype=torch.bfloat16),
        "ids": torch.arange(4),
        "half": torch.ones((), dtype=torch.float16),
    }


def write(tensors, path, legacy=False, inside=""):
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        checkpoint = {inside: tensors, "epoch": 3} if inside else tensors
        torch.save(checkpoint, path, _use_new_zipfile_serialization=not legacy)
    return path


@pytest.mark.parametrize(
    ("name", "legacy", "inside", "form"),
    [
        ("w.safetensors", False, "", "safetensors"),
        ("w.pth", False, "", "pth"),
        ("w.bin", False, "", "pth"),
        ("w.pth", True, "", "legacy pth"),
        ("w.pth", False, "model", "pth"),
        ("w.pth", True, "model", "legacy pth"),
        ("misnamed.pth", False, "", "pth"),
    ],
)
def test_the_header_is_what_loading_gives(name, legacy, inside, form, tensors, tmp_path):
    header = read_header(write(tensors, tmp_path / name, legacy, inside))
    assert header.format == form
    assert header.inside == inside
    assert header.extra == ({"epoch": "int"} if inside else {})
    assert header.tensors == {
        name: TensorInfo(tuple(t.shape), str(t.dtype).removeprefix("torch.")) for name, t in tensors.items()
    }
    assert {n: i.num_bytes for n, i in header.tensors.items()} == {n: t.nbytes for n, t in tensors.items()}


def test_the_content_decides_not_the_suffix(tensors, tmp_path):
    write(tensors, tmp_path / "w.safetensors").rename(tmp_path / "w.pth")
    assert read_header(tmp_path / "w.pth").format == "safetensors"


def test_shared_storage_of_a_legacy_file_counts_once(tmp_path):
    shared = torch.ones(1000)
    write({"a": shared, "b": shared, "c": shared[10:]}, tmp_path / "w.pth", legacy=True)
    assert len(read_header(tmp_path / "w.pth").tensors) == 3


def refused(path, kind):
    with pytest.raises(UnreadableWeights) as caught:
        read_header(path)
    assert caught.value.kind == kind
    message = str(caught.value)
    assert message.startswith(f"{path}: "), "where"
    assert "\n" not in message, "one sentence"
    return message


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "legacy.pth"])
@pytest.mark.parametrize("kept", [0.02, 0.3, 0.5, 0.9, 0.999])
def test_truncated(name, kept, tmp_path):
    path = write({"a": torch.ones(5000), "b": torch.ones(50, 50)}, tmp_path / name, legacy="legacy" in name)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    assert "get it again" in refused(path, "truncated")


def test_code_is_refused_and_not_run(tmp_path):
    trace = tmp_path / "trace"
    torch.save({"model": {"w": torch.ones(1)}, "config": Payload(trace)}, tmp_path / "zip.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Payload(trace), protocol=4))
    for name in ("zip.pth", "plain.pth"):
        assert "mkdir" in refused(tmp_path / name, "pickle_with_code")
    assert not trace.exists()


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (b"", "empty", "is empty"),
        (POINTER.encode(), "lfs_pointer", "13477 MB file that it stands for; run `git lfs pull`"),
        (b"\n<!DOCTYPE html><html>Sign in</html>", "web_page", "saved web page"),
        (b"GGUF\x03\x00\x00\x00" + bytes(40), "gguf", "llama.cpp"),
        (b"some notes about weights", "not_weights", "neither safetensors nor a torch file"),
        (b"short", "not_weights", "neither"),
        (struct.pack("<Q", 30) + b'{"a":{"dtype":"F32","shape":1}}', "not_weights", "header is damaged"),
        (struct.pack("<Q", 900) + b'{"a":{"dtype":"F32"', "truncated", "28 bytes of 908"[3:]),
        (pickle.dumps([1, 2], protocol=2), "not_weights", "is a pickle, but not a file of tensors"),
    ],
)
def test_what_is_something_else_is_named(content, kind, message, tmp_path):
    (tmp_path / "w.pth").write_bytes(content)
    assert message in refused(tmp_path / "w.pth", kind)


def test_a_missing_file_an_unfinished_one_and_a_bare_tensor(tensors, tmp_path):
    refused(tmp_path / "gone.pth", "missing")
    (tmp_path / "w.pth.part").write_bytes(b"abc")
    assert "run the same fetch again" in refused(tmp_path / "w.pth.part", "unfinished")
    torch.save(torch.ones(3), tmp_path / "one.pth")
    refused(tmp_path / "one.pth", "not_weights")


def test_lfs_pointer():
    assert lfs_pointer(POINTER.encode()) == (OID, 13476857000)
    assert lfs_pointer(b"anything") is None


INSTRUCTIONS = st.sampled_from([opcode.code.encode("latin-1") for opcode in pickletools.opcodes])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200) | st.lists(INSTRUCTIONS | st.binary(max_size=9)).map(b"".join))
@example(b"\x96" + struct.pack("<Q", 2**62))  # a bytearray longer than any memory
def test_no_bytes_make_it_fail_otherwise(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.bin"
    for start in (b"", struct.pack("<Q", len(content) + 1) + b"{", b"\x80\x02", b"PK\x03\x04"):
        path.write_bytes(start + content)
        with contextlib.suppress(UnreadableWeights):
            read_header(path)


def test_a_large_sparse_file_costs_nothing(tmp_path):
    header = b'{"w":{"dtype":"F16","shape":[2500,1000000],"data_offsets":[0,5000000000]}}'
    with (tmp_path / "w.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + 5_000_000_000)  # 5 GB, none of them on the disk
    assert read_header(tmp_path / "w.safetensors").tensors["w"].num_bytes == 5_000_000_000


@pytest.mark.parametrize("length", [0x280, 0x380, 0x480, 0x580])
def test_a_safetensors_header_whose_length_begins_like_a_pickle_is_no_pickle(length, tmp_path):
    entry = {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    text = json.dumps(entry).encode().ljust(length)
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", length) + text + bytes(4))
    assert read_header(tmp_path / "w.safetensors").tensors["a"].shape == (1,)
