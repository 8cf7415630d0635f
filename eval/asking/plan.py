"""What `python -m eval.run --dry-run` shows: what is left to answer, by how many processes, and their memory."""

from __future__ import annotations

from collections.abc import Sequence

import psutil
import torch

from eval.asking import answers
from eval.asking.answering import RunSettings, check_settings, num_processes
from eval.asking.arms import Arm, check_overlap
from eval.asking.cases import Case, check_labels, read_cases
from eval.asking.claims import check_folder
from skingpt4.doctor import memory
from skingpt4.doctor.findings import Facts
from skingpt4.doctor.machine import Ranks
from skingpt4.doctor.shapes import shape_of
from skingpt4.model.projection import picture_shape
from skingpt4.records.manifest import read_manifest
from skingpt4.support.cli import DISCLAIMER


def plan(settings: RunSettings) -> tuple[str, bool]:
    """Check a run without loading its network; nothing is written.

    Returns:
        The report, and whether the memory is too small.

    Raises:
        ArmError, CasesError, CheckpointError, ConfigError, PerturbationError: what would stop the run.
    """
    check_settings(settings)
    cases = read_cases(settings.cases_path, settings.task)
    check_labels(cases, settings.cases_path, settings.task)
    records = read_manifest(settings.cases_path)
    for arm in settings.arms:
        check_overlap(records, arm, settings.allow_overlap)
    check_folder(
        settings.run_dir, [arm.name for arm in settings.arms], settings.cases_path, settings.replace_old
    )
    num_processes(settings.config)
    ranks = Ranks.launched()
    a_process = -(-len(cases) // ranks.world)
    share = "" if ranks.world == 1 else f"; {ranks.world} processes with at most {a_process} cases each"
    lines = [
        f"{settings.cases_path}: {len(cases)} cases, {len(records)} pictures, task {settings.task.name}{share}"
    ]
    lines += [_left(settings, arm, cases) for arm in settings.arms]
    line, stopped = _memory(settings, ranks, min(settings.batch_size, a_process))
    return "\n".join([*lines, line, "Nothing was loaded or written.", DISCLAIMER]), stopped


def _left(settings: RunSettings, arm: Arm, cases: Sequence[Case]) -> str:
    """How many of an arm's answers are there, of how many."""
    setting = settings.setting(cases)
    num_texts = sum(setting.num_prompts(case) + len(setting.probes) for case in cases)
    names = {case.id for case in cases}
    num_changes = len(settings.perturbations)
    total = num_texts * (settings.repeats + num_changes) + len(names) * setting.scores * (1 + num_changes)
    keys = answers.by_key(answers.read_lines(answers.arm_files(settings.run_dir, arm.name)))
    changes = {None, *settings.perturbations}
    there = sum(
        key.case_id in names and key.repeat < settings.repeats and key.perturbation in changes for key in keys
    )
    return f"arm {arm.name}: {there} of {total} answers are there, {total - there} are to be given"


def _memory(settings: RunSettings, ranks: Ranks, rows: int) -> tuple[str, bool]:
    """Memory of each process beside what is free, and whether it is too much."""
    config = settings.config
    facts = Facts(config)
    shape = shape_of(config.language.model)
    if shape is None:
        return f"memory: unknown, for {config.language.model} is not here", False
    length = config.data.max_text_tokens if settings.max_new_tokens is None else settings.max_new_tokens
    tokens = picture_shape(config).num_vectors + settings.num_prompts * (memory.QUESTION_TOKENS + length)
    parts = memory.evaluation(config, shape, facts.dtype, memory.encoder_parameters(config), rows, tokens)
    gpu = facts.device.type == "cuda"
    total = sum(parts.values()) + (memory.CUDA_CONTEXT if gpu else memory.host_bytes(parts))
    free = torch.cuda.mem_get_info()[0] if gpu else psutil.virtual_memory().available
    together = 1 if gpu else ranks.local
    largest = sorted(parts, key=parts.__getitem__, reverse=True)[:2]
    shown = ", ".join(f"{part} {parts[part] / memory.GIB:.1f}" for part in largest if parts[part])
    text = (
        f"memory: about {total / memory.GIB:.1f} GiB {'on the GPU' if gpu else 'of host memory'}"
        f"{'' if ranks.world == 1 else f' for each of {ranks.world} processes'}"
        f"{f', {together} of them on this machine' if together > 1 else ''} ({shown}; {rows} cases at once); "
        f"{free / memory.GIB:.1f} GiB are free"
    )
    # The doctor's limit: its estimate was up to 12 % too low.
    if together * total > 1.1 * free:
        return (
            f"{text}. Not enough: lower --batch-size, use fewer processes, or language.quantization=nf4",
            True,
        )
    return text, False
