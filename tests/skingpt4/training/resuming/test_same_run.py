"""Which configurations may continue a run: those that compute the same."""

import copy
import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skingpt4.config.load import to_dict
from skingpt4.config.schema import Config
from skingpt4.training.resuming.same_run import batch_facts, configuration_problem

CONFIG = to_dict(Config(step="step1", output_dir="runs/a", initial_checkpoint="runs/step1"))
CONFIG["language"]["model"] = "weights/model"
CONFIG["data"] |= {"train": ["a.jsonl"], "feature_cache": "runs/features"}
# How each key of the configuration is changed; None: a resumed run refuses it.
MAY_CHANGE = {
    "output_dir": "runs/a/", "initial_checkpoint": "/moved/step1",
    "vision.weights": "moved/vision.safetensors", "qformer.weights": "moved/qformer.safetensors",
    "encoder.backend": "lavis", "encoder.device": "cuda:1",
    "language.model": "/data/model", "language.attention": "eager", "language.device_map": {"": "cpu"},
    "language.max_memory": {"cpu": "1GiB"}, "language.offload_dir": "/scratch", "language.compile": "never",
    "prompt.histories": True,
    "data.train": ["/data/a.jsonl"], "data.validation": ["v.jsonl"], "data.evaluation": ["e.jsonl"],
    "data.allow_overlap": True, "data.num_workers": 0, "data.batching": "padded",
    "data.feature_cache": "/scratch/features", "optim.max_epoch": 21,
    "log.every": 1, "log.validate_every": 3, "log.validation_samples": 1, "log.checkpoint_every": 1,
    "log.keep_checkpoints": 9, "log.tensorboard": False,
}  # fmt: skip


def leaves(config, prefix=""):
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and name not in ("vision.model_args", "language.max_memory"):
            yield from leaves(value, f"{name}.")
        else:
            yield name


def changed(name, value):
    config = copy.deepcopy(CONFIG)
    *groups, key = name.split(".")
    place = config
    for group in groups:
        place = place[group]
    place[key] = value
    return config


def another(value):
    """A value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, list):
        return [*value, "more"]
    if isinstance(value, dict):
        return {**value, "more": 1}
    return f"{value}x"


def value_of(name):
    place = CONFIG
    for key in name.split("."):
        place = place[key]
    return place


@pytest.mark.parametrize("name", MAY_CHANGE)
def test_what_changes_nothing_that_is_computed_may_change(name):
    assert value_of(name) != MAY_CHANGE[name]
    assert configuration_problem(CONFIG, changed(name, MAY_CHANGE[name]), None, 1) is None


@pytest.mark.parametrize("name", sorted({*leaves(CONFIG)} - {*MAY_CHANGE}))
def test_every_other_key_may_not(name):
    problem = configuration_problem(CONFIG, changed(name, another(value_of(name))), None, 1)
    assert name in problem
    assert "holds a run with another configuration" in problem


def test_fewer_epochs_and_no_cache_are_refused():
    for name, value in (("optim.max_epoch", 19), ("data.feature_cache", None)):
        assert f"({name} differ)" in configuration_problem(CONFIG, changed(name, value), None, 1)


def configured(batch_size, accumulation, compat="none"):
    config = Config(step="step1", output_dir="runs/a", compat=compat)
    config.language.model = "weights/model"
    config.optim = dataclasses.replace(config.optim, batch_size=batch_size, accumulation=accumulation)
    return config


def problem_of(before, after):
    """Of (batch size, accumulation, processes) before and after, and the rule of the means."""
    compat = "none"
    if len(before) == 4:
        *before, compat = before
    old, new = configured(*before[:2], compat), configured(*after[:2], compat)
    card = {"config": to_dict(old), **batch_facts(old, before[2])}
    return configuration_problem(to_dict(old), to_dict(new), card, after[2])


SPLITS = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))


@given(SPLITS, SPLITS)
def test_only_the_samples_of_an_iteration_count(before, after):
    product = [a * b * c for a, b, c in (before, after)]
    problem = problem_of(before, after)
    assert (problem is None) == (product[0] == product[1])
    if problem:
        assert f"its iterations take {product[0]} samples" in problem
        assert f"here they would take {product[1]} samples" in problem


@given(SPLITS, SPLITS)
def test_where_means_of_batches_count_nothing_may_change(before, after):
    assert (problem_of((*before, "minigpt4"), after) is None) == (before == after)


def test_a_card_without_the_number_of_processes_keeps_the_keys():
    old, new = to_dict(configured(2, 1)), to_dict(configured(4, 1))
    assert "(optim.batch_size differ)" in configuration_problem(old, new, {"config": old}, 1)
    assert configuration_problem(old, old, {"config": old}, 2) is None
