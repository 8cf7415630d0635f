"""Weights in files and directories: shapes without reading, tensors one by one, straight to their place."""

import json

import pytest
import torch
from safetensors.torch import save_file
from timm.layers import trunc_normal_tf_
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from skingpt4.weights.files.source import (
    INDEX,
    built_without_memory,
    load_into,
    open_source,
    shapes_alone,
    unchanged,
)
from skingpt4.weights.files.tensors import WeightsMismatch


@pytest.fixture
def tensors():
    return {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2, dtype=torch.float16),
            "steps": torch.tensor(3)}  # fmt: skip


def sharded(folder, tensors):
    """A directory as Hugging Face writes it, one shard a tensor."""
    folder.mkdir()
    weight_map = {name: f"model-{n}.safetensors" for n, name in enumerate(tensors)}
    for name, shard in weight_map.items():
        save_file({name: tensors[name]}, folder / shard)
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    return folder


def write(kind, folder, tensors):
    if kind == "shards":
        return sharded(folder / "shards", tensors)
    path = folder / kind
    path.parent.mkdir(exist_ok=True)
    save_file(tensors, path) if path.suffix == ".safetensors" else torch.save({"model": tensors}, path)
    return path.parent if path.parent != folder else path


@pytest.mark.parametrize("kind", ["w.safetensors", "w.pth", "shards", "single/model.safetensors"])
def test_headers_hold_no_data_and_tensors_are_read_back_equal(kind, tensors, tmp_path):
    source = open_source(write(kind, tmp_path, tensors))
    assert source.header.keys() == tensors.keys()
    for name, value in tensors.items():
        assert source.header[name].is_meta
        assert (source.header[name].shape, source.header[name].dtype) == (value.shape, value.dtype)
        assert torch.equal(source.read(name), value)


def test_of_a_directory_only_the_needed_shards_are_touched(tensors, tmp_path):
    folder = sharded(tmp_path / "shards", tensors)
    (folder / "model-2.safetensors").unlink()
    source = open_source(folder, ("a.",))
    assert source.header.keys() == {"a.weight", "a.bias"}
    assert source.files == (folder / "model-0.safetensors", folder / "model-1.safetensors")
    with pytest.raises(WeightsMismatch, match=r"names model-2\.safetensors, which is not there"):
        open_source(folder)


def test_what_is_no_directory_of_safetensors_is_refused(tensors, tmp_path):
    with pytest.raises(WeightsMismatch, match="gone: no such file"):
        open_source(tmp_path / "gone")
    with pytest.raises(WeightsMismatch, match=r"holds no model\.safetensors"):
        open_source(tmp_path)
    (tmp_path / "pytorch_model-00001-of-00002.bin").write_bytes(b"")
    with pytest.raises(WeightsMismatch, match=r"only pickled \.bin weights; fetch its safetensors"):
        open_source(tmp_path)
    (tmp_path / INDEX).write_text("{")
    with pytest.raises(WeightsMismatch, match="is damaged"):
        open_source(tmp_path)
    folder = sharded(tmp_path / "shards", tensors)
    shard = folder / "model-0.safetensors"
    shard.write_bytes(shard.read_bytes()[:-5])
    with pytest.raises(WeightsMismatch, match=r"model-0\.safetensors: is truncated"):
        open_source(folder)


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.norm = nn.LayerNorm(2)
        self.register_buffer("table", torch.tensor([1.0, 2.0, 0.1]), persistent=False)
        self.register_buffer("count", torch.tensor(0))


RECIPES = {
    "linear.weight": ("a.weight", unchanged),
    "linear.bias": ("a.bias", lambda bias: bias * 2),
    "count": ("steps", unchanged),
}


def test_a_module_without_memory_gets_every_tensor_its_buffers_and_its_defaults(tensors, tmp_path):
    source = open_source(write("w.pth", tmp_path, tensors))
    module = built_without_memory(Small)
    assert all(p.is_meta for p in module.parameters())
    module.linear.weight.requires_grad_(False)
    load_into(module, source, RECIPES, "thing", left_out=("norm.",))
    assert torch.equal(module.linear.weight, tensors["a.weight"])
    assert not module.linear.weight.requires_grad
    assert torch.equal(module.linear.bias, torch.full((2,), 2.0))
    assert module.linear.bias.dtype == torch.float32  # the module's own precision, not the file's
    assert module.count == 3
    assert torch.equal(module.table, torch.tensor([1.0, 2.0, 0.1]))
    assert torch.equal(module.norm.weight, torch.ones(2))
    assert torch.equal(module.norm.bias, torch.zeros(2))


def test_the_asked_precision_is_that_of_all_but_integers(tensors, tmp_path):
    module = built_without_memory(Small)
    source = open_source(write("w.pth", tmp_path, tensors))
    load_into(module, source, RECIPES, "thing", dtype=torch.bfloat16, left_out=("norm.",))
    assert {t.dtype for t in (*module.parameters(), module.table)} == {torch.bfloat16}
    assert module.count.dtype == torch.int64


def test_a_loaded_module_does_not_depend_on_its_file(tensors, tmp_path):
    path = write("w.safetensors", tmp_path, tensors)
    module = built_without_memory(Small)
    load_into(module, open_source(path), RECIPES, "thing", left_out=("norm.",))
    with path.open("r+b") as file:
        file.seek(-30, 2)
        file.write(b"\xff" * 30)
    assert torch.equal(module.linear.weight, tensors["a.weight"])


def test_nothing_is_changed_where_names_or_shapes_differ(tensors, tmp_path):
    module = Small()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    path = write("w.safetensors", tmp_path, tensors)
    with pytest.raises(WeightsMismatch) as caught:
        load_into(module, open_source(path), RECIPES | {"odd": ("steps", unchanged)}, "thing")
    assert caught.value.missing == ["norm.bias", "norm.weight"]
    assert caught.value.unexpected == ["odd"]
    wrong = RECIPES | {"linear.weight": ("a.weight", lambda weight: weight.t())}
    with pytest.raises(WeightsMismatch, match=r"linear\.weight \(3, 2\) instead of \(2, 3\)"):
        load_into(module, open_source(path), wrong, "thing", left_out=("norm.",))
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_nothing_is_drawn_for_tensors_without_memory():
    class Ops(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.seen = set()

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.seen.add(func.name())
            return func(*args, **(kwargs or {}))

    def build():
        module = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
        trunc_normal_tf_(module[0].weight, std=0.02)
        with torch.no_grad():
            module[0].bias.fill_(1.0)
        return module

    with Ops() as before:
        build()
    drawing = {"aten::uniform_", "aten::erfinv_", "aten::mul_.Tensor", "aten::fill_.Scalar"}
    assert drawing <= before.seen
    with Ops() as ops:
        module = built_without_memory(build)
    with ops, shapes_alone():
        empty = build()
    assert not drawing & ops.seen
    for one in (module, empty):
        assert all(p.is_meta for p in one.parameters())
        assert [tuple(p.shape) for p in one.parameters()] == [(2, 3), (2,), (2,), (2,)]


def test_modules_that_need_their_parameters_are_built_with_memory():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(2, 2)
            self.register_buffer("sum", torch.zeros(()), persistent=False)
            self.sum.copy_(self.linear.weight.detach().sum())

    class Quiet(nn.Linear):
        def __init__(self):
            super().__init__(2, 2)
            self.register_buffer("sum", self.weight.detach().sum(), persistent=False)

    for kind in (Odd, Quiet):
        module = built_without_memory(kind)
        assert not any(t.is_meta for t in (*module.parameters(), *module.buffers()))
