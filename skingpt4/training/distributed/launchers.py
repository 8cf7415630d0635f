"""How the processes of a run were launched: as many as were asked for, or none."""

from __future__ import annotations

import os

import torch
from accelerate import Accelerator

from skingpt4.config.placement import default_device
from skingpt4.config.schema import Config, ConfigError

ASKED = "ACCELERATE_USE_FSDP"
# What a launcher's environment may ask for and accelerate would accept without doing it here. Training hides FSDP
# when it does it (`sharding.asked`).
UNSUPPORTED = {
    ASKED: "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism config",
}
# Where launchers leave the number of processes, the ones that accelerate reads first.
SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")


def make_accelerator(config: Config) -> Accelerator:
    """The processes and devices of a run, as many as its launcher was asked for.

    Raises:
        ConfigError: the launcher asks for what is not done here, or the configuration needs one process.
    """
    num_asked = require_launched(torch.cuda.device_count())
    # Neither mixed precision nor a dynamo backend of the launcher's: in fp16 `precision.guard` scales inside the
    # model, and accelerate would allow tf32 along with dynamo.
    accelerator = Accelerator(mixed_precision="no", dynamo_backend="no", cpu=default_device() == "cpu")
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
        ConfigError: this is not what was started, it asks for what is not done here, or there are fewer GPUs than
            processes.
    """
    for variable, name in UNSUPPORTED.items():
        if os.environ.get(variable, "false").lower() == "true":
            raise ConfigError(
                f"{variable}: {name} is not supported here; train.py spreads a language model that a card does not "
                "hold by FSDP2 (configs/accelerate/fsdp2_vicuna13b.yaml), other commands by language.device_map"
            )
    sizes = {name: os.environ[name] for name in SIZES if os.environ.get(name, "").isdigit()}
    # `accelerate launch` starts a single process where it does not see several GPUs, whatever --num_processes is;
    # only the address of a rendezvous shows that several were wanted.
    if not sizes and {"ACCELERATE_MIXED_PRECISION", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        raise ConfigError(
            "accelerate launch was asked for several processes and started one, as it does where it finds fewer than "
            "two GPUs; start them with torchrun --nproc-per-node 2 train.py ... or with accelerate launch "
            "--config_file configs/accelerate/ddp.yaml train.py ..., or give it --num_processes 1"
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
