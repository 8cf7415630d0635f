"""The Vicuna delta merge: equal to addition, stoppable, and refused where it would be nonsense."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from skingpt4.cli.delta import main
from skingpt4.weights import delta as merging
from skingpt4.weights.delta import merge, plan
from skingpt4.weights.delta_files import DeltaError, ModelFiles
from tests.support.tiny import load_language_model, make_tokenizer, save_language_model

EMBEDDINGS = ("model.embed_tokens.weight", "lm_head.weight")


def make_pair(folder, extra_rows=0, **changes):
    """(base directory, delta directory, what their sum is), both fp16 as published."""
    base, delta = folder / "llama", folder / "vicuna-delta"
    rows = len(make_tokenizer("llama"))
    save_language_model(base, dtype="float16", **changes)
    save_language_model(delta, dtype="float16", seed=1, **{**changes, "vocab_size": rows + extra_rows})
    base_tensors = load_file(base / "model.safetensors")
    differences = {n: (0.01 * t).half() for n, t in load_file(delta / "model.safetensors").items()}
    save_file(
        {n: t.half() for n, t in base_tensors.items()}, base / "model.safetensors", metadata={"format": "pt"}
    )
    save_file(differences, delta / "model.safetensors", metadata={"format": "pt"})
    total = {}
    for name, difference in differences.items():
        start = torch.zeros_like(difference)
        start[: len(base_tensors[name])] = base_tensors[name].half()
        total[name] = start + difference
    return base, delta, total


def reshard(folder, kind, per_file):
    """Spread a directory's tensors over files of another kind, with an index."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    path.unlink()
    names, weight_map = sorted(tensors), {}
    for number, start in enumerate(range(0, len(names), per_file)):
        part = {name: tensors[name] for name in names[start : start + per_file]}
        if kind == "bin":
            file = f"pytorch_model-{number}.bin"
            torch.save(part | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}, folder / file)
        else:
            file = f"model-{number}.safetensors"
            save_file(part, folder / file)
        weight_map |= dict.fromkeys(part, file)
    index = "pytorch_model.bin.index.json" if kind == "bin" else "model.safetensors.index.json"
    (folder / index).write_text(json.dumps({"weight_map": weight_map}))


def merged_tensors(out):
    return {n: t for file in out.glob("*.safetensors") for n, t in load_file(file).items()}


@pytest.mark.parametrize("extra_rows", [0, 1])
@pytest.mark.parametrize(("base_kind", "delta_kind"), [(None, None), ("bin", None), ("safetensors", "bin")])
def test_the_merge_is_the_sum_in_any_sharding(extra_rows, base_kind, delta_kind, tmp_path):
    base, delta, total = make_pair(tmp_path, extra_rows)
    for folder, kind, per_file in ((base, base_kind, 3), (delta, delta_kind, 5)):
        if kind:
            reshard(folder, kind, per_file)
    out = merge(plan(base, delta, shard_bytes=20_000), tmp_path / "out", quiet=True)
    merged = merged_tensors(out)
    assert merged.keys() == total.keys()
    assert all(torch.equal(merged[n], t) and merged[n].dtype == torch.float16 for n, t in total.items())
    assert len(list(out.glob("*.safetensors"))) > 3
    assert not list(tmp_path.glob(".*"))
    model = load_language_model(str(out))
    assert model.get_input_embeddings().weight.shape[0] == len(model.tokenizer) + extra_rows
    assert AutoTokenizer.from_pretrained(out)("skin").input_ids == make_tokenizer("llama")("skin").input_ids
    assert "_name_or_path" not in json.loads((out / "config.json").read_text())


def test_a_stopped_merge_goes_on_where_it_was(tmp_path, monkeypatch):
    base, delta, total = make_pair(tmp_path)
    planned = plan(base, delta, shard_bytes=20_000)
    written = []

    def stop_at_the_third(tensors, path, metadata):
        written.append(path.name)
        if len(written) == 3:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        save_file(tensors, path, metadata=metadata)

    monkeypatch.setattr(merging, "save_file", stop_at_the_third)
    with pytest.raises(
        DeltaError, match=r"No space left on device\); make room, then run the same .* 2 files"
    ):
        merge(planned, tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()
    merge(plan(base, delta, shard_bytes=20_000), tmp_path / "out", quiet=True)
    assert len(written) == len(planned.shards) + 1  # the third alone was written twice
    assert all(torch.equal(t, total[n]) for n, t in merged_tensors(tmp_path / "out").items())


def test_what_another_merge_left_is_not_mixed_in(tmp_path, monkeypatch):
    base, delta, _ = make_pair(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(merging, "_write_beside", lambda *_: (_ for _ in ()).throw(OSError(5, "I/O error")))
        with pytest.raises(DeltaError):
            merge(plan(base, delta, shard_bytes=20_000), tmp_path / "out", quiet=True)
    tensors = load_file(delta / "model.safetensors")
    save_file({n: 2 * t for n, t in tensors.items()}, delta / "model.safetensors", metadata={"format": "pt"})
    merge(plan(base, delta, shard_bytes=20_000), tmp_path / "out", quiet=True)
    merged = merged_tensors(tmp_path / "out")
    base_tensors = load_file(base / "model.safetensors")
    assert all(torch.equal(t, base_tensors[n] + 2 * tensors[n]) for n, t in merged.items())


def test_no_room_is_told_before_anything_is_written(tmp_path, monkeypatch):
    base, delta, _ = make_pair(tmp_path)
    free = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(merging.shutil, "disk_usage", lambda path: free)
    with pytest.raises(
        DeltaError, match=r"needs 0\.1 GB more, 0\.0 GB are free; make room or choose another --out"
    ):
        merge(plan(base, delta), tmp_path / "out", quiet=True)
    assert not list(tmp_path.rglob("model-*"))


def test_the_command_tells_what_it_will_do_and_overwrites_nothing(tmp_path, capsys):
    base, delta, _ = make_pair(tmp_path, 1)
    args = ["--base", str(base), "--delta", str(delta), "--out", str(tmp_path / "out")]
    assert main([*args, "--dry-run"]) == 0
    rows = len(make_tokenizer("llama")) + 1
    assert f"32 wide, {rows} tokens, 0.0 GB in 1 files of float16" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    assert main(args) == 0
    assert main(args) == 1
    assert "out: exists already; name another --out" in capsys.readouterr().err
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")


def test_another_size_is_refused_with_both_named(tmp_path):
    base, _, _ = make_pair(tmp_path / "small")
    _, delta, _ = make_pair(tmp_path / "large", hidden_size=64)
    with pytest.raises(
        DeltaError, match="base is 32 wide with 2 layers, the delta 64 wide with 2 layers; take"
    ):
        plan(base, delta)
    _, deep, _ = make_pair(tmp_path / "deep", num_hidden_layers=3)
    with pytest.raises(DeltaError, match="with 2 layers, the delta 32 wide with 3 layers"):
        plan(base, deep)


def test_what_is_no_base_or_no_delta_is_refused(tmp_path):
    base, delta, _ = make_pair(tmp_path)
    with pytest.raises(DeltaError, match=r"is a complete model .* exchanged"):
        plan(delta, base)
    with pytest.raises(DeltaError, match=r"--base .* is not a LLaMA but: .*is a Vicuna delta"):
        plan(delta, delta)
    with pytest.raises(DeltaError, match="no such directory"):
        plan(tmp_path / "gone", delta)
    named = tmp_path / "vicuna-7b-v1.1"
    shutil.copytree(base, named)
    with pytest.raises(DeltaError, match="is itself a fine-tuned LLaMA"):
        plan(named, delta)
    other = tmp_path / "falcon"
    save_language_model(other, "falcon")
    with pytest.raises(DeltaError, match="is of the family falcon"):
        plan(other, delta)
    cut = tmp_path / "cut"
    shutil.copytree(delta, cut)
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:-20])
    with pytest.raises(DeltaError, match="is truncated"):
        plan(base, cut)


@pytest.mark.parametrize(("base_rows", "delta_rows", "why"), [
    (32001, 32001, "is itself a Vicuna v0"), (32000, 32003, "base has 32000 tokens, the delta 32003"),
])  # fmt: skip
def test_a_base_of_another_vocabulary_size_is_refused(base_rows, delta_rows, why, tmp_path):
    base, delta, _ = make_pair(tmp_path)
    for folder, rows in ((base, base_rows), (delta, delta_rows)):
        tensors = load_file(folder / "model.safetensors")
        tensors |= {name: torch.zeros(rows, 32).half() for name in EMBEDDINGS}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "vocab_size": rows}))
    with pytest.raises(DeltaError, match=why):
        plan(base, delta)


def test_another_tokenizer_is_refused(tmp_path):
    base, delta, _ = make_pair(tmp_path)
    text = (base / "tokenizer.json").read_text()
    tokenizer = json.loads(text)
    vocabulary = tokenizer["model"]["vocab"]
    first, second = [token for token in vocabulary if len(token) == 1][:2]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (base / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(DeltaError, match="its vocabulary is not the delta's"):
        plan(base, delta)


def test_a_tensor_too_few_is_named(tmp_path):
    base, delta, _ = make_pair(tmp_path)
    tensors = load_file(base / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DeltaError, match=r"lacks 1 tensors: model\.layers\.1\.mlp\.up_proj"):
        plan(base, delta)


def test_a_mapped_bin_is_let_go(tmp_path):
    base, _, _ = make_pair(tmp_path)
    reshard(base, "bin", 3)
    files = ModelFiles(base)
    for name in files.tensors:
        files.read(name)
        assert len(files._open) == 1
    files.close()
    assert not files._open
