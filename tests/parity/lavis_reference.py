"""Numbers of the unmodified LAVIS, for `make lavis-reference`: its EVA-ViT, ln_vision and Q-Former at small size.

Run by an environment of its own, with salesforce-lavis and the libraries it pins. Weights and pictures are made
by a formula of integers, so that every version of every library starts from the same numbers.

    python tests/parity/lavis_reference.py tests/parity/lavis_reference.npz
"""

import functools
import hashlib
import json
import platform
import sys

import numpy as np
import torch

EVA = {"embed_dim": 64, "depth": 3, "num_heads": 4}
IMAGE_SIZE = 56
QFORMER = {"width": 48, "num_layers": 3, "num_heads": 4, "intermediate_width": 96}
NUM_QUERIES, VOCABULARY, LANGUAGE_WIDTH, BATCH = 4, 30, 40, 2
LEARNING_RATE, WEIGHT_DECAY, STEPS = 1e-2, 0.05, 2


def uniform(name: str, shape: tuple) -> torch.Tensor:
    """Numbers in -1 to 1 that depend on the name and the place alone, equal to the bit everywhere."""
    place = np.arange(int(np.prod(shape)), dtype=np.uint64)
    seed = np.uint64(int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big"))
    with np.errstate(over="ignore"):
        mixed = (place + seed) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    values = (mixed >> np.uint64(40)).astype(np.float64) / 2.0**23 - 1.0
    return torch.tensor(values.astype(np.float32)).reshape(shape)


def weight(name: str, shape: tuple) -> torch.Tensor:
    """A tensor of weights for a name: matrices keep the variance, norms are near one."""
    values = uniform(name, shape)
    if name.endswith("weight") and len(shape) > 1:
        return values * (3.0 / np.prod(shape[1:])) ** 0.5
    return 1.0 + 0.2 * values if name.endswith("weight") else 0.2 * values


def weights_like(state: dict, prefix: str = "") -> dict:
    """Weights for every floating-point tensor of a state dict, by prefix and name; others stay."""
    return {k: weight(prefix + k, v.shape) if v.is_floating_point() else v for k, v in state.items()}


def pictures() -> torch.Tensor:
    """(b, 3, h, w), as if normalised."""
    return 2.0 * uniform("pictures", (BATCH, 3, IMAGE_SIZE, IMAGE_SIZE))


def train_projection(queries: torch.Tensor) -> dict:
    """The trained part: a linear projection to a target, by AdamW; its first gradient and what becomes of it."""
    projection = torch.nn.Linear(QFORMER["width"], LANGUAGE_WIDTH)
    projection.load_state_dict(weights_like(projection.state_dict(), "projection."))
    groups = [
        {"params": [projection.weight], "weight_decay": WEIGHT_DECAY},
        {"params": [projection.bias], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.999))
    target = uniform("target", (BATCH, NUM_QUERIES, LANGUAGE_WIDTH))
    gradients = {}
    for step in range(STEPS):
        optimizer.zero_grad()
        ((projection(queries) - target) ** 2).mean().backward()
        if not step:
            gradients = {f"gradient.{name}": p.grad.clone() for name, p in projection.named_parameters()}
        optimizer.step()
    return {**gradients, **{f"trained.{name}": p.detach() for name, p in projection.named_parameters()}}


def main(path: str) -> None:
    """Write the numbers."""
    import timm
    import transformers
    from lavis.models.blip2_models.blip2 import LayerNorm
    from lavis.models.blip2_models.Qformer import BertConfig, BertLMHeadModel
    from lavis.models.eva_vit import VisionTransformer

    torch.set_num_threads(1)
    vit = VisionTransformer(
        img_size=IMAGE_SIZE, patch_size=14, use_mean_pooling=False, mlp_ratio=4.3637, qkv_bias=True,
        norm_layer=functools.partial(torch.nn.LayerNorm, eps=1e-6), **EVA,
    ).eval()  # fmt: skip
    vit.load_state_dict(weights_like(vit.state_dict()))
    ln_vision = LayerNorm(EVA["embed_dim"])
    ln_vision.load_state_dict(weights_like(ln_vision.state_dict(), "ln_vision."))
    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=QFORMER["width"], num_hidden_layers=QFORMER["num_layers"],
        num_attention_heads=QFORMER["num_heads"], intermediate_size=QFORMER["intermediate_width"],
    )  # fmt: skip
    config.encoder_width, config.query_length = EVA["embed_dim"], NUM_QUERIES
    config.add_cross_attention, config.cross_attention_freq = True, 2
    qformer = BertLMHeadModel(config).eval()
    qformer.load_state_dict(weights_like(qformer.state_dict(), "Qformer."))
    query_tokens = weight("query_tokens", (1, NUM_QUERIES, QFORMER["width"]))
    with torch.no_grad():
        raw = vit(pictures())
        tokens = ln_vision(raw)
        queries = qformer.bert(
            query_embeds=query_tokens.expand(BATCH, -1, -1), encoder_hidden_states=tokens,
            encoder_attention_mask=torch.ones(tokens.shape[:2], dtype=torch.long), return_dict=True,
        ).last_hidden_state  # fmt: skip
    numbers = {"raw": raw, "tokens": tokens, "queries": queries, **train_projection(queries)}
    versions = {m.__name__: m.__version__ for m in (torch, timm, transformers, np)}
    versions |= {"salesforce-lavis": "1.0.2", "python": platform.python_version()}
    arrays = {name: value.numpy() for name, value in numbers.items()}
    np.savez_compressed(path, versions=json.dumps(versions), **arrays)
    print("\n".join([f"{n} {a.shape} sum {a.astype(np.float64).sum():.6f}" for n, a in arrays.items()]))
    print(versions)


if __name__ == "__main__":
    main(sys.argv[1])
