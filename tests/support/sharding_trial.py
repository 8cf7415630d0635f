"""What two processes compute with a language model in parts, and with a complete one, written as JSON.

Run by tests/skingpt4/training/distributed/test_sharding.py.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from accelerate import PartialState
from accelerate.utils import patch_environment
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM

from skingpt4.config.schema import Config, LoraConfig
from skingpt4.model import lora
from skingpt4.model.precision import num_bytes
from skingpt4.training.distributed.sharding import asked, build_network
from skingpt4.training.distributed.team import Team
from tests.support.tiny import batch_of, conversation, make_queries, save_language_model, tiny_config

# As `accelerate launch` writes it into the environment, see configs/accelerate/fsdp2_vicuna13b.yaml.
FSDP2 = {
    "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true", "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}  # fmt: skip
# By name: family, what else the environment asks for, and changes of the configuration.
SETTINGS: dict[str, tuple[str, dict[str, str], dict[str, Any]]] = {
    "llama": ("llama", {}, {}),
    "kept": ("llama", {"FSDP_RESHARD_AFTER_FORWARD": "false"}, {}),
    "recomputed": ("llama", {"FSDP_ACTIVATION_CHECKPOINTING": "true"}, {}),
    "offloaded": ("llama", {"FSDP_OFFLOAD_PARAMS": "true"}, {}),
    "read_by_first": ("llama", {"FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}, {}),
    "lora": ("llama", {"FSDP_ACTIVATION_CHECKPOINTING": "true"}, {"lora__rank": 2}),
    "lora_offloaded": ("llama", {"FSDP_OFFLOAD_PARAMS": "true"}, {"lora__rank": 2}),
    "falcon": ("falcon", {"FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}, {}),
    "tied": ("llama", {"FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}, {}),
    "gemma2": ("gemma2", {}, {}),
    "bfloat16": ("llama", {"FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}, {"language__dtype": "bfloat16"}),
    "float16": ("llama", {"FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}, {"language__dtype": "float16"}),
}
COLLECTIVES = ("all_gather_into_tensor", "reduce_scatter_tensor", "all_reduce", "broadcast")


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """How often each collective is called."""
    calls: Counter[str] = Counter()

    def call(name: str, function: Any, *args: Any, **kwargs: Any) -> Any:
        calls[name] += 1
        return function(*args, **kwargs)

    wrapped = {name: partial(call, name, getattr(torch.distributed, name)) for name in COLLECTIVES}
    with mock.patch.multiple(torch.distributed, **wrapped):
        yield calls


def step(model: Any) -> tuple[float, dict[str, torch.Tensor], dict[str, int]]:
    """Loss, gradients and collectives of a forward and a backward pass over two rows, which has a predecessor."""
    rows = [conversation(model, "What is it?", text) for text in ("Acne.", "A plaque with scale.")]
    _ = model.language_model.has_plain_head  # tried once, with passes of its own
    for _ in range(2):  # after the first, everything is as between two iterations
        model.zero_grad()
        with counted() as calls:
            loss, _ = model(**batch_of(rows), queries=make_queries(2))
            loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    return loss.item(), gradients, dict(calls)


def configure(folder: Path, name: str, family: str, changes: dict[str, Any]) -> Config:
    """The configuration of a setting, its language model written where it is missing."""
    if name == "tied":  # the embeddings are the head too
        changes = {"language__model": save_language_model(folder / name, family, tie_word_embeddings=True)}
    return tiny_config(folder, family, **changes)


def main(argv: list[str]) -> int:
    """Write `argv[0]`/RANK.json."""
    torch.distributed.init_process_group("gloo")
    team, device = Team.of(PartialState(cpu=True)), torch.device("cpu")
    found: dict[str, Any] = {}
    for name, (family, variables, changes) in SETTINGS.items():
        config = team.by_first(partial(configure, Path(argv[0]) / "model", name, family, changes))
        whole, _ = build_network(config, device, None, team, None)
        with (
            mock.patch.object(
                AutoModelForCausalLM, "from_pretrained", wraps=AutoModelForCausalLM.from_pretrained
            ) as reads,
            patch_environment(**FSDP2 | variables),
            asked(config) as sharding,
        ):
            parts, notes = build_network(config, device, None, team, sharding)
        for model in (whole, parts):
            if config.lora.rank:
                lora.add(model.language_model, LoraConfig(rank=2), seed=3)
                with torch.no_grad():  # branches that start as zero have no gradient of their first half
                    for number, branch in enumerate(lora.trainable(model.language_model).values()):
                        branch.normal_(generator=torch.Generator().manual_seed(number))
        loss, gradients, _ = step(whole)
        loss_of_parts, gradients_of_parts, calls = step(parts)
        language_model = parts.language_model
        complete = [n for n, p in language_model.model.named_parameters() if not isinstance(p, DTensor)]
        found[name] = {
            "notes": notes,
            "loss": loss,
            "loss_of_parts": loss_of_parts,
            "difference": max(
                float((gradients_of_parts[key] - value).abs().max()) for key, value in gradients.items()
            ),
            "gradients": len(gradients),
            "gradient_size": max(float(value.abs().max()) for value in gradients.values()),
            "same_names": sorted(gradients) == sorted(gradients_of_parts),
            "calls": calls,
            "reads": reads.call_count,
            "complete": complete,
            "bytes": sum(map(num_bytes, language_model.parameters())),
            "bytes_of_whole": sum(map(num_bytes, whole.language_model.parameters())),
            "place": language_model.describe_place(),
        }
    team.wait()
    (Path(argv[0]) / f"{team.rank}.json").write_text(json.dumps(found))
    return 0
