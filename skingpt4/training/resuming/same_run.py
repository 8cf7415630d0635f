"""Which configurations compute the same: a resumed run must, and the processes of one.

Where files are and how fast they are read may change; the content of the files is compared in `resume`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from skingpt4.config.compat import BEHAVIOURS
from skingpt4.config.load import to_dict
from skingpt4.config.schema import Config

# Keys, and groups of keys, that do not decide what is computed:
MAY_CHANGE = (
    # how often a run logs and saves, and what it must not overlap with
    "log", "data.evaluation", "data.allow_overlap", "prompt.histories",
    # where things are; `resume.origin` has their content
    "output_dir", "initial_checkpoint", "data.train", "data.validation", "vision.weights", "qformer.weights",
    "language.model",
    # where and how fast it runs
    "data.num_workers", "data.batching", "encoder.backend", "encoder.device", "language.attention",
    "language.compile", "language.device_map", "language.max_memory", "language.offload_dir",
)  # fmt: skip
BATCH = {
    "optim.batch_size",
    "optim.accumulation",
}  # with the processes: how an iteration's samples are divided
LONGER = "optim.max_epoch"


def computed(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted names and values of the keys that decide what is computed, of a configuration as plain dicts."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if name in MAY_CHANGE:
            continue
        if isinstance(value, Mapping):
            flat |= computed(value, f"{name}.")
        else:  # cached features are rounded to 16 bits: whether there is a cache matters, not where
            flat[name] = value is not None if name == "data.feature_cache" else value
    return flat


def configuration_problem(
    saved: Mapping[str, Any], here: Mapping[str, Any], card: Mapping[str, Any] | None, num_processes: int
) -> str | None:
    """Why a run cannot be continued with a configuration, as a sentence; None if it can.

    Args:
        saved: the configuration in the run's folder, as plain dicts.
        here: the configuration to continue with.
        card: of the run's newest checkpoint, if it has any.
        num_processes: to continue with.
    """
    defaults = to_dict(Config(step="", output_dir=""))  # of keys that are newer than the run
    before, now = (computed(_filled(config, defaults)) for config in (saved, here))
    differing = {name for name in before.keys() | now.keys() if before.get(name) != now.get(name)}
    if before.get(LONGER, 0) < now.get(LONGER, 0):
        differing.discard(LONGER)
    if card and "global_batch" in card and differing <= BATCH:
        return batch_problem(card, _filled(here, defaults), num_processes)
    if not differing:
        return None
    return (
        f"holds a run with another configuration ({', '.join(sorted(differing)[:6])} differ); "
        "name another output_dir, or add --overwrite"
    )


def _filled(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with the defaults of the keys that it does not have."""
    filled = {**defaults, **config}
    for key, value in defaults.items():
        if isinstance(value, Mapping) and isinstance(config.get(key), Mapping):
            filled[key] = _filled(config[key], value)
    return filled


def batch_facts(config: Config, num_processes: int) -> dict[str, int]:
    """What a card stores of an iteration's samples: `global_batch`, all of them, and `num_processes`."""
    samples = config.optim.batch_size * config.optim.accumulation * num_processes
    return {"global_batch": samples, "num_processes": num_processes}


def batch_problem(card: Mapping[str, Any], here: Mapping[str, Any], num_processes: int) -> str | None:
    """Why an iteration would not take as many samples as the checkpoint's did; how they are divided may change.

    Where the means of batches count (`compat`), the division may not change either. Cards before 0.2 do not have it.

    Args:
        card: of the checkpoint.
        here: the configuration to continue with, as plain dicts.
        num_processes: to continue with.
    """
    if "global_batch" not in card:
        return None
    before, now = card["config"]["optim"], here["optim"]
    then, processes = card["global_batch"], card["num_processes"]
    same = now["batch_size"] * now["accumulation"] * num_processes == then
    if BEHAVIOURS[here["compat"]].mean_of_means:
        same = same and now["batch_size"] == before["batch_size"] and num_processes == processes
    if same:
        return None
    return (
        f"its iterations take {_division(before, processes)}, here they would take {_division(now, num_processes)}; "
        "set optim.batch_size and optim.accumulation so that they agree"
    )


def _division(optim: Mapping[str, Any], num_processes: int) -> str:
    samples = optim["batch_size"] * optim["accumulation"] * num_processes
    return (
        f"{samples} samples (batch_size {optim['batch_size']} x accumulation {optim['accumulation']} x "
        f"{num_processes} process{'es' if num_processes > 1 else ''})"
    )
