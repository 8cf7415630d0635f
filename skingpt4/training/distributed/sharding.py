"""The frozen language model in parts: FSDP2 (torch's `fully_shard`), as accelerate's launcher asks for it.

Each process holds a part of every layer and gathers a layer when it is needed, so a card needs room for its part, one
or two complete layers and the activations. The weights are frozen, so that is all the communication there is: no
gradient is reduced, and a layer is freed as soon as it was used, forward and backward. The last layer stays from the
forward pass to the backward pass, which begins with it.

What the processes use at every moment is complete in each: embeddings, final norm and head, and everything that is
trained (projection and LoRA, fp32). So optimiser, checkpoint and resume are those of any run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import FullyShardedDataParallelPlugin, broadcast_object_list, patch_environment
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from skingpt4.config.schema import Config, ConfigError
from skingpt4.model.build import build
from skingpt4.model.language import LanguageModel, Weights
from skingpt4.model.network import ImageEncoder, SkinGPT4
from skingpt4.training.distributed.launchers import ASKED
from skingpt4.training.distributed.team import Team

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

T = TypeVar("T")


@dataclass(frozen=True)
class Sharding:
    """How the language model is sharded: `plugin` has the values of accelerate's configuration."""

    plugin: FullyShardedDataParallelPlugin

    @property
    def read_by_first(self) -> bool:
        """Whether the first process alone reads the weights and sends them, so that host memory holds them once."""
        return bool(self.plugin.cpu_ram_efficient_loading)

    def describe(self, blocks: Sequence[nn.Module], team: Team) -> str:
        """A line on what is done."""
        kind = type(blocks[0]).__name__.removeprefix("FSDP")
        recomputed = ", recomputed for the backward pass" if self.plugin.activation_checkpointing else ""
        place = ", stored in the host's memory" if self._offloads else ""
        return (
            f"FSDP2: {len(blocks)} {kind}, each in {team.world} parts{place}{recomputed}; embeddings, head and what "
            "is trained are complete in each process"
        )

    @property
    def _offloads(self) -> bool:
        from torch.distributed.fsdp import CPUOffloadPolicy

        return isinstance(self.plugin.cpu_offload, CPUOffloadPolicy)

    def shard(self, language_model: LanguageModel, device: torch.device, team: Team) -> str:
        """Move a language model from the host to where it computes, in place, its layers in parts.

        Args:
            language_model: on the host; without weights where another process has read them (`read_by_first`).
            device: of this process.
            team: the processes that share the layers.

        Returns:
            A line on what was done.

        Raises:
            ConfigError: nothing says which modules are layers.
        """
        from torch.distributed.device_mesh import init_device_mesh

        model = language_model.model
        blocks = self._blocks(model)
        team.wait()  # the first process may have read for longer than a collective may take
        mesh = init_device_mesh(device.type, (team.world,))
        mover = _Mover(model, device, self.read_by_first)
        for number, block in enumerate(blocks):
            mover.move(block.modules())
            if self.plugin.activation_checkpointing:
                block.forward = partial(checkpoint, block.forward, use_reentrant=False)
            is_last = number == len(blocks) - 1
            self._fully_shard(block, mesh, self.plugin.reshard_after_forward and not is_last)
        inside = {part for block in blocks for part in block.modules()}
        around = [part for part in model.modules() if part not in inside]
        mover.move(around)
        complete = {parameter for part in around for parameter in part.parameters(recurse=False)}
        # The model around the layers holds nothing itself; through it they gather ahead of each other.
        self._fully_shard(model.base_model, mesh, False, complete)
        language_model.is_sharded = True
        return self.describe(blocks, team)

    def _fully_shard(
        self, module: nn.Module, mesh: DeviceMesh, reshard: bool, ignored: set[nn.Parameter] | None = None
    ) -> None:
        from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard

        pinned = mesh.device_type != "cpu"
        policy = CPUOffloadPolicy(pin_memory=pinned) if self._offloads else OffloadPolicy()
        fully_shard(
            module, mesh=mesh, reshard_after_forward=reshard, offload_policy=policy, ignored_params=ignored
        )

    def _blocks(self, model: Any) -> list[nn.Module]:
        """The layers: as accelerate's configuration names their class, or the family itself."""
        names = set(
            self.plugin.transformer_cls_names_to_wrap or getattr(model, "_no_split_modules", None) or ()
        )
        blocks = [module for module in model.modules() if type(module).__name__ in names]
        if blocks:
            return blocks
        raise ConfigError(
            f"FSDP: {model.config.model_type} has no layers of the class {', '.join(sorted(names)) or 'of its own'}; "
            "name their class in fsdp_transformer_layer_cls_to_wrap of accelerate's configuration"
        )


class _Mover:
    """Moves tensors of modules to a device, or takes them from the first process."""

    def __init__(self, model: nn.Module, device: torch.device, from_first: bool) -> None:
        self.device, self.from_first = device, from_first
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        kinds = [{name: tensor.dtype for name, tensor in tensors.items()}]
        if from_first:
            broadcast_object_list(kinds)
        # Not the tensors themselves: each is freed as soon as it was moved.
        self.dtypes = {id(tensor): kinds[0][name] for name, tensor in tensors.items()}

    def move(self, modules: Iterable[nn.Module]) -> None:
        """Move what these modules hold, without what is inside them."""
        moved: dict[nn.Parameter, nn.Parameter] = {}  # an embedding may also be the head
        for module in modules:
            for name, parameter in list(module.named_parameters(recurse=False)):
                if parameter not in moved:
                    moved[parameter] = nn.Parameter(self._tensor(parameter), requires_grad=False)
                setattr(module, name, moved[parameter])
            for name, buffer in list(module.named_buffers(recurse=False)):
                setattr(module, name, self._tensor(buffer))

    def _tensor(self, tensor: Tensor) -> Tensor:
        dtype = self.dtypes[id(tensor)]
        if tensor.is_meta:
            result = torch.empty(tensor.shape, dtype=dtype, device=self.device)
        else:
            result = tensor.detach().to(self.device, dtype).contiguous()
        if self.from_first and result.numel():
            torch.distributed.broadcast(result.view(-1).view(torch.uint8), 0)
        return result


@contextmanager
def asked(config: Config) -> Iterator[Sharding | None]:
    """The sharding that the launcher's environment asks for, None if it asks for none.

    Meanwhile that environment is hidden from the libraries: accelerate would shard what is trained as well, and
    transformers leave other models without weights in all processes but the first.

    Raises:
        ConfigError: it cannot be done as asked for, or not with this configuration.
    """
    if os.environ.get(ASKED, "false").lower() != "true":
        yield None
        return
    if problem := _problem(config):
        raise ConfigError(problem)
    try:
        plugin = FullyShardedDataParallelPlugin()
    except (ValueError, KeyError) as error:
        raise ConfigError(
            f"fsdp_config: {error}; compare it with configs/accelerate/fsdp2_vicuna13b.yaml"
        ) from None
    with patch_environment(**{ASKED: "false"}):
        yield Sharding(plugin)


def _problem(config: Config) -> str | None:
    """Why a run cannot be sharded, as a sentence; None if it can."""

    def has(name: str, value: str) -> bool:
        return os.environ.get(f"FSDP_{name}", "").lower() == value

    if not has("VERSION", "2"):
        return "fsdp_config: only FSDP2 is supported; set fsdp_version: 2, as in configs/accelerate"
    if not has("AUTO_WRAP_POLICY", "transformer_based_wrap"):
        return "fsdp_config: the layers are sharded one by one; set fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP"
    if has("ACTIVATION_CHECKPOINTING_OFFLOAD", "true"):
        return "fsdp_config: fsdp_activation_checkpointing_offload is not supported; set it to false"
    if config.language.quantization != "none":
        return (
            f"language.quantization: {config.language.quantization} cannot be sharded; set it to none, or launch "
            "without FSDP (a quantised model often fits on one card)"
        )
    return None


def build_network(
    config: Config, device: torch.device, encoder: ImageEncoder | None, team: Team, sharding: Sharding | None
) -> tuple[SkinGPT4, list[str]]:
    """The complete network of a process, and notes on how it is spread.

    Raises:
        ConfigError: a single process was started, or as `Sharding.shard`.
    """
    if sharding is None:
        return build(config, device, encoder), []
    if not torch.distributed.is_initialized():
        raise ConfigError(
            "FSDP: shards over several processes, and one was started; launch without FSDP, or give accelerate "
            "launch --num_processes 2 or more"
        )
    weights: Weights = "absent" if sharding.read_by_first and not team.leads else "on_host"
    model = build(config, device, encoder, weights)
    note = sharding.shard(model.language_model, device, team)
    model.projection.to(model.language_model.input_device)
    return model, [note]


def ask_model(model: SkinGPT4, team: Team, work: Callable[[Team], T]) -> T:
    """Work with the model before the run: of the first process for all, or of all where they share the layers.

    Args:
        model: of the run.
        team: its processes.
        work: is given the processes that do it.
    """
    return work(team) if model.language_model.is_sharded else team.by_first(lambda: work(Team()))


def in_step(
    model: SkinGPT4,
    batches: Sequence[dict[str, Tensor]],
    spare: Callable[[], dict[str, Tensor]],
    accelerator: Accelerator,
) -> Iterator[tuple[dict[str, Tensor], float]]:
    """Batches and the weight of each, 1; as many in all processes, because these gather the layers together.

    Args:
        model: with the language model sharded, or complete in each process, which then needs nothing else.
        batches: of this process.
        spare: a batch to compute, at weight 0, where another process has more batches.
        accelerator: of the run.
    """
    num_spare = 0
    if model.language_model.is_sharded:
        counts = accelerator.gather(torch.tensor([len(batches)], device=accelerator.device))
        num_spare = int(counts.max()) - len(batches)
    yield from ((batch, 1.0) for batch in batches)
    yield from ((spare(), 0.0) for _ in range(num_spare))
