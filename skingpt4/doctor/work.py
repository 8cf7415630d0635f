"""How much a run computes: operations of a sample and of the run, counted from shapes."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean

from skingpt4.config.schema import Config
from skingpt4.doctor import memory
from skingpt4.doctor.findings import OK, Facts, Finding
from skingpt4.doctor.shapes import LanguageShape
from skingpt4.model.projection import picture_shape

MAX_COUNTED = 100  # samples whose lengths give the mean
UNITS = (("EFLOP", 1e18), ("PFLOP", 1e15), ("TFLOP", 1e12), ("GFLOP", 1e9))
TIMES = (("h", 3600.0), ("min", 60.0), ("s", 1.0))


def sample_operations(
    config: Config, shape: LanguageShape, tokens: float, supervised: float, encoder_operations: float
) -> float:
    """Floating-point operations of one sample: 4 for each number of a frozen matrix and token, 6 of a trained one.

    A frozen matrix has a forward pass (2) and the gradient of its input (2), and none of itself. The head counts at
    supervised tokens alone. Attention's products are left out; at a few hundred tokens they are a few hundredths.

    Args:
        config: of the run.
        shape: of the language model.
        tokens: of one sample, and of these
        supervised: those that are learned.
        encoder_operations: of one picture, 0 where its features are cached.
    """
    per_token = 4 * shape.num_in_matrices
    per_token += 6 * memory.lora_parameters(shape, config.lora.rank, config.lora.targets)
    rows = supervised if shape.plain_head else tokens
    return tokens * per_token + 4 * rows * shape.width * shape.vocabulary + encoder_operations


def work(facts: Facts) -> Iterator[Finding]:
    """The operations of the whole run, and what they mean in hours on a device of a round speed."""
    config, shape, optim = facts.config, facts.shape, facts.config.optim
    if shape is None:
        return
    if facts.training is not None:
        samples = [facts.training[i]["encoded"] for i in range(min(MAX_COUNTED, len(facts.training)))]
        tokens = fmean(len(sample.input_ids) for sample in samples)
        supervised = fmean(sum(sample.supervised) for sample in samples)
        whence = f"mean of {len(samples)} samples"
    else:
        supervised = float(config.data.max_text_tokens)
        tokens = picture_shape(config).num_vectors + 40 + supervised
        whence = "the longest answers"
    encoder = 0.0 if config.data.feature_cache else facts.encoding_operations
    a_sample = sample_operations(config, shape, tokens, supervised, encoder)
    num_samples = optim.max_epoch * optim.iters_per_epoch * optim.batch_size * optim.accumulation
    total = a_sample * num_samples
    text = (
        f"{tokens:.0f} tokens a sample ({whence}), {operations(a_sample)}; {num_samples:,} samples are "
        f"{operations(total)}: {duration(total / 1e14)} at 100 TFLOP/s, an example; divide by what your device "
        "sustains"
    )
    yield Finding("work", OK, text)


def operations(count: float) -> str:
    """A number of floating-point operations in the unit that suits it, with one decimal."""
    unit, size = next(((u, s) for u, s in UNITS if count >= s), UNITS[-1])
    return f"{count / size:,.1f} {unit}"


def duration(seconds: float) -> str:
    """A time in the unit that suits it, with one decimal."""
    unit, size = next(((u, s) for u, s in TIMES if seconds >= s), TIMES[-1])
    return f"{seconds / size:,.1f} {unit}"
