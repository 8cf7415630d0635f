"""Memory a card, communication and time of a training step on many GPUs, as functions of shapes and of the inputs.

Ways of placing the frozen language model; the projection is complete on every card, features are from the cache:

    ddp        a complete copy on every card
    fsdp       every card holds 1 / n of each layer, and gathers it before its forward and again before its backward
               pass; embeddings and head are complete on every card
    fsdp_ckpt  the same, with activations computed again in the backward pass instead of stored
    offload    fsdp_ckpt with its part in the host's memory, from where each layer crosses PCIe
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.scale.inputs import Card, Inputs, Measured
from skingpt4.config.schema import Config, LanguageConfig
from skingpt4.doctor import memory
from skingpt4.doctor.shapes import LanguageShape
from skingpt4.doctor.work import sample_operations
from skingpt4.model.projection import num_projection_parameters, picture_shape

WAYS = ("ddp", "fsdp", "fsdp_ckpt", "offload")


@dataclass(frozen=True)
class Load:
    """One training step's sample and model."""

    shape: LanguageShape
    batch: int  # samples a card and micro-batch
    dtype: str

    @property
    def config(self) -> Config:
        """A run of the paper's network on cached features."""
        config = Config(language=LanguageConfig(attention="sdpa"))
        config.optim.batch_size, config.data.feature_cache = self.batch, "cached"
        return config

    @property
    def supervised(self) -> int:
        """Tokens of a sample's answer, the longest one."""
        return self.config.data.max_text_tokens

    @property
    def tokens(self) -> int:
        """Tokens of a sample: the picture's vectors, the question, the answer."""
        return picture_shape(self.config).num_vectors + memory.QUESTION_TOKENS + self.supervised

    @property
    def num_trained(self) -> int:
        """The projection's parameters."""
        return num_projection_parameters(self.config, self.shape.width)

    @property
    def layers_bytes(self) -> int:
        """Of the layers' matrices, which are gathered layer by layer."""
        return self.shape.num_in_matrices * memory.ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class Memory:
    """Bytes at the peak of a step, of one card and of the host for one card."""

    weights: int
    gathered: int
    trained: int
    activations: int
    logits: int
    context: int
    host: int

    @property
    def card(self) -> int:
        """All but the host's."""
        return self.weights + self.gathered + self.trained + self.activations + self.logits + self.context


def step_memory(load: Load, way: str, gpus: int) -> Memory:
    """Memory a card; the formulas of docs/memory.md, with the language model divided where it is."""
    config = load.config
    parts = memory.training(config, load.shape, load.dtype, 0)
    part = -(-load.layers_bytes // gpus)
    if way != "ddp":
        sharding = memory.Sharding(gpus, way != "fsdp", way == "offload")
        parts = memory.sharded(parts, config, load.shape, load.dtype, sharding)
    return Memory(
        weights=parts[memory.LANGUAGE_MODEL],
        gathered=parts.get(memory.GATHERED, 0),
        trained=parts["trained tensors, gradients, AdamW"],
        activations=parts[memory.ACTIVATIONS],
        logits=parts["logits"],
        context=memory.CUDA_CONTEXT,
        host=memory.LIBRARIES + (part if way == "offload" else 0),
    )


@dataclass(frozen=True)
class Traffic:
    """What a card receives in a step, in bytes, and seconds that this takes at least on the inputs' links."""

    gathered: int  # parts of the frozen language model
    reduced: int  # gradients of what is trained, fp32
    from_host: int
    seconds_gathering: float  # beside computation, as far as that lasts as long
    seconds_reducing: float  # after the backward pass, beside nothing


def step_traffic(load: Load, way: str, gpus: int, inputs: Inputs, card: Card) -> Traffic:
    """Communication of a step of one micro-batch.

    A ring over n cards brings each of them (n - 1) / n of what is gathered, and twice that of what is summed. Across
    nodes all rings of a node share its network adapters. Layers are gathered for the forward and for the backward
    pass, the last one for both at once.
    """
    ring = (gpus - 1) / gpus
    in_node = card.link_gb_s
    rate = 1e9 * (in_node if gpus <= inputs.gpus_a_node else min(in_node, card.network_gb_s))
    layers = load.shape.num_layers
    moved = (2 * layers - 1) * (load.layers_bytes // layers)
    gathered = 0 if way == "ddp" else int(ring * moved)
    reduced = int(2 * ring * 4 * load.num_trained)
    from_host = moved // gpus if way == "offload" else 0
    calls = 0 if way == "ddp" or gpus == 1 else 2 * layers - 1
    return Traffic(
        gathered,
        reduced,
        from_host,
        gathered / rate + calls * inputs.collective_seconds + from_host / (1e9 * card.host_gb_s),
        reduced / rate + (inputs.collective_seconds if gpus > 1 else 0.0),
    )


@dataclass(frozen=True)
class Speed:
    """Seconds of a step and samples a second of all cards, between two bounds."""

    tflops: float  # a card's, used for the computation
    is_measured: bool
    seconds_computing: float
    best_seconds: float  # gathering hidden behind computation as far as it fits
    worst_seconds: float  # nothing hidden

    def samples_per_second(self, batch: int, gpus: int) -> tuple[float, float]:
        """(worst, best) of all cards together."""
        return batch * gpus / self.worst_seconds, batch * gpus / self.best_seconds


def step_speed(
    load: Load, way: str, traffic: Traffic, inputs: Inputs, card: Card, measured: Measured | None
) -> Speed:
    """Time of a step: counted operations by the card's measured or assumed rate, and the communication."""
    operations = load.batch * sample_operations(load.config, load.shape, load.tokens, load.supervised, 0.0)
    if way in ("fsdp_ckpt", "offload"):  # the forward pass of the layers again
        operations += 2.0 * load.shape.num_in_matrices * load.batch * load.tokens
    tflops = measured.tflops if measured else inputs.efficiency * card.peak_tflops
    computing = operations / (tflops * 1e12)
    return Speed(
        tflops,
        measured is not None,
        computing,
        max(computing, traffic.seconds_gathering) + traffic.seconds_reducing,
        computing + traffic.seconds_gathering + traffic.seconds_reducing,
    )


@dataclass(frozen=True)
class Data:
    """The data side of so many records, by counts alone."""

    records: int
    manifest_bytes: int
    shards_bytes: int
    shards: int
    features_bytes: int
    encoder_gpu_hours: float
    pictures_per_second_a_card: float  # that the encoder takes
    shard_bytes_per_second_a_card: float


def data_side(
    records: int, inputs: Inputs, card: Card, encoder_operations: float, shard_bytes: int, feature_bytes: int
) -> Data:
    """Sizes, and the time of encoding every picture once.

    Args:
        records: of all manifests together, one picture each.
        inputs: assumed sizes and efficiency.
        card: that encodes.
        encoder_operations: of one picture.
        shard_bytes: of one shard.
        feature_bytes: of one picture's stored vectors, its row in the index included.
    """
    rate = inputs.encoder_efficiency * card.peak_tflops * 1e12 / encoder_operations
    total = records * inputs.picture_bytes
    return Data(
        records, records * inputs.record_bytes, total, -(-total // shard_bytes), records * feature_bytes,
        records / rate / 3600, rate, rate * inputs.picture_bytes,
    )  # fmt: skip
