"""Files of weights: what is read, what is refused, and how differences are reported."""

import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

from skingpt4.support.files import file_sha256
from skingpt4.weights.files.headers import read_header
from skingpt4.weights.files.tensors import WeightsMismatch, load_tensors, require_same_tensors


class Payload:
    """A pickle that would leave a trace if it were run."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def tensors():
    return {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2, dtype=torch.float16)}


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w.pt"])
def test_read_back_equal(name, tensors, tmp_path):
    path = tmp_path / name
    save_file(tensors, path) if path.suffix == ".safetensors" else torch.save(tensors, path)
    loaded = load_tensors(path)
    assert loaded.keys() == tensors.keys()
    for key, value in tensors.items():
        assert loaded[key].dtype == value.dtype
        assert torch.equal(loaded[key], value)


@pytest.mark.parametrize("entry", ["model", "state_dict"])
def test_the_entry_of_a_training_checkpoint_that_inspect_names(entry, tensors, tmp_path):
    torch.save({entry: tensors, "optimizer": {"lr": 1}, "epoch": 3}, tmp_path / "w.pth")
    assert read_header(tmp_path / "w.pth").inside == entry
    assert load_tensors(tmp_path / "w.pth").keys() == tensors.keys()


def test_what_is_no_tensor_is_left_out(tensors, tmp_path):
    torch.save({**tensors, "epoch": 3}, tmp_path / "w.pth")
    assert load_tensors(tmp_path / "w.pth").keys() == tensors.keys()


def test_old_torch_format(tensors, tmp_path):
    torch.save(tensors, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    assert load_tensors(tmp_path / "w.pth").keys() == tensors.keys()


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path):
    trace = tmp_path / "trace"
    torch.save({"model": Payload(trace)}, tmp_path / "w.pth")
    with pytest.raises(WeightsMismatch, match=r"w\.pth.*pickle with code"):
        load_tensors(tmp_path / "w.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Payload(trace)))
    with pytest.raises(WeightsMismatch, match=r"plain\.pth"):
        load_tensors(tmp_path / "plain.pth")
    assert not trace.exists()


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.99])
def test_truncated(name, kept, tensors, tmp_path):
    path = tmp_path / name
    save_file(tensors, path) if path.suffix == ".safetensors" else torch.save(tensors, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(WeightsMismatch, match=rf"{name}: cannot be read"):
        load_tensors(path)


def test_missing_file_and_no_names(tmp_path):
    with pytest.raises(WeightsMismatch, match=r"gone\.pth: no such file"):
        load_tensors(tmp_path / "gone.pth")
    torch.save(torch.ones(3), tmp_path / "one.pth")
    with pytest.raises(WeightsMismatch, match=r"one\.pth: holds no tensors by name"):
        load_tensors(tmp_path / "one.pth")


def test_differences_are_all_named():
    loaded = {"same": torch.ones(2), "extra": torch.ones(1), "shape": torch.ones(2, 3)}
    expected = {
        "same": torch.ones(2),
        "shape": torch.ones(3, 2),
        **{f"gone{n}": torch.ones(1) for n in range(6)},
    }
    with pytest.raises(WeightsMismatch) as caught:
        require_same_tensors(loaded, expected, "some/file.pth", "Q-Former")
    assert str(caught.value) == (
        "some/file.pth does not fit this Q-Former; missing 6: gone0, gone1, gone2, gone3, ...; "
        "unexpected 1: extra; of another shape 1: shape (2, 3) instead of (3, 2)"
    )


def test_equal_names_and_shapes_pass_whatever_the_values(tensors):
    require_same_tensors({k: v + 1 for k, v in tensors.items()}, tensors, "file", "model")


def test_file_sha256(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    assert file_sha256(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
