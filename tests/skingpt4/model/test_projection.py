"""The projector: pooling against a sum by hand, what it refuses, and maps that fold into plain layers."""

import pytest
import torch

from skingpt4.config.schema import Config, PoolingConfig, QFormerConfig, VisionConfig
from skingpt4.model.build import build_encoder, empty_encoder
from skingpt4.model.encoders.encoder import VisionError
from skingpt4.model.projection import (
    INPUT_MAPS,
    MlpProjection,
    PictureShape,
    Pooling,
    Projection,
    discriminant_map,
    input_map,
    make_projection,
    num_projection_parameters,
    picture_shape,
)
from tests.support.tiny import IMAGE_SIZE, vision_config

WIDTH = 6


class Tokens:
    """Stands for a vision encoder: 6 x 6 patches after a class token."""

    num_prefix, num_tokens, width = 1, 37, WIDTH


def pooled(tokens, **changes):
    vision = type("Vision", (Tokens,), {"num_tokens": tokens.shape[1]})
    return Pooling(PoolingConfig(**changes), vision)(tokens)


def configured(projector="linear", pooling=None, **vision):
    return Config(
        step="none", output_dir="run", projector=projector, vision=vision_config(**vision),
        pooling=PoolingConfig(**(pooling or {})), qformer=QFormerConfig(num_query_tokens=3, width=32, num_heads=2),
    )  # fmt: skip


@pytest.fixture
def tokens():
    return torch.randn(2, 37, WIDTH, generator=torch.Generator().manual_seed(0))


def test_a_grid_is_the_mean_of_neighbours_after_the_class_token(tokens):
    result = pooled(tokens, side=3)
    assert result.shape == (2, 10, WIDTH)
    assert torch.equal(result[:, 0], tokens[:, 0])
    patches = tokens[:, 1:].reshape(2, 6, 6, WIDTH)
    torch.testing.assert_close(result[:, 1 + 3 * 2 + 1], patches[:, 4:6, 2:4].mean((1, 2)))  # row 2, column 1


def test_pixel_shuffle_joins_the_patches_of_a_square_and_loses_none(tokens):
    result = pooled(tokens, side=3, method="pixel_shuffle")
    assert result.shape == (2, 10, 4 * WIDTH)
    patches = tokens[:, 1:].reshape(2, 6, 6, WIDTH)
    square = patches[:, 4:6, 2:4].reshape(2, 4, WIDTH)  # the four patches of row 2, column 1
    assert torch.equal(result[:, 1 + 3 * 2 + 1].reshape(2, WIDTH, 4), square.transpose(1, 2))
    assert torch.equal(result[:, 0].reshape(2, WIDTH, 4), tokens[:, 0, :, None].expand(-1, -1, 4))
    assert torch.equal(result[:, 1:].flatten().sort().values, patches.flatten().sort().values)


def test_the_class_token_can_be_left_out_and_may_not_exist(tokens):
    assert pooled(tokens, side=2, class_token=False).shape == (2, 4, WIDTH)
    without = type("Vision", (), {"num_prefix": 0, "num_tokens": 36, "width": WIDTH})
    assert Pooling(PoolingConfig(side=6), without)(tokens[:, 1:]).shape == (2, 36, WIDTH)
    assert torch.equal(Pooling(PoolingConfig(side=6), without)(tokens[:, 1:]), tokens[:, 1:])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"side": 7},
            r"pooling\.side: 7 x 7 tokens are more than the vision encoder's 6 x 6; choose at most 6",
        ),
        (
            {"side": 4, "method": "pixel_shuffle"},
            r"cannot join 6 x 6 patches to 4 x 4; choose one of 1, 2, 3, 6,",
        ),
    ],
)
def test_what_cannot_be_pooled_is_refused(changes, sentence, tokens):
    with pytest.raises(VisionError, match=sentence):
        pooled(tokens, **changes)
    with pytest.raises(VisionError, match="36 tokens, which lie on no square grid"):
        pooled(tokens[:, 1:])


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (configured("qformer"), PictureShape(3, 32)),
        (configured("qformer", crops=5), PictureShape(15, 32)),
        (configured("linear", {"side": 2}), PictureShape(5, 32)),
        (configured("mlp", {"side": 2}, crops=10), PictureShape(50, 32)),
        (configured("mlp", {"side": 2, "method": "pixel_shuffle"}), PictureShape(5, 128)),
        (configured("linear", {"side": 2, "class_token": False}), PictureShape(4, 32)),
        (configured("linear", {"side": 8}, image_size=2 * IMAGE_SIZE), PictureShape(65, 32)),
    ],
)
def test_the_shape_of_a_picture_is_that_of_its_vectors(config, shape):
    """The one property that texts, caches and estimates read, against the encoder itself."""
    assert picture_shape(config) == shape
    crops, side = config.vision.crops, config.vision.image_size
    image = torch.randn(2, 3, side, side) if crops == 1 else torch.randn(2, crops, 3, side, side)
    encoder = build_encoder(config)
    vectors = encoder(image)
    assert vectors.shape == (2, shape.num_vectors, shape.width)
    if crops > 1:  # each crop on its own, one after the other
        torch.testing.assert_close(torch.cat([encoder(image[:, n]) for n in range(crops)], 1), vectors)
    vision, reader = empty_encoder(config)
    assert (reader.width, reader.num_query_tokens * crops) == (shape.width, shape.num_vectors)
    assert all(p.is_meta for p in vision.parameters())


@pytest.mark.parametrize(
    ("model", "vectors"),
    [("resnet18", PictureShape(5 - 1, 512)), ("vit_tiny_patch16_224", PictureShape(5, 192))],
)
@pytest.mark.parametrize("size", [64, 96])
def test_any_backbone_needs_no_qformer(model, vectors, size):
    config = configured("linear", {"side": 2})
    config.vision = VisionConfig(model=model, image_size=size)
    assert picture_shape(config) == vectors
    assert build_encoder(config)(torch.zeros(1, 3, size, size)).shape == (
        1,
        vectors.num_vectors,
        vectors.width,
    )


@pytest.mark.parametrize("projector", ["qformer", "linear", "mlp"])
def test_the_trained_numbers_are_counted(projector):
    config = configured(projector)
    made = make_projection(projector, picture_shape(config).width, 48)
    assert num_projection_parameters(config, 48) == sum(p.numel() for p in made.parameters())


def test_the_mlp_is_llava_s():
    made = MlpProjection(4, 6, 5)
    x = torch.randn(2, 3, 4)
    hidden = torch.nn.functional.gelu(x @ made.hidden.weight.T + made.hidden.bias)
    torch.testing.assert_close(made(x), hidden @ made.output.weight.T + made.output.bias)
    assert MlpProjection(4, 6).hidden.out_features == 6
    assert list(made.state_dict()) == ["hidden.weight", "hidden.bias", "output.weight", "output.bias"]


# ---- coordinates


def uneven(count=4000):
    """Vectors with one large constant direction and directions of very different size, as the queries have them."""
    generator = torch.Generator().manual_seed(3)
    mixed = torch.randn(8, 8, generator=generator)
    scales = 10.0 ** -torch.arange(8.0).div(3)
    return torch.randn(count, 8, generator=generator) * scales @ mixed + 20 * torch.ones(8)


def map_of(name, vectors, weight=None):
    mean = vectors.double().mean(0)
    covariance = (vectors.double() - mean).T @ (vectors.double() - mean) / len(vectors)
    if name == "discriminants":
        return discriminant_map(mean, covariance, torch.eye(8).double()[:2] if weight is None else weight)
    return input_map(name, mean, covariance)


def test_standardised_dimensions_have_mean_0_and_variance_1():
    before = uneven().double().var(0, correction=0)
    result = map_of("standardised", uneven())(uneven())
    torch.testing.assert_close(result.mean(0), torch.zeros(8), atol=1e-3, rtol=0)
    expected = before / (before + 1e-3 * before.mean())  # 1, but for a dimension that hardly varies
    assert expected.min() > 0.9
    torch.testing.assert_close(result.var(0, correction=0), expected.float(), atol=1e-3, rtol=0)


def test_whitened_directions_have_variance_1_and_the_mean_stays():
    vectors = uneven()
    result = map_of("whitened", vectors)(vectors)
    torch.testing.assert_close(result.mean(0), vectors.mean(0), atol=1e-2, rtol=0)
    spread = torch.linalg.eigvalsh(torch.cov(result.T))
    before = torch.linalg.eigvalsh(torch.cov(vectors.T))
    assert spread.max() < 1.01
    assert spread.max() / spread.min() < 0.05 * before.max() / before.min()


def test_discriminants_are_large_whatever_the_size_of_what_they_read():
    vectors = uneven()
    values, directions = torch.linalg.eigh(torch.cov(vectors.double().T))
    faint = directions[:, 1] / values[1].sqrt()  # a label that hardly anything of the variance says
    said = vectors.double() @ faint
    result = map_of("discriminants", vectors, 7 * faint[None])(vectors).double()

    def explained(x):
        """The share of the variance of vectors that is linear in what the label says."""
        x, y = x - x.mean(0), (said - said.mean()) / said.std()
        return float(((x.T @ y / len(y)) ** 2).sum() / x.var(0).sum())

    assert explained(vectors.double()) < 0.01
    assert explained(result) > 0.95
    assert float(result.var(0).mean()) == pytest.approx(1, abs=0.1)
    assert float(result.mean(0).norm()) == pytest.approx(8**0.5, rel=1e-3)


@pytest.mark.parametrize("name", [*INPUT_MAPS, "discriminants"])
@pytest.mark.parametrize("make", [Projection, MlpProjection])
def test_a_map_folds_into_the_first_layer_and_out_again(name, make):
    vectors, made = uneven(50), make(8, 5)
    inputs = map_of(name, uneven())
    plain = make(8, 5)
    plain.load_state_dict(inputs.folded(made.state_dict(), made.first_layer))
    torch.testing.assert_close(plain(vectors), made(inputs(vectors)), rtol=1e-4, atol=1e-4)
    back = inputs.unfolded(plain.state_dict(), plain.first_layer)
    assert back.keys() == made.state_dict().keys()
    for key, value in made.state_dict().items():
        torch.testing.assert_close(back[key], value, rtol=1e-3, atol=1e-3)
