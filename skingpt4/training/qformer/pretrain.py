"""The training loop of a Q-Former: from manifests to a file of weights and a card of how it was made.

Step i is a function of (seed, i) and of what the steps before left, all of which is saved: a run that was stopped and
started again ends with the same bits.
"""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from skingpt4.config.schema import Config
from skingpt4.model.precision import half_precision
from skingpt4.model.qformer import QFormer
from skingpt4.records.feature_store import FeatureStore
from skingpt4.support.errors import UserError, reason_of
from skingpt4.support.files import move_into_place, write_text
from skingpt4.training.qformer.objectives import Pretraining, Weights
from skingpt4.training.qformer.start import start_as_pooling, written_parameters
from skingpt4.training.qformer.vocabulary import Vocabulary

SAVE_EVERY = 50  # steps; so many are computed again after a kill
NUM_SAMPLED = 400  # images, from which the start and the final scale are computed
CONSTANT_ENERGY = (
    0.5  # of the queries' varying energy: what all images have in common carries an answer's wording
)


class PretrainingError(UserError):
    """A training that cannot begin or go on; the message says why and what to do."""


@dataclass(frozen=True)
class Settings:
    """How long and on what a Q-Former is trained."""

    steps: int = 600
    batch_size: int = 32
    rate: float = 3e-4
    warmup: int = 50
    seed: int = 42
    seen_patches: float = 0.5  # fraction of the patches that the Q-Former sees in a step
    max_words: int = 32
    start: str = "pooling"  # or random
    weights: Weights = field(default_factory=Weights)


@dataclass(frozen=True)
class Examples:
    """Tokens of all training images, one store after another, with their captions as word ids (n, l)."""

    stores: tuple[FeatureStore, ...]
    words: np.ndarray
    num_prefix: int
    width: int

    def tokens(self, rows: np.ndarray, rng: np.random.Generator | None = None) -> Tensor:
        """Tokens (n, t, d) fp32; of several views one is drawn."""
        ends = np.cumsum([len(store) for store in self.stores])
        tokens = []
        for row in rows:
            number = int(np.searchsorted(ends, row, side="right"))
            store = self.stores[number]
            view = int(rng.integers(store.shape.num_views)) if rng is not None else 0
            tokens.append(store.view(int(row) - int(ends[number]) + len(store), view))
        return torch.stack(tokens).float()

    def sample(self, count: int, seed: int) -> Tensor:
        """Tokens of some images, or of all."""
        rng = np.random.default_rng((seed, 4))
        return self.tokens(np.sort(rng.permutation(len(self.words))[:count]))


def train(
    config: Config, examples: Examples, vocabulary: Vocabulary, settings: Settings, state: Path
) -> tuple[QFormer, list[dict[str, float]]]:
    """Train a Q-Former, from the state file of a stopped run if there is one.

    Args:
        config: its sizes are in `config.qformer`.
        examples: to train on.
        vocabulary: of the captions.
        settings: of the training.
        state: file that is written every SAVE_EVERY steps and says how far the run is.

    Returns:
        The trained Q-Former without its text branch, and the losses every SAVE_EVERY steps.

    Raises:
        PretrainingError: the state file is of other settings or damaged.
    """
    model = _new(config, examples, len(vocabulary), settings)
    optimizer = _optimizer(model, settings)
    history: list[dict[str, float]] = []
    facts = _facts(config, examples, settings)
    first = _restore(state, facts, model, optimizer, history)
    bar = tqdm(total=settings.steps, initial=first, desc="Q-Former", unit="it")
    mean: dict[str, list[float]] = {}
    for step in range(first, settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * _schedule(step, settings)
        losses = train_step(model, optimizer, examples, settings, step)
        for name, value in losses.items():
            mean.setdefault(name, []).append(value)
        bar.update()
        bar.set_postfix({name: f"{value:.3f}" for name, value in losses.items()}, refresh=False)
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == settings.steps:
            history.append({"step": step + 1} | {n: round(float(np.mean(v)), 5) for n, v in mean.items()})
            mean.clear()
            _save(state, facts, model, optimizer, history, step + 1)
    bar.close()
    qformer = without_text(model.qformer, config, examples.width)
    set_scale(qformer, examples.sample(NUM_SAMPLED, settings.seed))
    return qformer, history


def starting_qformer(config: Config, examples: Examples, settings: Settings) -> QFormer:
    """The Q-Former as a training with these settings begins."""
    model = _new(config, examples, 4, settings)
    return without_text(model.qformer, config, examples.width)


def without_text(qformer: QFormer, config: Config, encoder_width: int) -> QFormer:
    """The image branch of a Q-Former alone, as it is used."""
    result = QFormer(config.qformer, encoder_width)
    own = qformer.state_dict()
    result.load_state_dict({name: own[name] for name in result.state_dict()})
    return result.eval()


@torch.no_grad()
def set_scale(qformer: QFormer, tokens: Tensor) -> None:
    """Fold statistics into the last norm: dimensions of equal variance, and a constant part of a stated energy.

    Args:
        qformer: gets another scale and shift of its last norm.
        tokens: (n, t, d) of a sample of images.
    """
    queries = torch.cat([qformer(part) for part in tokens.split(32)])
    mean = queries.mean((0, 1))
    spread = (queries - queries.mean(0)).square().mean((0, 1)).sqrt().clamp_min(1e-3)
    model: Any = qformer.model
    norm = model.encoder.layer[-1].output_query.LayerNorm
    constant = mean / mean.norm() * (CONSTANT_ENERGY * len(mean)) ** 0.5
    norm.bias.copy_((norm.bias - mean) / spread + constant)
    norm.weight.div_(spread)


def save(out: Path, qformer: QFormer, card: dict[str, Any]) -> None:
    """Write weights in fp16 and, beside them, how they were made and what they reach; the weights come last."""
    part = out.with_name(f".{out.name}.part")
    write_text(out.with_suffix(".json"), json.dumps(card, indent=1) + "\n")
    save_file({k: v.half().contiguous() for k, v in qformer.state_dict().items()}, part)
    move_into_place(part, out)


def _new(config: Config, examples: Examples, num_words: int, settings: Settings) -> Pretraining:
    """The network at step 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        qformer = QFormer(config.qformer, examples.width, text=True)
        sample = examples.sample(NUM_SAMPLED, settings.seed)
        if settings.start == "pooling":
            start_as_pooling(qformer, sample, examples.num_prefix)
        model = Pretraining(qformer, examples.width, examples.num_prefix, num_words, settings.max_words + 1)
    model.eval()  # no dropout: what is dropped could not be reconstructed
    model.start_heads(sample)
    return model


def _optimizer(model: Pretraining, settings: Settings) -> torch.optim.Optimizer:
    """AdamW; what the start wrote moves at a tenth of the rate, since Adam's first steps ignore how good it is."""
    written = written_parameters(model.qformer) if settings.start == "pooling" else []
    ids = set(map(id, written))
    others = [p for p in model.parameters() if id(p) not in ids]
    groups: list[dict[str, Any]] = [
        {"params": others, "rate": settings.rate},
        {"params": written, "rate": 0.1 * settings.rate},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=settings.rate, weight_decay=0.05)


def train_step(
    model: Pretraining, optimizer: torch.optim.Optimizer, examples: Examples, settings: Settings, step: int
) -> dict[str, float]:
    """One update; returns the losses."""
    rng = np.random.default_rng((settings.seed, 5, step))
    rows = np.sort(rng.permutation(len(examples.words))[: settings.batch_size])
    tokens, words = examples.tokens(rows, rng), torch.from_numpy(examples.words[rows])
    prefix = np.arange(examples.num_prefix)
    patches = rng.permutation(np.arange(len(prefix), tokens.shape[1]))
    patches = patches[: max(1, round(settings.seen_patches * len(patches)))]
    seen = tokens[:, np.concatenate([prefix, np.sort(patches)])]
    torch.manual_seed(int(rng.integers(2**31)))  # of the drawn negatives
    with half_precision(tokens.device):
        losses, _ = model(tokens, seen, words, settings.weights)
    weights = asdict(settings.weights)
    loss = torch.stack([weights[name] * value for name, value in losses.items()]).sum()
    if not loss.isfinite():
        raise PretrainingError(f"the loss is {loss.item()} at step {step}; lower --rate")
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return {name: value.item() for name, value in losses.items()}


def _schedule(step: int, settings: Settings) -> float:
    """Linear warm-up, then a cosine to a hundredth."""
    if step < settings.warmup:
        return (step + 1) / settings.warmup
    done = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return 0.01 + 0.99 * 0.5 * (1 + float(np.cos(np.pi * done)))


def _facts(config: Config, examples: Examples, settings: Settings) -> dict[str, Any]:
    """Everything that a stopped run must have in common with the one that goes on."""
    sizes = copy.deepcopy(asdict(config.qformer)) | {"weights": None}
    stores = [store.folder.parent.name + "/" + store.folder.name for store in examples.stores]
    ours = asdict(settings)
    return {"settings": ours, "qformer": sizes, "features": stores, "captions": _digest(examples.words)}


def _digest(words: np.ndarray) -> str:
    return hashlib.sha256(words.tobytes()).hexdigest()[:16]


def _save(
    state: Path,
    facts: dict[str, Any],
    model: Pretraining,
    optimizer: torch.optim.Optimizer,
    history: list[dict[str, float]],
    step: int,
) -> None:
    part = state.with_name(state.name + ".part")
    torch.save(
        {
            "facts": json.dumps(facts),
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "history": list(history),
            "step": step,
        },
        part,
    )
    move_into_place(part, state)


def _restore(
    state: Path,
    facts: dict[str, Any],
    model: Pretraining,
    optimizer: torch.optim.Optimizer,
    history: list[dict[str, float]],
) -> int:
    """Continue from a state file; returns the number of steps done, 0 without one."""
    if not state.is_file():
        return 0
    try:
        saved = torch.load(state, weights_only=True)
        before = json.loads(saved["facts"])
    except (OSError, RuntimeError, ValueError, KeyError, EOFError) as error:
        raise PretrainingError(
            f"{state}: is damaged ({reason_of(error)}); delete it to start again"
        ) from None
    differing = [name for name, value in facts.items() if before.get(name) != json.loads(json.dumps(value))]
    if differing:
        raise PretrainingError(
            f"{state}: belongs to a stopped training with other {' and '.join(differing)}; repeat the command that "
            "was stopped, or delete this file to start again"
        )
    try:
        model.load_state_dict(saved["model"])
    except RuntimeError:
        raise PretrainingError(
            f"{state}: belongs to a stopped training of another version; delete it to start again"
        ) from None
    optimizer.load_state_dict(saved["optimizer"])
    history.extend(saved["history"])
    return int(saved["step"])
