"""The processes of a run: how they were launched, what they tell each other, and the signals that stop them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object, reduce

from skingpt4.config.placement import default_device
from skingpt4.config.schema import Config, ConfigError
from skingpt4.support.errors import UserError

T = TypeVar("T")

# What a launcher's environment asks for and accelerate would accept without sharding anything here.
SHARDING = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism config",
}
# Where launchers leave the number of processes, the ones that accelerate reads first.
SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
# Features of a large manifest take hours; collectives of a training step still end after torch's own minutes.
PATIENCE = timedelta(days=7)
# EX_TEMPFAIL, an exit status for schedulers: saved or in use, --resume continues (docs/slurm.md).
TRY_AGAIN = 75


class RunError(UserError):
    """A run that cannot start or continue; the message says what to do."""


def make_accelerator(config: Config) -> Accelerator:
    """The processes and devices of a run, as many as its launcher was asked for.

    Raises:
        ConfigError: the launcher asks for what is not done here, or the configuration needs one process.
    """
    for variable, name in SHARDING.items():
        if os.environ.get(variable, "false").lower() == "true":
            raise ConfigError(
                f"{variable}: the model is frozen, and {name} does not shard it; launch without it, and where a card "
                "does not hold the model set language.device_map=auto and start one process"
            )
    num_asked = require_launched(torch.cuda.device_count())
    # Neither mixed precision nor a dynamo backend of the launcher's: in fp16 `precision.guard` scales inside the
    # model, and accelerate would allow tf32 along with dynamo.
    accelerator = Accelerator(
        mixed_precision="no",
        dynamo_backend="no",
        cpu=default_device() == "cpu",
    )
    require_started(num_asked, accelerator.num_processes)
    if config.language.device_map is not None and accelerator.num_processes > 1:
        raise ConfigError(
            "language.device_map: spreads one process over devices; start it without accelerate"
        )
    return accelerator


def require_launched(num_gpus: int) -> int:
    """The number of processes that the launcher's environment asks for; 1 without a launcher.

    Args:
        num_gpus: of this machine; 0 trains on the CPU.

    Raises:
        ConfigError: this is not what was started, or there are fewer GPUs than processes.
    """
    sizes = {name: os.environ[name] for name in SIZES if os.environ.get(name, "").isdigit()}
    # `accelerate launch` starts a single process where it does not see several GPUs, whatever --num_processes is;
    # only the address of a rendezvous shows that several were wanted.
    if not sizes and {"ACCELERATE_MIXED_PRECISION", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        raise ConfigError(
            "accelerate launch was asked for several processes and started one, as it does where it finds fewer than "
            "two GPUs; start them with torchrun --nproc-per-node 2 train.py ..., or give it --num_processes 1"
        )
    name, size = next(iter(sizes.items()), ("", "1"))
    if name == "SLURM_STEP_NUM_TASKS" and int(size) > 1:
        raise ConfigError(
            f"{name} is {size}: srun starts processes that do not know each other; start torchrun in one task for "
            "each node, see docs/slurm.md"
        )
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if 0 < num_gpus < local:
        raise ConfigError(
            f"{local} processes were started on this machine, which has {num_gpus} GPU{'s' * (num_gpus > 1)}; "
            f"start torchrun with --nproc-per-node {num_gpus}"
        )
    return max(1, int(size))


def require_started(num_asked: int, num_started: int) -> None:
    """Refuse a number of processes that know each other which is not what `require_launched` returned.

    Raises:
        ConfigError: has both numbers.
    """
    if num_started != num_asked:
        raise ConfigError(
            f"the launcher was asked for {num_asked} processes, and here {num_started} would compute; "
            "start them with torchrun --nproc-per-node"
        )


@dataclass
class Team:
    """The processes of a run. Every method is called by all of them at the same place; one alone needs no others."""

    rank: int = 0
    world: int = 1
    wait: Callable[[], None] = lambda: None  # until all have arrived, however long that takes
    device: torch.device | str = "cpu"

    @classmethod
    def of(cls, accelerator: Any) -> Team:
        """The processes of an `Accelerator` or `PartialState`, which wait outside of its collectives' time-out."""
        if accelerator.num_processes == 1:
            return cls(device=accelerator.device)
        group = torch.distributed.new_group(backend="gloo", timeout=PATIENCE)

        def wait() -> None:
            torch.distributed.barrier(group=group)

        return cls(accelerator.process_index, accelerator.num_processes, wait, accelerator.device)

    @property
    def leads(self) -> bool:
        """Whether this is the first process, which alone writes files."""
        return self.rank == 0

    def by_first(self, work: Callable[[], T]) -> T:
        """Do some work in the first process; its result, or its failure, is that of all.

        Raises:
            UserError, OSError: of the work.
        """
        if self.world == 1:
            return work()
        outcome: list[Any] = [None, None]
        if self.leads:
            try:
                outcome[0] = work()
            except (UserError, OSError) as error:
                outcome[1] = error
        self.wait()
        result, failure = broadcast_object_list(outcome)
        if failure is not None:
            raise failure
        return result

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        if self.world == 1:
            return flag
        return bool(reduce(torch.tensor(float(flag), device=self.device), "sum").item())

    def together(self, items: Iterator[T]) -> Iterator[T]:
        """The items, of which all processes have the same number; where one process fails to get its next, all fail.

        Raises:
            UserError, OSError: of `items`, or because another process failed.
        """
        failure: Exception | None = None
        while True:
            item = None
            try:
                item = next(items)
            except StopIteration:
                return
            except (UserError, OSError) as error:
                failure = error
            others_too = self.any(failure is not None)
            if failure is not None:
                raise failure
            if others_too:
                raise RunError("another process of this run failed; its message says why")
            yield item  # type: ignore[misc]

    def require_same(self, facts: Mapping[str, Any]) -> None:
        """Compare what all processes must have in common.

        Raises:
            RunError: names what differs, and in which process.
        """
        if self.world == 1:
            return
        self.wait()
        first, *others = gather_object([dict(facts)])
        for rank, other in enumerate(others, 1):
            names = [name for name, value in first.items() if other.get(name) != value]
            if names:
                raise RunError(
                    f"process {rank} of {self.world} differs from the first in its {', '.join(names)}; start all of "
                    "them with the same arguments, files and versions"
                )


# SIGHUP: the terminal was closed. SIGUSR1: what Slurm's --signal usually sends before the time limit. SIGXCPU: the
# limit of CPU time (ulimit -t), which the kernel repeats each second until the hard limit.
# Windows knows the first two alone.
HANGUP, CPU_TIME = getattr(signal, "SIGHUP", None), getattr(signal, "SIGXCPU", None)
STOPPING = tuple(
    number
    for number in (signal.SIGINT, signal.SIGTERM, HANGUP, getattr(signal, "SIGUSR1", None), CPU_TIME)
    if number is not None
)


class Stopped(RunError):
    """A signal ended the run before its last iteration; its state is saved.

    The status is 130 after Ctrl-C, else TRY_AGAIN.
    """

    def __init__(self, message: str, number: int | None = None) -> None:
        super().__init__(message)
        self.status = 130 if number == signal.SIGINT else TRY_AGAIN


class StopSignal:
    """Notes the first signal that ends a run, so that the iteration in progress is finished and saved.

    A second one acts as usual, except SIGXCPU.

    Attributes:
        number: of the first signal that this process received, or None.
    """

    number: int | None = None

    def __enter__(self) -> StopSignal:
        self.number = None
        self._handlers: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            ignores_hangup = HANGUP and signal.getsignal(HANGUP) == signal.SIG_IGN  # started by nohup
            numbers = (n for n in STOPPING if not (n == HANGUP and ignores_hangup))
            self._handlers = {number: signal.signal(number, self._receive) for number in numbers}
        return self

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.number = self.number or number
        if number != CPU_TIME:
            signal.signal(number, self._handlers[number])

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)


def ignore_interrupt(worker: int) -> None:
    """For the loader's worker processes: some signals reach the whole group, only the main process acts on them."""
    del worker
    for number in STOPPING:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
