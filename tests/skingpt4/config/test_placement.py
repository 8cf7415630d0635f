"""Names of precisions and devices in a configuration, and how each mistake is refused."""

import pytest

from skingpt4.config.load import from_dict, load_config, to_dict, to_yaml
from skingpt4.config.schema import ConfigError

BASE = "step: none\noutput_dir: o\nlanguage: {model: weights/m}\n"


@pytest.fixture
def path(tmp_path):
    (tmp_path / "c.yaml").write_text(BASE)
    return tmp_path / "c.yaml"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["quantization=nf5"], r"'language\.quantization' is 'nf5'; choose .*; did you mean 'nf4'\?"),
        (["attention=spda"], r"'language\.attention' is 'spda'; .*; did you mean 'sdpa'\?"),
        (["device_map=balancd"], r"'language\.device_map' is 'balancd'; .*; did you mean 'balanced'\?"),
        (["device_map=true"], r"'language\.device_map' is True; give null"),
        (
            ["device_map={lm_head: gpu}"],
            r"'language\.device_map\.lm_head' is 'gpu'; write cpu, cuda:N or disk",
        ),
        (
            ["device_map={lm_head: disk}"],
            r"sends modules to the disk; name a folder in 'language\.offload_dir'",
        ),
        (["max_memory={cpu: 3GiB}"], r"'language\.max_memory' bounds a rule; set 'language\.device_map'"),
        (["device_map=cpu", "max_memory={cpu: 3GiB}"], r"'language\.max_memory' bounds a rule"),
        (
            ["device_map=auto", "max_memory={gpu: 3GiB}"],
            r"'language\.max_memory\.gpu' is '3GiB'; write it like",
        ),
        (
            ["device_map=auto", "max_memory={cpu: lots}"],
            r"'language\.max_memory\.cpu' is 'lots'; write it like",
        ),
    ],
)
def test_mistakes_are_refused_with_the_valid_values(overrides, message, path):
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(path, [f"language.{text}" for text in overrides])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("encoder.device=gpu", r"'encoder\.device' is 'gpu'; write auto, cpu or cuda:N"),
        ("encoder.dtype=flaot16", r"'encoder\.dtype' is 'flaot16'; choose .*; did you mean 'float16'\?"),
    ],
)
def test_the_encoders_device_and_precision_are_checked_too(override, message, path):
    with pytest.raises(ConfigError, match=message):
        load_config(path, [override])
    assert load_config(path, ["encoder.device=cuda:1"]).encoder.device == "cuda:1"


@pytest.mark.parametrize(
    ("overrides", "device_map", "max_memory"),
    [
        ([], None, {}),
        (["device_map=cpu"], "cpu", {}),
        (["device_map=1"], 1, {}),
        (["device_map=auto", "max_memory={0: 20GiB, cuda:1: 500MB, cpu: 60GiB}"], "auto",
         {"0": "20GiB", "cuda:1": "500MB", "cpu": "60GiB"}),
        (["device_map={model.layers.0: disk, model: cuda:0, lm_head: 1}", "offload_dir=runs/offload"],
         {"model.layers.0": "disk", "model": "cuda:0", "lm_head": 1}, {}),
    ],
)  # fmt: skip
def test_placement_survives_yaml_and_a_checkpoints_card(overrides, device_map, max_memory, path):
    config = load_config(path, [f"language.{text}" for text in overrides])
    assert (config.language.device_map, config.language.max_memory) == (device_map, max_memory)
    path.write_text(to_yaml(config))
    assert load_config(path) == config == from_dict(to_dict(config), "card")
