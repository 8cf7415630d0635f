"""Train the default's small Q-Former once: skingpt4 pretrain-qformer --config configs/tiny/step1.yaml.

BLIP-2's Q-Former learnt from 129 million captioned images. The default has no such data, so its own Q-Former learns
from phantoms that nothing else uses: concepts, class, body site and skin type must be readable from the mean of the
queries by linear heads (since one linear projection passes them on), and query i must still hold what the backbone
saw in cell i of a grid over the image. The heads are discarded afterwards.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from skingpt4.config.schema import Config
from skingpt4.model.build import build_qformer, build_vision
from skingpt4.model.precision import half_precision
from skingpt4.model.qformer import QFormer
from skingpt4.records.manifest import read_manifest
from skingpt4.records.record import Record
from skingpt4.support.files import file_sha256, move_into_place
from skingpt4.taxonomy.taxonomy import CLASSES, CONCEPTS
from skingpt4.training.samples import image_files


class Heads(nn.Module):
    """Linear read-outs of the queries; they exist only while the Q-Former is trained.

    Concepts, class, site and skin type are read along fixed orthonormal directions with a small fixed gain, so the
    Q-Former has to give each a large amplitude in the mean query, which a projection can learn in a few hundred
    iterations. What the backbone saw is read by learned weights and may stay small. The directions are drawn from
    torch's current random state; `width` must be at least their number.
    """

    basis: Tensor
    GAINS: ClassVar = {"concepts": 1.5, "classes": 1.5, "sites": 6.0, "skin": 6.0}

    def __init__(self, width: int, encoder_width: int, num_sites: int) -> None:
        super().__init__()
        sizes = {"concepts": len(CONCEPTS), "classes": len(CLASSES), "sites": num_sites, "skin": 6}
        basis = torch.linalg.qr(torch.randn(width, width)).Q[: sum(sizes.values())]
        self.register_buffer("basis", basis)
        self.parts = dict(zip(sizes, basis.split(list(sizes.values())), strict=True))
        self.biases = nn.ParameterDict(
            {name: nn.Parameter(torch.zeros(size)) for name, size in sizes.items()}
        )
        self.cell = nn.Linear(width, encoder_width)

    def forward(self, queries: Tensor) -> dict[str, Tensor]:
        """Map queries (b, q, d) to logits (b, ...), cells (b, q, encoder width) and `noise`, a scalar.

        `noise` is the variance between images outside of all directions.
        """
        mean = queries.mean(1)
        read = {n: g * mean @ self.parts[n].T + self.biases[n] for n, g in self.GAINS.items()}
        differing = queries - queries.mean(0)
        inside = differing @ self.basis.T
        noise = differing.square().mean() - inside.square().sum(-1).mean() / queries.shape[-1]
        return read | {"cell": self.cell(queries), "noise": noise}


def targets(records: Sequence[Record], sites: Sequence[str]) -> dict[str, Tensor]:
    """Labels of the records: concepts (n, 48) float 0/1; classes, sites, skin (n,) int64."""
    concepts = torch.zeros(len(records), len(CONCEPTS))
    for row, record in enumerate(records):
        for name in record.concepts or ():
            concepts[row, CONCEPTS.index(name)] = 1.0
    return {
        "concepts": concepts,
        "classes": torch.tensor([CLASSES.index(str(r.class_name)) for r in records]),
        "sites": torch.tensor([list(sites).index(str(r.body_site)) for r in records]),
        "skin": torch.tensor([int(r.fitzpatrick or 1) - 1 for r in records]),
    }


def grid_means(tokens: Tensor, cells: int) -> Tensor:
    """Mean patch token of each cell of a square grid: (b, [1 +] p * p, d) -> (b, cells, d), standardised."""
    side, grid = math.isqrt(tokens.shape[1]), math.isqrt(cells)  # a class token, if any, stands first
    patches = tokens[:, -side * side :].unflatten(1, (side, side)).permute(0, 3, 1, 2)
    means = F.adaptive_avg_pool2d(patches, grid).flatten(2).transpose(1, 2)
    return F.layer_norm(means, means.shape[-1:])


def loss_of(read: dict[str, Tensor], tokens: Tensor, labels: dict[str, Tensor]) -> Tensor:
    """The sum of the read-outs' losses; concepts and class weigh most."""
    parts = {
        "concepts": 10.0 * F.binary_cross_entropy_with_logits(read["concepts"], labels["concepts"]),
        "classes": F.cross_entropy(read["classes"], labels["classes"], label_smoothing=0.05),
        "sites": 0.2 * F.cross_entropy(read["sites"], labels["sites"]),
        "skin": 0.2 * F.cross_entropy(read["skin"], labels["skin"]),
        "cell": 0.3 * F.mse_loss(read["cell"], grid_means(tokens, read["cell"].shape[1])),
        "noise": 1.0 * read["noise"],
    }
    return torch.stack(list(parts.values())).sum()


@torch.no_grad()
def vision_tokens(manifest: Path, records: Sequence[Record], config: Config, cache: Path) -> np.ndarray:
    """Tokens (n, t, d) fp16 of all images, memory-mapped from `cache`; computed and stored there if missing."""
    path = cache / f"{config.vision.model}-{config.vision.block}-{file_sha256(manifest)[:16]}.npy"
    if not path.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        vision = build_vision(config.vision).eval()
        shape = (len(records), vision.num_tokens, vision.width)
        part = path.with_suffix(".part.npy")
        tokens = np.lib.format.open_memmap(part, mode="w+", dtype=np.float16, shape=shape)
        load = image_files(records, config.vision.image_size, vision.mean, vision.std, augment=False)
        for start in tqdm(range(0, len(records), 16), desc="vision tokens"):
            rows = range(start, min(start + 16, len(records)))
            image = torch.stack([load(row, None)["image"] for row in rows])
            with half_precision(image.device):  # as the encoder runs later
                tokens[rows.start : rows.stop] = vision(image).half().numpy()
        tokens.flush()
        move_into_place(part, path)
    return np.load(path, mmap_mode="r")


@torch.no_grad()
def measure(
    qformer: QFormer, heads: Heads, tokens: np.ndarray, labels: dict[str, Tensor]
) -> dict[str, float]:
    """Held-out figures of the linear read-outs: accuracy of class, site and skin type; concepts' micro-F1."""
    qformer.eval()
    parts = [heads(qformer(torch.from_numpy(tokens[i : i + 64]).float())) for i in range(0, len(tokens), 64)]
    read = {name: torch.cat([p[name] for p in parts]) for name in ("concepts", "classes", "sites", "skin")}
    figures = {
        n: float((read[n].argmax(-1) == labels[n]).float().mean()) for n in ("classes", "sites", "skin")
    }
    predicted, true = read["concepts"] > 0, labels["concepts"] > 0
    figures["concept_micro_f1"] = float(2 * (predicted & true).sum() / (predicted.sum() + true.sum()))
    return figures | {"n": len(tokens)}


def train(
    config: Config, manifest: Path, held_out: Path, epochs: int, batch_size: int, rate: float, cache: Path
) -> tuple[QFormer, dict[str, float]]:
    """Train on one manifest, measure on another; returns the Q-Former and the held-out figures."""
    records, held_records = read_manifest(manifest), read_manifest(held_out)
    sites = sorted({str(r.body_site) for r in (*records, *held_records)})
    labels, held_labels = targets(records, sites), targets(held_records, sites)
    tokens = vision_tokens(manifest, records, config, cache)
    held_tokens = vision_tokens(held_out, held_records, config, cache)
    torch.manual_seed(config.seed)
    config.qformer.weights = None
    qformer = build_qformer(config.qformer, tokens.shape[-1])
    heads = Heads(qformer.width, tokens.shape[-1], len(sites))
    parameters = [*qformer.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.05)
    steps = epochs * (len(records) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=steps, pct_start=0.1)
    rng = np.random.default_rng(config.seed)
    bar = tqdm(total=steps, desc="Q-Former", unit="it")
    for epoch in range(epochs):
        qformer.train()
        order = rng.permutation(len(records))[: steps // epochs * batch_size].reshape(-1, batch_size)
        for rows in order:
            batch = torch.from_numpy(tokens[np.sort(rows)]).float()
            batch_labels = {key: value[np.sort(rows)] for key, value in labels.items()}
            with half_precision(batch.device):
                read = heads(qformer(batch))
            read = {key: value.float() for key, value in read.items()}
            loss = loss_of(read, batch, batch_labels)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            bar.update()
            bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
        figures = measure(qformer, heads, held_tokens, held_labels)
        bar.write(f"epoch {epoch + 1}: " + ", ".join(f"{k} {v:.3f}" for k, v in figures.items()))
    bar.close()
    return qformer.eval(), figures


def save(out: Path, qformer: QFormer, card: dict[str, object]) -> None:
    """Write weights in fp16 and, beside them, how they were made and what they reach."""
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_suffix(".part")
    save_file({k: v.half().contiguous() for k, v in qformer.state_dict().items()}, part)
    move_into_place(part, out)
    out.with_suffix(".json").write_text(json.dumps(card, indent=1) + "\n")
