"""Our encoder, LAVIS's own modules in this environment, and the numbers of the unmodified LAVIS: equal to 1e-5.

Everything is fp32 at small size, with weights by the formula of `lavis_reference`; salesforce-lavis is part of
the installation, so nothing here is skipped.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from skingpt4.config.schema import OptimConfig, QFormerConfig, VisionConfig
from skingpt4.model.encoders.encoder import VisionEncoder
from skingpt4.model.lavis import LavisQFormer, LavisVision, to_lavis
from skingpt4.model.network import ImageEncoder, SkinGPT4
from skingpt4.model.qformer import QFormer
from skingpt4.training.optim.optimizer import make_optimizer
from tests.parity import lavis_reference as reference
from tests.support.tiny import (
    batch_of,
    conversation,
    make_model,
)

NUMBERS = Path(__file__).with_name("lavis_reference.npz")
close = {"rtol": 0.0, "atol": 1e-5}


def new_encoder() -> tuple[VisionEncoder, QFormer]:
    config = VisionConfig(model_args=reference.EVA, image_size=reference.IMAGE_SIZE, norm_eps=1e-5)
    vision = VisionEncoder(config)
    sizes = QFormerConfig(num_query_tokens=reference.NUM_QUERIES, **reference.QFORMER)
    return vision, QFormer(sizes, vision.width)


def save_lavis_files(folder: Path, vision: VisionEncoder, qformer: QFormer) -> tuple[Path, Path]:
    """LAVIS's two files with weights by the formula, the text branch and a head that nobody uses among them."""
    eva, blip2 = map(reference.weights_like, to_lavis(vision, qformer))
    text = {k.replace("_query.", "."): 7.0 * v for k, v in blip2.items() if "_query." in k}
    text["Qformer.bert.embeddings.word_embeddings.weight"] = torch.ones(30, 48)
    torch.save({**eva, "head.weight": torch.ones(3, 64)}, folder / "eva_vit_g.pth")
    torch.save({"model": {**blip2, **text}, "epoch": 3}, folder / "blip2.pth")
    return folder / "eva_vit_g.pth", folder / "blip2.pth"


@pytest.fixture(scope="module")
def ours(tmp_path_factory) -> ImageEncoder:
    """Our encoder, its weights read from files as LAVIS publishes them."""
    vision, qformer = new_encoder()
    eva, blip2 = save_lavis_files(tmp_path_factory.mktemp("lavis"), vision, qformer)
    vision.load(eva)
    vision.load_ln_vision(blip2)
    qformer.load(blip2)
    return ImageEncoder(vision, qformer)


@pytest.fixture(scope="module")
def theirs(ours) -> ImageEncoder:
    return ImageEncoder(LavisVision(ours.vision_encoder), LavisQFormer(ours.qformer))


@pytest.fixture(scope="module")
def numbers() -> dict[str, torch.Tensor]:
    with np.load(NUMBERS, allow_pickle=False) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files if name != "versions"}


@pytest.fixture(params=["ours", "theirs"])
def encoder(request) -> ImageEncoder:
    return request.getfixturevalue(request.param)


def raw_features(encoder: ImageEncoder, image: torch.Tensor) -> torch.Tensor:
    """The ViT's tokens before the norm."""
    vision = encoder.vision_encoder
    if isinstance(vision, LavisVision):
        return vision.visual_encoder(image)
    seen = []
    with vision.backbone.norm.register_forward_pre_hook(lambda module, args: seen.append(args[0])):
        vision(image)
    return seen[0]


# ---- against the unmodified package, each in its own environment


def test_the_numbers_come_from_the_unmodified_package():
    with np.load(NUMBERS, allow_pickle=False) as file:
        versions = json.loads(str(file["versions"]))
    assert versions["salesforce-lavis"] == "1.0.2"
    assert versions["transformers"].startswith("4.26.")
    assert versions["timm"] == "0.4.12"
    assert NUMBERS.stat().st_size < 1_000_000


@torch.no_grad()
def test_every_stage_gives_the_numbers_of_the_unmodified_package(encoder, numbers):
    image = reference.pictures()
    tokens = encoder.vision_encoder(image)
    torch.testing.assert_close(raw_features(encoder, image), numbers["raw"], **close)
    torch.testing.assert_close(tokens, numbers["tokens"], **close)
    torch.testing.assert_close(encoder.qformer(tokens), numbers["queries"], **close)


def test_the_trained_projection_gives_the_numbers_of_the_unmodified_package(encoder, numbers):
    with torch.no_grad():
        queries = encoder.qformer(encoder.vision_encoder(reference.pictures()))
    for name, value in reference.train_projection(queries).items():
        assert numbers[name].abs().max() > 0.01
        torch.testing.assert_close(value, numbers[name], **close)


@torch.no_grad()
def test_the_comparison_sees_a_wrong_epsilon_and_a_wrong_layer(ours, numbers):
    vision, qformer = new_encoder()
    vision.load_state_dict(ours.vision_encoder.state_dict())
    qformer.load_state_dict(ours.qformer.state_dict())
    vision.backbone.norm.eps = 1e-3
    layers = qformer.model.encoder.layer
    layers[0].intermediate_query, layers[1].intermediate_query = (
        layers[1].intermediate_query, layers[0].intermediate_query,
    )  # fmt: skip
    tokens = vision(reference.pictures())
    assert (tokens - numbers["tokens"]).abs().max() > 1e-4
    assert (qformer(numbers["tokens"]) - numbers["queries"]).abs().max() > 1e-2


# ---- side by side in this environment


@torch.no_grad()
@pytest.mark.parametrize("seed", range(3))
def test_vit_norm_qformer_and_the_whole_are_equal_side_by_side(ours, theirs, seed):
    image = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(raw_features(ours, image), raw_features(theirs, image), **close)
    tokens = ours.vision_encoder(image)
    torch.testing.assert_close(tokens, theirs.vision_encoder(image), **close)
    torch.testing.assert_close(ours.qformer(tokens), theirs.qformer(tokens), **close)
    whole = theirs.qformer(theirs.vision_encoder(image))
    assert whole.std() > 0.1
    torch.testing.assert_close(ours.qformer(tokens), whole, **close)


@torch.no_grad()
def test_the_backends_differ_less_than_half_precision_moves_either(ours, theirs):
    image, results = reference.pictures(), {}
    for name, encoder in (("ours", ours), ("theirs", theirs)):
        for half in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                results[name, half] = encoder.qformer(encoder.vision_encoder(image)).float()
    difference = (results["ours", False] - results["theirs", False]).abs().max()
    moved = [(results[name, True] - results[name, False]).abs().max() for name in ("ours", "theirs")]
    assert difference < 1e-5 < 1e-3 < min(moved) < max(moved) < 0.2
    assert (results["ours", True] - results["theirs", True]).abs().max() < 2 * max(moved)


@torch.no_grad()
@pytest.mark.parametrize(("heads", "every", "layers"), [(2, 1, 2), (3, 3, 4), (8, 2, 3)])
def test_other_sizes_of_the_qformer_are_equal(heads, every, layers):
    ours = QFormer(QFormerConfig(None, 6, 48, layers, heads, 80, every), 24).eval()
    ours.load_state_dict(reference.weights_like(ours.state_dict()))
    tokens = reference.uniform("tokens", (2, 9, 24))
    torch.testing.assert_close(ours(tokens), LavisQFormer(ours).eval()(tokens), **close)


def test_conversion_there_and_back_changes_no_bit(ours, tmp_path):
    eva, blip2 = to_lavis(ours.vision_encoder, ours.qformer)
    torch.save(eva, tmp_path / "eva_vit_g.pth")
    torch.save({"model": blip2}, tmp_path / "blip2.pth")
    vision, qformer = new_encoder()
    vision.load(tmp_path / "eva_vit_g.pth")
    vision.load_ln_vision(tmp_path / "blip2.pth")
    qformer.load(tmp_path / "blip2.pth")
    for copy, original in ((vision, ours.vision_encoder), (qformer, ours.qformer)):
        expected = original.state_dict()
        assert copy.state_dict().keys() == expected.keys()
        assert all(torch.equal(value, expected[key]) for key, value in copy.state_dict().items())
    again = to_lavis(vision, qformer)
    assert all(torch.equal(value, pair[key]) for pair, new in zip((eva, blip2), again, strict=True)
               for key, value in new.items())  # fmt: skip


def test_the_names_are_those_of_lavis_own_modules(ours, theirs):
    eva, blip2 = to_lavis(ours.vision_encoder, ours.qformer)
    assert eva.keys() == theirs.vision_encoder.visual_encoder.state_dict().keys()
    bert = {f"Qformer.bert.{key}" for key in theirs.qformer.bert.state_dict()}
    assert blip2.keys() == bert | {"query_tokens", "ln_vision.weight", "ln_vision.bias"}


# ---- one training step on either encoder


def trained(encoder: ImageEncoder, folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Gradients and values of the projection after one step on two pictures."""
    base = make_model(folder)
    model = SkinGPT4(None, base.language_model, encoder.qformer.width)
    model.projection.load_state_dict(reference.weights_like(model.projection.state_dict()))
    rows = [conversation(model, q, a) for q, a in (("What is it?", "Acne."), ("Why?", "See a doctor."))]
    with torch.no_grad():
        queries = encoder.qformer(encoder.vision_encoder(reference.pictures()))
    optimizer = make_optimizer(model, OptimConfig(init_lr=1e-2))
    loss, count = model(**batch_of(rows), queries=queries)
    (loss / count).backward()
    gradients = {name: p.grad.clone() for name, p in model.projection.named_parameters()}
    optimizer.step()
    return gradients, dict(model.projection.state_dict())


def test_one_training_step_is_equal_on_either_backend(ours, theirs, tmp_path):
    (ours_gradient, ours_after), (gradient, after) = trained(ours, tmp_path), trained(theirs, tmp_path)
    for name in ("weight", "bias"):
        assert gradient[name].abs().max() > 1e-3
        torch.testing.assert_close(ours_gradient[name], gradient[name], **close)
        torch.testing.assert_close(ours_after[name], after[name], **close)
