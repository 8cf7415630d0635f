"""The doctor's look at the machine: device, precision, memory, disk and the run's folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch

from skingpt4.config.load import to_yaml
from skingpt4.config.placement import DEVICE_RULES, main_device
from skingpt4.config.schema import Config
from skingpt4.doctor import memory
from skingpt4.doctor.findings import MISSING, OK, WARNING, Finding, Patient
from skingpt4.model.build import encoder_device
from skingpt4.model.language import require_device
from skingpt4.support.errors import UserError
from skingpt4.training import run_folder


def machine(patient: Patient) -> Iterator[Finding]:
    """Device, precision, memory for training and chat, disk, and the run's own folder."""
    config, device, dtype = patient.config, patient.device, patient.dtype
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info()
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
        _require_places(config)
    except UserError as error:
        yield Finding("placement", MISSING, str(error), "auto, or a device that is here")
    if patient.shape and patient.encoder_parameters:
        spread = config.language.device_map not in (None, "cuda", "cpu")
        yield from _memory(patient, free, spread)
    yield _disk(patient)
    if config.step != "none":
        try:
            run_folder.check(Path(config.output_dir), to_yaml(config), resume=True, overwrite=False)
            told = (
                "holds this run already; --resume goes on" if Path(config.output_dir).exists() else "is free"
            )
            yield Finding("output_dir", OK, f"{config.output_dir}: {told}")
        except UserError as error:
            yield Finding("output_dir", MISSING, str(error))


def _require_places(config: Config) -> None:
    """Refuse devices that a configuration names and this machine lacks, as loading would."""
    named = config.language.device_map
    for place in named.values() if isinstance(named, dict) else [named]:
        if place is not None and place not in ("disk", *DEVICE_RULES):
            require_device(main_device(place, "cpu"), "language.device_map")
    encoder_device(config, "cpu")


def _memory(patient: Patient, free: int, spread: bool) -> Iterator[Finding]:
    config, shape, gpu = patient.config, patient.shape, patient.device.type == "cuda"
    assert shape is not None
    quantization = config.language.quantization
    needs = {}
    if config.step != "none":
        needs["memory, training"] = memory.training(
            config,
            shape,
            patient.dtype,
            patient.encoder_parameters,
            patient.num_pictures,
            quantization=quantization,
        )
    needs["memory, chat"] = memory.chat(
        config, shape, patient.dtype, patient.encoder_parameters, quantization=quantization
    )
    mends = {
        "memory, training": "language.quantization=nf4, data.feature_cache=runs/features with data.augment=false, "
        "a smaller optim.batch_size with more optim.accumulation, or a smaller language.model",
        "memory, chat": "language.quantization=nf4, or a smaller language.model",
    }
    for name, parts in needs.items():
        own = memory.CUDA_CONTEXT if gpu else memory.host_bytes(parts)
        total = sum(parts.values()) + own
        place = "on the GPU" if gpu else "of host memory"
        largest = sorted(parts, key=parts.__getitem__, reverse=True)[:2]
        told = ", ".join(f"{part} {parts[part] / memory.GIB:.1f}" for part in largest if parts[part])
        text = f"about {total / memory.GIB:.1f} GiB {place} ({told}); {free / memory.GIB:.1f} GiB are free"
        if gpu:
            host = memory.LIBRARIES + parts.get("kept features", 0)
            text += f"; host about {host / memory.GIB:.1f} GiB"
        # The estimate was up to 12 % too low (docs/memory.md): near the limit it warns, well above it it refuses.
        if spread or total <= 0.8 * free:
            yield Finding(name, OK, text)
        else:
            yield Finding(name, WARNING if total <= 1.1 * free else MISSING, text, mends[name])


def _disk(patient: Patient) -> Finding:
    config = patient.config
    place = Path(config.output_dir).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    width = patient.shape.width if patient.shape else 4096
    trained = (config.qformer.width + 1) * width
    if patient.shape:
        trained += memory.lora_parameters(patient.shape, config.lora.rank, config.lora.targets)
    need = 12 * trained * (config.log.keep_checkpoints + 1)
    if config.data.feature_cache:
        need += 2 * patient.num_pictures * config.qformer.num_query_tokens * config.qformer.width
    need += patient.download_bytes
    text = f"{free / 1e9:.1f} GB free, the run writes about {need / 1e9:.2g} GB"
    text += (
        f", the download of {patient.download_bytes / 1e9:.0f} GB included" if patient.download_bytes else ""
    )
    mend = "free some space, or name an output_dir (and HF_HOME) on a larger disk"
    return Finding("disk", OK, text) if need < free else Finding("disk", MISSING, text, mend)
