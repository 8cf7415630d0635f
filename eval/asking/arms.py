"""Arms of an evaluation: a projection and what it is shown, and what their answers depend on."""

from __future__ import annotations

import logging
import platform
import re
import resource
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from eval.asking import perturbations
from eval.asking.claims import ArmError
from eval.asking.conversation import Setting
from skingpt4.checkpoints import checkpoint
from skingpt4.checkpoints.identity import encoder_identity
from skingpt4.config.schema import Config
from skingpt4.records.comparing.overlap import check_cases
from skingpt4.records.manifest import Manifest
from skingpt4.support.files import file_sha256
from skingpt4.taxonomy import taxonomy

UNTRAINED = "untrained"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Arm:
    """A named projection; an arm named like a control is shown the control's pictures."""

    name: str
    checkpoint: str | None

    @property
    def control(self) -> str | None:
        """The control that the arm is, or None."""
        return self.name if self.name in perturbations.CONTROLS else None


def parse_arm(text: str) -> Arm:
    """`two_step=runs/x/step2`, `blank_image=runs/x/step2`, `untrained`, or `untrained_13b=untrained`.

    Raises:
        ArmError: no checkpoint for an arm that needs one, or a name that cannot be a file's.
    """
    name, _, path = text.partition("=")
    if not path and name != UNTRAINED:
        raise ArmError(f"arm {text!r}: write NAME=CHECKPOINT (only '{UNTRAINED}' has none)")
    if not name.isidentifier():
        raise ArmError(f"arm {text!r}: a name has only letters, digits and _")
    return Arm(name, None if path in ("", UNTRAINED) else path)


def meta_of(
    config: Config, arm: Arm, card: dict[str, Any], setting: Setting, precision: str, cases_path: Path
) -> dict[str, Any]:
    """What answers depend on; a run continues only where it is the same."""
    return _meta_of_task(setting) | {
        "arm": arm.name,
        "checkpoint": arm.checkpoint and str(checkpoint.find(arm.checkpoint)),
        "checkpoint_sha256": card.get("tensors_sha256"),
        "step": card.get("step"),
        "iteration": card.get("iteration"),
        "cases_sha256": file_sha256(cases_path),
        "encoder": encoder_identity(config),
        "template": config.prompt.template,
        "prompts": list(setting.prompts),
        "probes": list(setting.probes),
        "with_history": setting.with_history,
        "disease_sentence": config.prompt.disease_sentence,
        "scored_diseases": [names[0] for names in setting.options.values()],
        "taxonomy": taxonomy.version(),
        "language_model": config.language.model,
        "precision": precision,
        "decoding": asdict(setting.generation),
        "batch_size": setting.batch_size,
        "seed": setting.generation.seed,
    }


def _meta_of_task(setting: Setting) -> dict[str, Any]:
    """What a task other than the default adds."""
    task = setting.task
    if task.is_default:
        return {}
    return {
        "task": {"name": task.name, "sha256": task.sha256},
        "classes": list(task.classes),
        "scores": setting.scores,
        "concepts": list(task.concepts) if setting.with_concept_scores else [],
    }


def hardware(device: torch.device) -> dict[str, Any]:
    """The machine and versions that make the answers; the report's response times depend on them."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else _processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def peak_memory(device: torch.device) -> int:
    """The most bytes that this process has had at once: of a GPU's memory, or of the machine's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _processor() -> str:
    """The processor's name where the system knows it, else its kind."""
    info = Path("/proc/cpuinfo")
    name = re.search(r"model name\s*: (.+)", info.read_text()) if info.is_file() else None
    return name[1] if name else platform.processor() or platform.machine()


def check_overlap(cases: Manifest, arm: Arm, allowed: bool) -> dict[str, list[str]]:
    """Refuse cases that the arm's checkpoint, or the one it began from, was trained on, or that cannot be compared.

    Returns:
        What the arm's meta file says of it: `overlap_with_training`, where it is allowed, and
        `overlap_not_compared`.

    Raises:
        ArmError: some are shared, or nothing could be compared, and that is not allowed.
    """
    if not arm.checkpoint:
        return {"overlap_with_training": [], "overlap_not_compared": []}
    _, card = checkpoint.load(arm.checkpoint)
    seen = checkpoint.load_seen(arm.checkpoint, card)
    result = check_cases(cases, seen, *checkpoint.training_manifests(card))
    if result.shared:
        overlap = f"arm {arm.name}: the training shares records with the cases: {'; '.join(result.shared)}"
        if not allowed:
            raise ArmError(f"{overlap}; evaluate on other cases, or add --allow-overlap")
        logger.warning("note: %s (allowed by --allow-overlap)", overlap)
    elif result.nothing and not allowed:
        raise ArmError(
            f"arm {arm.name}: overlap with its training cannot be checked: {'; '.join(result.uncompared)}; name a "
            "checkpoint that remembers its pictures, put its manifests back, or add --allow-overlap"
        )
    for sentence in result.uncompared:
        logger.warning("note: arm %s: %s", arm.name, sentence)
    return {"overlap_with_training": result.shared, "overlap_not_compared": result.uncompared}
