"""What the calculation starts from: published figures and assumptions in a YAML, and what a GPU has measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from benchmarks.harness.counts import Step
from benchmarks.harness.shapes import SHAPES, Shape, language_shape
from skingpt4.support.errors import UserError, reason_of
from skingpt4.support.parse import ParseError, read_json_object

DEFAULT = Path(__file__).with_name("inputs.yaml")


class InputsError(UserError):
    """Inputs that cannot be calculated with; the message names the file and the key."""


@dataclass
class Card:
    """A GPU in its usual node, from data sheets; GB are 10^9 bytes, and rates are of one direction."""

    torch_name: str  # a part of the name that torch gives it
    source: str
    dtype: str
    memory_gb: float
    peak_tflops: float  # dense, in `dtype`
    link_gb_s: float  # between the cards of a node, each card's
    network_gb_s: float  # between nodes, each node's
    host_gb_s: float  # between a card and its host


@dataclass
class Inputs:
    """See inputs.yaml, which says what each of them is."""

    card: str
    cards: dict[str, Card]
    models: dict[str, str]
    gpus: list[int]
    gpus_a_node: int
    batches: list[int]
    efficiency: float
    encoder_efficiency: float
    collective_seconds: float
    picture_bytes: int
    record_bytes: int


@dataclass(frozen=True)
class Measured:
    """A training step of one GPU as `python -m benchmarks gpu` measured it."""

    gpu: str
    batch: int
    tflops: float  # counted operations by measured seconds
    peak_bytes_above_weights: int | None


def read_inputs(path: Path = DEFAULT) -> Inputs:
    """Read and check a YAML of inputs.

    Raises:
        InputsError: it cannot be read, a key is missing or unknown, or a value cannot be.
    """
    try:
        typed = OmegaConf.merge(OmegaConf.structured(Inputs), OmegaConf.load(path))
        inputs = OmegaConf.to_object(typed)
    except OSError as error:
        raise InputsError(f"{path}: cannot be read ({reason_of(error)})") from None
    except (OmegaConfBaseException, YAMLError, ValueError) as error:
        raise InputsError(f"{path}: {str(error).splitlines()[0]}") from None
    assert isinstance(inputs, Inputs)
    if inputs.card not in inputs.cards:
        raise InputsError(f"{path}: card {inputs.card!r} is none of {', '.join(inputs.cards)}")
    numbers = {
        f"cards.{name}.{key}": value
        for name, card in inputs.cards.items()
        for key, value in vars(card).items()
    }
    numbers |= {f"gpus.{place}": value for place, value in enumerate(inputs.gpus)}
    numbers |= {f"batches.{place}": value for place, value in enumerate(inputs.batches)}
    numbers |= vars(inputs)
    for key, value in numbers.items():
        if isinstance(value, int | float) and value <= 0:
            raise InputsError(f"{path}: {key} is {value}; it must be more than 0")
    for title, name in inputs.models.items():
        if name not in SHAPES or SHAPES[name].language is None:
            raise InputsError(
                f"{path}: models.{title}: {name!r} is not a shape of the paper's language models"
            )
    for card in inputs.cards.values():
        if card.dtype not in ("bfloat16", "float16"):
            raise InputsError(f"{path}: dtype {card.dtype!r} is neither bfloat16 nor float16")
    return inputs


def read_measured(path: Path, models: dict[str, str]) -> dict[str, Measured]:
    """The fastest training step of each model in a result of `python -m benchmarks gpu`; empty without the file.

    Args:
        path: of the result.
        models: names of shapes by the names that the tables have.

    Raises:
        InputsError: it is another file.
    """
    if not path.is_file():
        return {}
    try:
        result = read_json_object(path)
        gpu, stages = result["hardware"]["gpu"], result["stages"]
        steps = {
            title: [
                _step(stage, gpu, SHAPES[name])
                for key, stage in stages.items()
                if key.startswith(f"{name} train ") and "counted" in stage
            ]
            for title, name in models.items()
        }
    except (OSError, ParseError) as error:
        raise InputsError(f"{path}: cannot be read ({reason_of(error)})") from None
    except (KeyError, TypeError, AttributeError, ValueError, ZeroDivisionError):
        raise InputsError(f"{path}: is not a result of python -m benchmarks gpu on a GPU") from None
    return {title: max(found, key=lambda step: step.tflops) for title, found in steps.items() if found}


def _step(stage: dict[str, Any], gpu: str, shape: Shape) -> Measured:
    flops = sum(Step(**stage["counted"]).flops(language_shape(shape), 0.0).values())
    seconds = stage["median_seconds_a_step"]
    return Measured(gpu, stage["batch"], flops / seconds / 1e12, stage["peak_bytes_above_weights"])
