"""The catalogue: complete, and read so strictly that a mistake in it is reported with its place."""

from pathlib import Path

import pytest
import yaml

from skingpt4.weights.fetch import wheel
from skingpt4.weights.fetch.catalogue import (
    CatalogueError,
    Hub,
    Url,
    Wheel,
    catalogue,
    fetch_command,
    read,
)

ROOT = Path(__file__).parents[4]
GOOD = {
    "name": "x",
    "role": "qformer",
    "description": "d",
    "licence": "MIT",
    "config_key": "qformer.weights",
    "source": {"kind": "url", "url": "https://example.org/x.pth", "file": "x.pth"},
}


def write(tmp_path, *entries, **more):
    path = tmp_path / "catalogue.yaml"
    path.write_text(yaml.safe_dump({"entries": list(entries), **more}))
    return path


def test_what_it_must_hold():
    names = set(catalogue().entries)
    assert names >= {
        "eva_vit_g", "blip2_pretrained_flant5xxl", "blip2_pretrained_opt2.7b", "instruct_blip_vicuna7b",
        "hf-blip2-flan-t5-xxl", "hf-instructblip-vicuna-7b", "minigpt4-13b", "skingpt4-13b", "vicuna-13b-delta-v0",
        "vicuna-7b-delta-v0", "vicuna-13b-v1.1", "vicuna-7b-v1.5", "llama-2-13b-chat", "falcon-7b-instruct",
        "falcon-40b-instruct", "smollm2-135m-instruct", "local",
    }  # fmt: skip
    assert catalogue()["llama-2-13b-chat"].gate.accept == "Meta's Llama 2 licence"
    assert catalogue()["eva_vit_g"].shapes["pos_embed"] == (1, 257, 1408)


def test_wheels_are_pinned_and_have_converters():
    wheels = [e.source for e in catalogue().entries.values() if isinstance(e.source, Wheel)]
    assert len(wheels) == 3
    for source in wheels:
        assert f"-{source.version}-" in source.wheel
        assert source.convert in wheel.CONVERTERS


def test_the_papers_files_lie_where_its_configuration_looks():
    base = yaml.safe_load((ROOT / "configs/paper/base.yaml").read_text())
    for key in ("vision", "qformer"):
        files = [f"weights/{catalogue()[name].source.file}" for name in catalogue().groups["paper"]]
        assert base[key]["weights"] in files


def test_shards_are_chosen_for_the_image_side_only():
    for entry in catalogue().entries.values():
        if entry.role == "encoder":
            assert isinstance(entry.source, Hub)
            assert "vision_model." in entry.source.tensors


def test_read_back(tmp_path):
    known = read(write(tmp_path, GOOD, groups={"g": ["x"]}))
    assert known["x"].source == Url("https://example.org/x.pth", "x.pth")
    assert known.expand(["g", "x"]) == ["x"]
    assert (known["x"].size, known["x"].gate, known["x"].origin) == (None, None, "https://example.org/x.pth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"role": "engine"}, r"entry x: role: Input should be 'vision_encoder',.* \(it is 'engine'\)"),
        ({"sise": 3}, r"entry x: sise: Unexpected keyword argument"),
        ({"licence": None}, r"entry x: licence: Input should be a valid string \(it is None\)"),
        ({"size": "2 GB"}, r"entry x: size: Input should be a valid integer \(it is '2 GB'\)"),
        ({"size": True}, r"entry x: size: .*True"),
        ({"name": "../x"}, r"entry \.\./x: name: String should match pattern"),
        ({"source": 3}, r"entry x: source: Input should be an object"),
        ({"source": {"kind": "ftp"}}, r"entry x: source: Input tag 'ftp' .* expected tags: 'wheel', 'url'"),
        ({"source": {"url": "https://x.org"}}, r"entry x: source: .* 'kind'"),
        ({"source": {**GOOD["source"], "url": "http://x.org"}}, r"entry x: source.url: .*http://x.org"),
        ({"source": {**GOOD["source"], "sha256": "abc"}}, r"entry x: source.sha256: String .*'abc'"),
        ({"source": {"kind": "url", "url": "https://x.org"}}, r"entry x: source.file: Field required$"),
        ({"source": {**GOOD["source"], "base": "y"}}, r"entry x: source.base: Unexpected keyword argument"),
        ({"gate": {"accept": "it"}}, r"entry x: gate.where: Field required$"),
        ({"gate": "yes"}, r"entry x: gate: Input should be an object"),
        ({"shapes": {"w": ["a"]}}, r"entry x: shapes.w.0: Input should be a valid integer"),
    ],
)
def test_mistakes_are_reported_with_their_place(change, message, tmp_path):
    with pytest.raises(CatalogueError, match=message):
        read(write(tmp_path, {**GOOD, **change}))


def test_more_mistakes(tmp_path):
    with pytest.raises(CatalogueError, match="entry x: is listed twice"):
        read(write(tmp_path, GOOD, GOOD))
    with pytest.raises(CatalogueError, match="group g: y"):
        read(write(tmp_path, GOOD, groups={"g": ["y"]}))
    with pytest.raises(CatalogueError, match="cannot be read"):
        read(tmp_path / "gone.yaml")
    (tmp_path / "bad.yaml").write_text("entries: [")
    with pytest.raises(CatalogueError, match="cannot be read"):
        read(tmp_path / "bad.yaml")
    (tmp_path / "bad.yaml").write_text("[]")
    with pytest.raises(CatalogueError, match=r"bad.yaml: Input should be an object \(it is \[\]\)"):
        read(tmp_path / "bad.yaml")
    with pytest.raises(CatalogueError, match="entry 1: Input should be an object"):
        read(write(tmp_path, 3))


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(CatalogueError, match="no weights are called 'eva_vit'; near: eva_vit_g"):
        catalogue()["eva_vit"]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("weights/eva_vit_g.pth", "paper"),
        ("elsewhere/blip2_pretrained_opt2.7b.pth", "blip2_pretrained_opt2.7b"),
        ("weights/dinov2-vit-s14-reg4/model.safetensors", "tiny"),
        ("weights/smollm2-135m-instruct", "tiny"),
        ("weights/minigpt4_7b.pth", "minigpt4-7b"),
        ("lmsys/vicuna-7b-v1.5", "vicuna-7b-v1.5"),
    ],
)
def test_the_command_for_what_a_configuration_names(path, name):
    assert fetch_command(path) == f"skingpt4 weights fetch {name}"
    assert fetch_command("weights/mine.pth") is None


def test_the_commands_for_a_vicuna_that_is_published_as_a_delta():
    assert fetch_command("weights/vicuna-13b-v0") == (
        "skingpt4 weights fetch vicuna-13b-delta-v0, then skingpt4 delta --base LLAMA "
        "--delta weights/vicuna-13b-delta-v0 --out weights/vicuna-13b-v0"
    )


def test_the_papers_configs_name_the_folders_that_fetch_fills():
    for path in sorted((ROOT / "configs/paper").glob("model_*.yaml")):
        model = yaml.safe_load(path.read_text())["language"]["model"]
        folder, name = model.split("/")
        assert folder == "weights"
        assert name in fetch_command(model)
        assert name in catalogue().entries or name.replace("-v0", "-delta-v0") in catalogue().entries
