"""The doctor's checks of the machine: device, precision, memory, disk and the run's folder."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import torch

from skingpt4.config.load import to_yaml
from skingpt4.config.schema import Config
from skingpt4.doctor import memory
from skingpt4.doctor.findings import MISSING, OK, WARNING, Facts, Finding
from skingpt4.model.build import encoder_device
from skingpt4.model.language import require_devices
from skingpt4.model.projection import num_projection_parameters, picture_shape
from skingpt4.support.errors import UserError
from skingpt4.training.distributed import sharding
from skingpt4.training.distributed.launchers import ASKED, require_launched
from skingpt4.training.resuming import run_folder


@dataclass(frozen=True)
class Ranks:
    """The processes that a launcher's environment asks for, and how they share the language model."""

    world: int = 1
    local: int = 1  # of them on this machine
    sharding: memory.Sharding | None = None

    @classmethod
    def launched(cls) -> Ranks:
        """Of torchrun or accelerate launch; one process without them."""

        def number(name: str) -> int:
            text = os.environ.get(name, "")
            return int(text) if text.isdigit() and int(text) else 1

        def flag(name: str) -> bool:
            return os.environ.get(name, "").lower() == "true"

        world = number("WORLD_SIZE")
        parts = memory.Sharding(world, flag("FSDP_ACTIVATION_CHECKPOINTING"), flag("FSDP_OFFLOAD_PARAMS"))
        return cls(world, number("LOCAL_WORLD_SIZE"), parts if flag(ASKED) else None)


def machine(facts: Facts) -> Iterator[Finding]:
    """Device, precision, memory for training and chat, disk, and the run's own folder."""
    config, device, dtype = facts.config, facts.device, facts.dtype
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info()
        yield from kernels()
        text = f"{torch.cuda.device_count()} GPU, {torch.cuda.get_device_name()}, {free / memory.GIB:.0f} GiB free"
    else:
        text = f"no GPU, {os.cpu_count()} CPU cores"
        free = psutil.virtual_memory().available
    quantised = "" if config.language.quantization == "none" else f", {config.language.quantization} matrices"
    text += f"; computes in {dtype}{quantised}"
    if device.type == "cpu" and dtype == "float16":
        yield Finding("device", WARNING, f"{text}, which a CPU does slowly", "language.dtype=auto")
    else:
        yield Finding("device", OK, text)
    try:
        require_devices(config.language.device_map)
        encoder_device(config, "cpu")
    except UserError as error:
        yield Finding("placement", MISSING, str(error), "auto, or a device that is here")
    ranks = Ranks.launched()
    yield from _processes(config, ranks)
    if config.step != "none":
        yield from _optimizer(config, device.type)
    if facts.shape and facts.encoder_parameters:
        spread = config.language.device_map not in (None, "cuda", "cpu")
        yield from _memory(facts, free, spread, ranks)
    if facts.knows_projector:
        yield _disk(facts)
    if config.step != "none":
        yield _output_dir(config)


def _processes(config: Config, ranks: Ranks) -> Iterator[Finding]:
    """Whether the launcher starts what it was asked for, and the batch of all processes together."""
    try:
        with sharding.asked(config):
            require_launched(torch.cuda.device_count())
    except UserError as error:
        yield Finding("processes", MISSING, str(error))
        return
    if ranks.world > 1:
        text = f"{ranks.world}, {ranks.local} on this machine"
        if config.step != "none":
            batch, accumulation = config.optim.batch_size, config.optim.accumulation
            text += (
                f"; a step takes {batch * accumulation * ranks.world} samples (batch_size {batch} x accumulation "
                f"{accumulation} x {ranks.world} processes)"
            )
        yield Finding("processes", OK, text + ("; FSDP shards the language model" if ranks.sharding else ""))


def _optimizer(config: Config, device_type: str) -> Iterator[Finding]:
    """What `optim.name` needs, where that is not here."""
    name = config.optim.name
    if name != "adamw" and importlib.util.find_spec("bitsandbytes") is None:
        text = f"optim.name {name} needs bitsandbytes, which is not installed"
        yield Finding("optimiser", MISSING, text, "pip install bitsandbytes, or optim.name=adamw")
    elif name.startswith("paged") and device_type != "cuda":
        fix = "train on a machine with a GPU, or optim.name=adamw"
        yield Finding("optimiser", WARNING, f"optim.name {name} needs a GPU, and here is none", fix)


def kernels() -> Iterator[Finding]:
    """Whether this torch holds kernels for the card; the V100's (7.0) are not in builds for CUDA 13."""
    major, minor = torch.cuda.get_device_capability()
    built_for = [name for name in torch.cuda.get_arch_list() if name.startswith("sm_")]
    lowest = min(int(name.removeprefix("sm_").rstrip("af")) for name in built_for) if built_for else 0
    if 10 * major + minor < lowest:
        text = (
            f"{torch.cuda.get_device_name()} has capability {major}.{minor}, this torch {torch.__version__} is built "
            f"for {', '.join(built_for)}"
        )
        fix = "install torch and torchvision built for CUDA 12.6: make setup TORCH_INDEX=... (docs/placement.md)"
        yield Finding("torch", MISSING, text, fix)


def _output_dir(config: Config) -> Finding:
    folder = Path(config.output_dir)
    try:
        run_folder.check(folder, to_yaml(config), resume=True, overwrite=False)
    except UserError as error:
        return Finding("output_dir", MISSING, str(error))
    state = "holds this run already; --resume continues it" if folder.exists() else "is free"
    return Finding("output_dir", OK, f"{folder}: {state}")


def _memory(facts: Facts, free: int, spread: bool, ranks: Ranks) -> Iterator[Finding]:
    config, shape, gpu = facts.config, facts.shape, facts.device.type == "cuda"
    assert shape is not None
    quantization = config.language.quantization
    needs = {}
    if config.step != "none":
        needs["memory, training"] = memory.training(
            config, shape, facts.dtype, facts.encoder_parameters, facts.num_images, quantization=quantization,
            encoding_bytes=facts.encoding_bytes,
        )  # fmt: skip
    if ranks.sharding and needs:
        # On a CPU the host's memory holds the parts anyway. A chat in one process is no part of such a run.
        divided = replace(ranks.sharding, offload=ranks.sharding.offload and gpu)
        needs["memory, training"] = memory.sharded(
            needs["memory, training"], config, shape, facts.dtype, divided
        )
    else:
        needs["memory, chat"] = memory.chat(
            config, shape, facts.dtype, facts.encoder_parameters, quantization=quantization,
            encoding_bytes=facts.encoding_bytes,
        )  # fmt: skip
    fewer_bits = "language.quantization=nf4, " if quantization == "none" else ""
    cached = "" if config.data.feature_cache else "data.feature_cache=runs/features with data.augment=false, "
    batch = "a smaller optim.batch_size with more optim.accumulation, "
    fixes = {
        "memory, training": f"{fewer_bits}{cached}{batch}or a smaller language.model",
        "memory, chat": f"{fewer_bits}or a smaller language.model".removeprefix("or "),
    }
    for name, parts in needs.items():
        own = memory.CUDA_CONTEXT if gpu else memory.host_bytes(parts)
        total = sum(parts.values()) + own
        place = "on the GPU" if gpu else "of host memory"
        together = 1  # processes that share what is free
        if ranks.world > 1 and name == "memory, training":
            place = f"{place} for each of {ranks.world} processes"
            together = 1 if gpu else ranks.local
            place += f", {ranks.local} of them on this machine" if together > 1 else ""
        largest = sorted(parts, key=parts.__getitem__, reverse=True)[:2]
        shown = ", ".join(f"{part} {parts[part] / memory.GIB:.1f}" for part in largest if parts[part])
        text = f"about {total / memory.GIB:.1f} GiB {place} (most of it: {shown}); "
        text += f"{free / memory.GIB:.1f} GiB are free"
        if gpu:
            host = memory.LIBRARIES + parts.get("cached features", 0)
            host += memory.paged_bytes(memory.num_trainable(config, shape), config.optim.name)
            if ranks.sharding and ranks.sharding.offload and name == "memory, training":
                host += shape.num_in_matrices * memory.ITEM_BYTES[facts.dtype] // ranks.world
            text += f"; host about {host / memory.GIB:.1f} GiB"
        # The estimate was up to 9 % too low (docs/memory.md): the doctor warns near the limit, and refuses above it.
        if spread or together * total <= 0.8 * free:
            yield Finding(name, OK, text)
        else:
            state = WARNING if together * total <= 1.1 * free else MISSING
            yield Finding(name, state, text, fixes[name])


def _disk(facts: Facts) -> Finding:
    config = facts.config
    folder = Path(config.output_dir).absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    trained = (
        memory.num_trainable(config, facts.shape) if facts.shape else num_projection_parameters(config, 4096)
    )
    need = 12 * trained * (config.log.keep_checkpoints + 1)
    if config.data.feature_cache:
        picture = picture_shape(config)
        need += 2 * facts.num_images * picture.num_vectors * picture.width
    need += facts.download_bytes
    text = f"{free / 1e9:.1f} GB free, the run writes about {need / 1e9:.2g} GB"
    text += f", the download of {facts.download_bytes / 1e9:.0f} GB included" if facts.download_bytes else ""
    fix = "free some space, or name an output_dir (and HF_HOME) on a larger disk"
    return Finding("disk", OK, text) if need < free else Finding("disk", MISSING, text, fix)
