"""What a lower precision changes: python -m benchmarks precision [--checkpoint DIR].

The known answer of the bundled default (docs/known_answer.md) in each precision of encoder and language model, beside
fp32 throughout: the difference of its mean log-probability, that of the numbers which summarise the queries, and the
cosine between the gradients of the projection (docs/placement.md). Precisions without kernels here are named.

Research software, not a medical device.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.harness.results import RESULTS, about, write
from skingpt4.checkpoints import known_answer
from skingpt4.checkpoints.load import load_model
from skingpt4.config.load import load_config
from skingpt4.config.schema import Config
from skingpt4.model.build import build_encoder
from skingpt4.model.network import SkinGPT4
from skingpt4.model.precision import num_bytes
from skingpt4.model.prompts import IGNORED, Turn, encode_turns, get_template
from skingpt4.support.errors import UserError, reported

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Precision:
    """Of the language model and of the image encoder."""

    language: str
    encoder: str = "float32"
    quantization: str = "none"


REFERENCE = Precision("float32")
PRECISIONS = (
    Precision("float32", "bfloat16"),
    Precision("float16"),
    Precision("float16", "bfloat16"),
    Precision("bfloat16"),
    Precision("bfloat16", "bfloat16"),
    Precision("float32", quantization="torchao_int8"),
    Precision("float32", quantization="int8"),
    Precision("float32", quantization="nf4"),
)


def queries(config: Config, dtype: str) -> Tensor:
    """What the encoder in a precision makes of the fixed image, (1, q, d)."""
    config.encoder.dtype = dtype
    return known_answer.queries_of(build_encoder(config, CPU), config.vision.image_size)


def gradient(model: SkinGPT4, shown: Tensor, template: str) -> Tensor:
    """The gradient of the known answer's loss with respect to the projection's weights, flat."""
    turns = [Turn(known_answer.QUESTION, known_answer.ANSWER, num_images=1)]
    encoded = encode_turns(get_template(template), turns, model.tokenizer, shown.shape[1])
    input_ids = torch.tensor([encoded.input_ids])
    labels = input_ids.masked_fill(~torch.tensor([encoded.supervised]), IGNORED)
    loss, count = model(
        input_ids=input_ids, labels=labels, attention_mask=torch.ones_like(input_ids), queries=shown
    )
    (loss / count).backward()
    return torch.cat([p.grad.flatten() for p in model.projection.parameters() if p.grad is not None])


def measure(config: Config, checkpoint: str | None, precisions: Sequence[Precision]) -> dict[str, Any]:
    """All precisions beside the reference, which comes first."""
    shown = {dtype: queries(config, dtype) for dtype in dict.fromkeys(p.encoder for p in precisions)}
    found: dict[Precision, tuple[dict[str, Any], Tensor, int]] = {}
    skipped = {}
    for precision in tqdm(precisions, desc="precisions", disable=None):
        config.language.dtype, config.language.quantization = precision.language, precision.quantization
        try:
            model = load_model(config, checkpoint, CPU, with_encoder=False)
            answer = known_answer.measure(model, shown[precision.encoder], config.prompt.template)
            own = gradient(model, shown[precision.encoder], config.prompt.template)
        except (UserError, RuntimeError, ImportError, NotImplementedError) as error:
            skipped[str(precision)] = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
            continue
        found[precision] = answer, own, sum(map(num_bytes, model.language_model.parameters()))
    if precisions[0] not in found:
        raise UserError(f"fp32 cannot be measured: {skipped[str(precisions[0])]}")
    before, whole, _ = found[precisions[0]]
    rows = [
        asdict(precision)
        | {
            "mean_log_probability": answer["mean_log_probability"],
            "difference": abs(answer["mean_log_probability"] - before["mean_log_probability"]),
            "queries_difference": max(
                abs(a - b) for a, b in zip(answer["queries"], before["queries"], strict=True)
            )
            / before["queries"][0],
            "cosine_of_gradients": torch.cosine_similarity(own, whole, 0).item(),
            "language_model_bytes": size,
            "tolerance": answer["tolerance"],
        }
        for precision, (answer, own, size) in found.items()
    ]
    return {"checkpoint": checkpoint, "rows": rows, "skipped": skipped}


def table(result: dict[str, Any]) -> str:
    """Markdown, as docs/known_answer.md shows it."""
    lines = [
        "| language model | encoder | difference, nats a token | cosine of gradients | its memory, MiB | tolerance |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        name = (
            row["language"] if row["quantization"] == "none" else f"{row['quantization']}, {row['language']}"
        )
        lines.append(
            f"| {name} | {row['encoder']} | {row['difference']:.3f} | {row['cosine_of_gradients']:.4f} | "
            f"{row['language_model_bytes'] / 2**20:.0f} | {row['tolerance']:g} |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    words = list(argv or [])
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks precision", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--config", default="configs/tiny/step2.yaml", help="(default: %(default)s)")
    parser.add_argument("--checkpoint", help="a trained projection (default: the untrained one)")
    parser.add_argument("--out", type=Path, default=RESULTS / "precision.json", help="(default: %(default)s)")
    args = parser.parse_args(words)
    with reported() as status:
        result = measure(load_config(args.config), args.checkpoint, (REFERENCE, *PRECISIONS))
        print(table(result))
        for name, why in result["skipped"].items():
            print(f"skipped {name}: {why}")
        write({**about(["precision", *words]), **result}, args.out)
    return status.code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
