"""The bridge to LAVIS: its own classes come out, nothing else in the process changes, refusals are sentences."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from skingpt4.checkpoints.identity import encoder_identity
from skingpt4.config.load import load_config
from skingpt4.config.schema import ConfigError, VisionConfig
from skingpt4.model import lavis as lavis_bridge
from skingpt4.model.build import build_encoder
from skingpt4.model.encoders.encoder import VisionEncoder
from skingpt4.model.lavis import LavisError, LavisQFormer, LavisVision, lavis_classes
from skingpt4.model.network import ImageEncoder
from tests.support.tiny import (
    IMAGE_SIZE,
    make_encoder,
    tiny_config,
    vision_config,
)

ROOT = Path(__file__).parents[3]
# A process of its own: within pytest other modules could already hold what the bridge would leave behind.
SNAPSHOT = """
import json, sys
import skingpt4.model.lavis as bridge

def attributes():
    return {
        (name, key): id(value) for name, module in list(sys.modules.items())
        if name.split(".")[0] in ("timm", "transformers") for key, value in list(vars(module).items())
    }

modules, before = dict(sys.modules), attributes()
classes = bridge.lavis_classes()
config = classes.BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
config.add_cross_attention, config.encoder_width, config.cross_attention_freq = True, 8, 2
classes.BertModel(config)
classes.VisionTransformer(img_size=28, patch_size=14, embed_dim=8, depth=1, num_heads=1, qkv_bias=True)
after = attributes()
print(json.dumps({
    "modules": [n for n in {*modules, *sys.modules} if modules.get(n) is not sys.modules.get(n)],
    "attributes": [list(k) for k in {*before, *after} if before.get(k) != after.get(k)],
    "files": [sys.modules.get("lavis") is None, classes.BertModel.__module__],
}))
"""


@pytest.fixture
def fresh():
    """Whatever was loaded before is loaded again here, and again for the next test."""
    lavis_classes.cache_clear()
    yield
    lavis_classes.cache_clear()


@pytest.mark.acceptance
def test_nothing_is_left_behind_in_the_process():
    done = subprocess.run(
        [sys.executable, "-c", SNAPSHOT], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == {"modules": [], "attributes": [], "files": [True, "_lavis_qformer"]}


def test_the_classes_are_lavis_own_files(fresh):
    classes = lavis_classes()
    folder = Path(importlib.util.find_spec("lavis").submodule_search_locations[0])
    forward = classes.VisionTransformer.forward, classes.BertModel.forward
    files = [Path(function.__code__.co_filename) for function in forward]
    assert files == [folder / lavis_bridge.EVA, folder / lavis_bridge.QFORMER]
    assert lavis_classes() is classes


def test_a_module_that_was_there_before_is_there_again(fresh, monkeypatch):
    before = object()
    monkeypatch.setitem(sys.modules, "timm.models.layers", before)
    lavis_classes()
    assert sys.modules["timm.models.layers"] is before


def test_without_the_package_the_command_is_told(fresh, monkeypatch, tmp_path):
    config = tiny_config(tmp_path, encoder__backend="lavis")
    Path(config.vision.weights).write_text("nothing that could be read")
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *_: None if name == "lavis" else real(name, *_)
    )
    message = r"not installed; pip install --no-deps salesforce-lavis==1\.0\.2$"
    for asked in (lavis_classes, lambda: build_encoder(config)):  # the second before any weights are opened
        with pytest.raises(LavisError, match=message):
            asked()


@pytest.mark.parametrize("content", [None, "import no_such_module", "VisionTransformer = 1"])
def test_files_of_another_version_are_refused_and_the_stand_ins_leave(fresh, monkeypatch, tmp_path, content):
    if content is not None:
        for name in (lavis_bridge.EVA, lavis_bridge.QFORMER):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(content)
    spec = importlib.util.find_spec("lavis")
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    before = dict(sys.modules)
    with pytest.raises(LavisError, match=r"cannot be used \(.*salesforce-lavis==1\.0\.2"):
        lavis_classes()
    assert sys.modules == before


def test_nothing_downloads_or_prunes(fresh):
    stand_ins = lavis_bridge._stand_ins()
    for module, name in (
        ("lavis.common.dist_utils", "download_cached_file"),
        ("transformers.modeling_utils", "prune_linear_layer"),
    ):
        with pytest.raises(LavisError, match=name):
            getattr(stand_ins[module], name)("https://example.org/weights.pth")


# ---- the backend


def test_the_config_picks_the_backend_and_its_identity_stays(tmp_path):
    ours = tiny_config(tmp_path)
    theirs = tiny_config(tmp_path, encoder__backend="lavis")
    native, lavis = build_encoder(ours), build_encoder(theirs)
    assert isinstance(native.vision_encoder, VisionEncoder)
    assert isinstance(lavis.vision_encoder, LavisVision)
    assert isinstance(lavis.qformer, LavisQFormer)
    assert encoder_identity(ours) == encoder_identity(theirs)
    image = torch.randn(2, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(0))
    expected, queries = native(image), lavis(image)
    assert queries.dtype is torch.float32
    tolerance = (
        1e-5 if torch.get_autocast_dtype("cpu") is None else 2e-2
    )  # half precision where the CPU has it
    torch.testing.assert_close(queries, expected, rtol=tolerance, atol=tolerance)
    for name in ("mean", "std", "width", "num_tokens"):
        assert getattr(lavis.vision_encoder, name) == getattr(native.vision_encoder, name)
    assert (lavis.qformer.width, lavis.qformer.num_query_tokens) == (native.qformer.width, 4)


@pytest.mark.parametrize(
    ("config", "override", "message"),
    [
        ("tiny/step1", "vision.block=10", "vision.model: eva_giant_patch14_clip_224, found 'vit_small"),
        ("paper/step1_vicuna7b", "vision.norm_eps=1e-6", "vision.norm_eps: 1e-05, found 1e-06"),
        ("paper/step1_vicuna7b", "vision.block=38", "vision.block: null, found 38"),
        ("paper/step1_vicuna7b", "vision.norm=false", "vision.norm: true, found False"),
    ],
)
def test_a_config_that_lavis_does_not_fit_is_refused_before_anything_is_loaded(config, override, message):
    path = ROOT / f"configs/{config}.yaml"
    with pytest.raises(ConfigError, match=rf"'encoder\.backend' lavis needs {message}"):
        load_config(path, ["encoder.backend=lavis", override])
    load_config(path, [override])


def test_the_papers_configs_run_on_lavis():
    path = ROOT / "configs/paper/step1_vicuna7b.yaml"
    assert load_config(path, ["encoder.backend=lavis"]).encoder.backend == "lavis"
    with pytest.raises(ConfigError, match=r"'encoder\.backend' is 'timm'; choose one of native, lavis"):
        load_config(path, ["encoder.backend=timm"])


def test_the_backend_is_frozen_and_in_eval_mode():
    ours = make_encoder()
    encoder = ImageEncoder(LavisVision(ours.vision_encoder), LavisQFormer(ours.qformer)).train()
    assert not any(p.requires_grad for p in encoder.parameters())
    assert not any(module.training for module in encoder.modules())


def test_the_tensors_are_taken_over_not_copied():
    ours = make_encoder()
    theirs = LavisVision(ours.vision_encoder), LavisQFormer(ours.qformer)
    places = {p.data_ptr() for p in ours.parameters()}
    assert {p.data_ptr() for module in theirs for p in module.parameters()} == places


def test_what_lavis_does_not_have_is_refused():
    with pytest.raises(LavisError, match="EVA-ViT-g only"):
        LavisVision(VisionEncoder(VisionConfig("resnet10t", image_size=64)))
    for changes in ({"norm": False}, {"block": 1}, {"norm_eps": 1e-6}):
        eva = VisionEncoder(vision_config(**changes))
        with pytest.raises(LavisError, match=r"vision\.norm_eps: 1\.0e-5"):
            LavisVision(eva)
