"""Encoders of other libraries on their whole way: trained, loaded from the checkpoint, asked."""

import json

import pytest
import torch

from skingpt4.chat.session import ChatSession
from skingpt4.checkpoints import checkpoint
from skingpt4.checkpoints.load import load_model
from skingpt4.generation.sampling import Generation
from skingpt4.model.build import build_encoder
from skingpt4.training.loop import run
from tests.support.encoder_files import images, open_clip_model, transformers_model, vision_of
from tests.support.tiny import make_picture, tiny_config

PLAIN = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
WAYS = {  # changes, vectors of a picture
    "open_clip": ({"projector": "mlp", "pooling__side": 2}, 5),
    "siglip2": ({"projector": "linear", "pooling__side": 2, "vision__crops": 5}, 20),
    "dinov3_vit": ({"projector": "qformer"}, 4),  # whose width is that of the Q-Former
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("named")


def configure(folder, way, **changes):
    if not (folder / way).exists():
        if way == "open_clip":
            open_clip_model(folder / way, PLAIN)
        else:
            transformers_model(folder / way, way)
    config = tiny_config(
        folder, output_dir=str(folder / f"run_{way}"), vision=vision_of(folder / way),
        optim__max_epoch=1, data__augment=False, data__feature_cache=str(folder / "cache"), **changes,
    )  # fmt: skip
    return config


@pytest.mark.parametrize("way", WAYS)
def test_from_training_to_an_answer(way, folder):
    changes, vectors = WAYS[way]
    config = configure(folder, way)
    for name, value in changes.items():
        *groups, key = name.split("__")
        setattr(getattr(config, groups[0]) if groups else config, key, value)
    run(config)
    card = json.loads((checkpoint.find(config.output_dir) / checkpoint.CARD).read_text())
    assert card["projector"]["vectors"] == vectors
    assert card["config"]["vision"]["interpolation"] == config.vision.interpolation
    model = load_model(
        config, config.output_dir
    )  # with its known answer, which another transform would change
    session = ChatSession(model, config)
    session.add_image(make_picture(3))
    assert session.queries[0].shape[1] == vectors
    assert isinstance(session.ask("What is it?", Generation(max_new_tokens=2)), str)


@torch.no_grad()
@pytest.mark.parametrize("way", WAYS)
def test_half_precision_is_near_full_precision(way, folder):
    config = configure(folder, way, projector="linear", pooling__side=2)
    full = build_encoder(config)(images())
    config.encoder.dtype = "bfloat16"
    half = build_encoder(config)(images())
    assert half.dtype == torch.float32
    assert (half - full).norm() < 0.05 * full.norm()
