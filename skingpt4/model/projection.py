"""The projector: from what the frozen encoder sees of a picture to vectors among the language model's embeddings.

`qformer` is the paper's: one linear layer on the Q-Former's queries. `linear` and `mlp` need no Q-Former: one layer,
or LLaVA's two (arXiv 2310.03744), on patch tokens that are pooled to a stated number.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skingpt4.config.schema import Config, PoolingConfig, VisionConfig
from skingpt4.model.encoders.encoder import VisionEncoder, VisionError
from skingpt4.weights.files.source import built_without_memory


class Projection(nn.Linear):
    """One linear layer, in fp32 wherever it is called (`llama_proj` of MiniGPT-4 and SkinGPT-4)."""

    first_layer = ""  # prefix of the names of the layer that reads the encoder's vectors

    def forward(self, queries: Tensor) -> Tensor:
        """Map the encoder's vectors (images, q, d) to (images, q, width) in fp32, on the projection's device."""
        with torch.autocast(self.weight.device.type, enabled=False):
            return super().forward(queries.to(self.weight.device).float())


class MlpProjection(nn.Module):
    """Two linear layers with a GELU between them, in fp32 wherever they are called.

    Args:
        in_features: width d of the encoder's vectors.
        out_features: width of the language model.
        hidden_width: between the layers; None takes the language model's, as LLaVA does.
    """

    first_layer = "hidden."

    def __init__(self, in_features: int, out_features: int, hidden_width: int | None = None) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.hidden = nn.Linear(in_features, hidden_width or out_features)
        self.output = nn.Linear(hidden_width or out_features, out_features)

    def forward(self, queries: Tensor) -> Tensor:
        """Map the encoder's vectors (images, q, d) to (images, q, width) in fp32, on the projection's device."""
        device = self.output.weight.device
        with torch.autocast(device.type, enabled=False):
            return self.output(F.gelu(self.hidden(queries.to(device).float())))


def make_projection(
    projector: str, width: int, out_features: int, hidden_width: int | None = None
) -> Projection | MlpProjection:
    """The trained part of a projector, with random weights.

    Args:
        projector: qformer, linear or mlp.
        width: d of the encoder's vectors.
        out_features: width of the language model.
        hidden_width: of mlp.
    """
    if projector == "mlp":
        return MlpProjection(width, out_features, hidden_width)
    return Projection(width, out_features)


def num_projection_parameters(config: Config, out_features: int) -> int:
    """The trained numbers of a configuration's projection."""
    width = picture_shape(config).width
    if config.projector != "mlp":
        return (width + 1) * out_features
    hidden = config.projection.hidden_width or out_features
    return (width + 1) * hidden + (hidden + 1) * out_features


# ---- what reaches the projection


class Pooling(nn.Module):
    """Patch tokens pooled to `side` x `side`, after the class token if there is one; nothing in it is trained.

    `grid` takes the mean of neighbouring patches, `pixel_shuffle` joins those of a square to one wider token
    (space to depth; arXiv 2404.16821), and repeats the class token to the same width.

    Args:
        config: method, side, and whether the class token is used.
        vision: whose tokens are pooled.

    Raises:
        VisionError: the tokens lie on no square grid, or on one that cannot be pooled so.
    """

    def __init__(self, config: PoolingConfig, vision: VisionEncoder) -> None:
        super().__init__()
        self.num_prefix, self.method, self.side = vision.num_prefix, config.method, config.side
        self.patches = math.isqrt(vision.num_tokens - self.num_prefix)  # on a side
        if self.patches**2 != vision.num_tokens - self.num_prefix:
            raise VisionError(
                f"projector: the vision encoder gives {vision.num_tokens} tokens, which lie on no square grid that "
                "could be pooled; use projector: qformer"
            )
        if self.side > self.patches:
            raise VisionError(
                f"pooling.side: {self.side} x {self.side} tokens are more than the vision encoder's "
                f"{self.patches} x {self.patches}; choose at most {self.patches}, or a larger vision.image_size"
            )
        self.factor = 1
        if self.method == "pixel_shuffle":
            if self.patches % self.side:
                divisors = [str(n) for n in range(1, self.patches + 1) if self.patches % n == 0]
                raise VisionError(
                    f"pooling.side: pixel_shuffle cannot join {self.patches} x {self.patches} patches to "
                    f"{self.side} x {self.side}; choose one of {', '.join(divisors)}, or pooling.method: grid"
                )
            self.factor = self.patches // self.side
        self.has_class_token = bool(self.num_prefix and config.class_token)
        self.num_query_tokens = self.side**2 + self.has_class_token
        self.width = vision.width * self.factor**2

    def forward(self, tokens: Tensor) -> Tensor:
        """Map vision tokens (b, n, encoder width) to pooled ones (b, q, d)."""
        prefix, patches = tokens[:, : self.num_prefix], tokens[:, self.num_prefix :]
        grid = patches.transpose(1, 2).unflatten(2, (self.patches, self.patches))  # (b, width, rows, columns)
        if self.method == "grid":
            pooled = F.adaptive_avg_pool2d(grid, self.side)
        else:
            pooled = F.pixel_unshuffle(grid, self.factor)
        pooled = pooled.flatten(2).transpose(1, 2)  # (b, side * side, d)
        if not self.has_class_token:
            return pooled
        # pixel_unshuffle puts the values of one channel beside each other
        return torch.cat([prefix.repeat_interleave(self.factor**2, -1), pooled], dim=1)


@dataclass(frozen=True)
class PictureShape:
    """What the encoder gives for one picture: so many vectors (tokens of the prompt), each of a width."""

    num_vectors: int
    width: int


def picture_shape(config: Config) -> PictureShape:
    """How many vectors a picture has, and their width, before the projection.

    Raises:
        VisionError: the vision encoder cannot be built, or its tokens cannot be pooled as asked.
    """
    crops = config.vision.crops
    if config.projector == "qformer":
        return PictureShape(crops * config.qformer.num_query_tokens, config.qformer.width)
    pooled = _pooled(json.dumps([asdict(config.vision), asdict(config.pooling)], sort_keys=True))
    return PictureShape(crops * pooled.num_vectors, pooled.width)


@functools.lru_cache(maxsize=16)
def _pooled(parts: str) -> PictureShape:
    """Of one crop. The network is built on the meta device, where it takes no memory."""
    vision_values, pooling_values = json.loads(parts)
    vision = built_without_memory(lambda: VisionEncoder(VisionConfig(**vision_values)))
    pooling = Pooling(PoolingConfig(**pooling_values), vision)
    return PictureShape(pooling.num_query_tokens, pooling.width)


# ---- the coordinates in which a projection is trained


class InputMap(nn.Module):
    """A fixed affine map of the vectors before the projection: the coordinates in which it is trained.

    A checkpoint holds plain layers: `folded` multiplies the map into the first one, `unfolded` takes it out again.

    Args:
        matrix: (d, d), or (d,) for its diagonal; it has an inverse.
        offset: (d,).
    """

    def __init__(self, matrix: Tensor, offset: Tensor) -> None:
        super().__init__()
        self.matrix: Tensor
        self.offset: Tensor
        self.register_buffer("matrix", matrix.float())
        self.register_buffer("offset", offset.float())

    def forward(self, queries: Tensor) -> Tensor:
        """Map vectors (images, q, d) to (images, q, d) in fp32."""
        with torch.autocast(self.offset.device.type, enabled=False):
            queries = queries.to(self.offset.device).float()
            if self.matrix.dim() == 1:
                return queries * self.matrix + self.offset
            return queries @ self.matrix.T + self.offset

    def folded(self, tensors: Mapping[str, Tensor], first_layer: str) -> dict[str, Tensor]:
        """The projection's tensors such that it does alone what it does after this map, computed in fp64."""
        weight, bias, matrix, offset = self._exact(tensors, first_layer)
        bias = bias + weight @ offset
        weight = weight * matrix if matrix.dim() == 1 else weight @ matrix
        return _replaced(tensors, first_layer, weight, bias)

    def unfolded(self, tensors: Mapping[str, Tensor], first_layer: str) -> dict[str, Tensor]:
        """The inverse of `folded`: tensors that do after this map what the given ones do alone."""
        weight, bias, matrix, offset = self._exact(tensors, first_layer)
        weight = weight / matrix if matrix.dim() == 1 else torch.linalg.solve(matrix, weight, left=False)
        return _replaced(tensors, first_layer, weight, bias - weight @ offset)

    def _exact(
        self, tensors: Mapping[str, Tensor], first_layer: str
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        weight, bias = tensors[f"{first_layer}weight"], tensors[f"{first_layer}bias"]
        return (
            weight.cpu().double(),
            bias.cpu().double(),
            self.matrix.cpu().double(),
            self.offset.cpu().double(),
        )


def _replaced(
    tensors: Mapping[str, Tensor], first_layer: str, weight: Tensor, bias: Tensor
) -> dict[str, Tensor]:
    return {**tensors, f"{first_layer}weight": weight.float(), f"{first_layer}bias": bias.float()}


def _standardised(mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Each dimension with mean 0 and variance 1; one that hardly varies is not blown up."""
    variance = covariance.diagonal()
    scale = (variance + FLOOR * variance.mean()).rsqrt()
    return scale, -mean * scale


def _whitened(mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """All directions around the mean with variance 1, the mean where it was: x -> W (x - mean) + mean."""
    values, vectors = torch.linalg.eigh(covariance)
    scale = (values.clamp(min=0) + FLOOR * values.mean()).rsqrt()
    matrix = vectors * scale @ vectors.T
    return matrix, mean - matrix @ mean


OTHERS = 0.1  # standard deviation that every dimension has beside what labels explain
TINY = 1e-12
FLOOR = 1e-3  # of the mean variance, added to each: noise is not amplified without limit, and the map has an inverse
# The values of projection.inputs that need no labels: from mean (d,) and covariance (d, d), both fp64, to a map's
# matrix and offset.
INPUT_MAPS: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "standardised": _standardised,
    "whitened": _whitened,
}


def input_map(name: str, mean: Tensor, covariance: Tensor) -> InputMap:
    """The map of `projection.inputs` for vectors of this mean (d,) and covariance (d, d), both fp64."""
    return InputMap(*INPUT_MAPS[name](mean, covariance))


def discriminant_map(mean: Tensor, covariance: Tensor, weight: Tensor) -> InputMap:
    """What labels explain with variance 1 a dimension on average, all else small, and a constant as large as that.

    The constant stands for the mean, which all pictures share: AdamW moves a bias no faster than any weight.

    Args:
        mean: (d,) of the vectors, fp64.
        covariance: (d, d) of the vectors, fp64.
        weight: (labels, d) fp64, the linear part of the labels' log-odds.
    """
    scale, _ = _standardised(mean, covariance)
    values, vectors = torch.linalg.eigh(weight.T @ weight)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T  # symmetric; its square is weight^T weight
    explained = (root @ covariance @ root).trace().clamp(min=TINY)
    matrix = root * (len(mean) / explained).sqrt() + OTHERS * scale.diag()
    constant = mean * scale
    offset = constant * math.sqrt(len(mean)) / constant.norm().clamp(min=TINY) - matrix @ mean
    return InputMap(matrix, offset)
