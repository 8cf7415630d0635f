"""The published sizes, once in a while: `make parity-full` (about 6 GB of memory, minutes on two cores).

A clean tree writes the figures to benchmarks/results/parity_full.json, from where docs/parity.md has them.
"""

import resource
import time

import pytest
import torch

from benchmarks.harness import results
from skingpt4.config.schema import QFormerConfig, VisionConfig
from skingpt4.model.encoders.encoder import VisionEncoder
from skingpt4.model.lavis import LavisQFormer, LavisVision
from skingpt4.model.qformer import QFormer

pytestmark = pytest.mark.slow


@torch.no_grad()
def seeded(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Weights of the size that training begins with, biases among them, from a seed."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in module.named_parameters():
        p.normal_(1.0 if p.dim() == 1 and name.endswith("weight") else 0.0, 0.02, generator=generator)
    return module.eval().requires_grad_(False)


def table(result):
    """Markdown, as docs/parity.md shows it."""
    lines = ["| output | largest difference | standard deviation of the values |", "|---|---|---|"]
    for name, row in result["rows"].items():
        lines.append(f"| {name} | {row['largest_difference']:.1e} | {row['standard_deviation']:.2f} |")
    return "\n".join(lines)


@torch.no_grad()
def test_eva_vit_g_and_the_qformer_at_full_size():
    vision = seeded(VisionEncoder(VisionConfig(model_args={"depth": 39}, norm_eps=1e-5)), 0)
    qformer = seeded(QFormer(QFormerConfig(), vision.width), 1)
    millions = [sum(p.numel() for p in module.parameters()) / 1e6 for module in (vision, qformer)]
    assert (vision.width, qformer.num_query_tokens) == (1408, 32)
    assert millions[0] > 980
    assert millions[1] > 100
    theirs = LavisVision(vision).eval(), LavisQFormer(qformer).eval()
    image = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(2))

    raw = []
    with vision.backbone.norm.register_forward_pre_hook(lambda module, args: raw.append(args[0])):
        began = time.perf_counter()
        tokens = vision(image)
        seconds = [time.perf_counter() - began]
    began = time.perf_counter()
    their_raw = theirs[0].visual_encoder(image)
    seconds.append(time.perf_counter() - began)
    their_tokens = theirs[0].ln_vision(their_raw)
    pairs = {
        "ViT, before the norm": (raw[0], their_raw),
        "after ln_vision": (tokens, their_tokens),
        "Q-Former on the same tokens": (qformer(tokens), theirs[1](tokens)),
        "complete encoder": (qformer(tokens), theirs[1](their_tokens)),
    }
    rows = {
        name: {
            "largest_difference": (ours - other).abs().max().item(),
            "standard_deviation": other.std().item(),
        }
        for name, (ours, other) in pairs.items()
    }
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    about = results.about() | {"command": "make parity-full"}
    figures = {"millions_of_parameters": millions, "rows": rows, "peak_bytes": peak, "seconds": seconds}
    print(f"\n{millions[0]:.1f} M + {millions[1]:.1f} M parameters, fp32\n{table(figures)}")
    print(
        f"one picture through the ViT: {seconds[0]:.1f} s ours, {seconds[1]:.1f} s LAVIS's; peak {peak / 1e9:.1f} GB"
    )
    for ours, other in pairs.values():
        assert other.std() > 0.3
        torch.testing.assert_close(ours, other, rtol=0.0, atol=1e-5 * max(1.0, float(other.std())))
    results.write(about | figures, results.RESULTS / "parity_full.json")
