"""The group `engine`: what writes answers is no part of what was trained, and nobody else's file decides it."""

import pytest

from skingpt4.config.load import from_card, load_config, to_dict, to_yaml, with_engine
from skingpt4.config.schema import Config, ConfigError, EngineConfig

BASE = "step: none\noutput_dir: run\nlanguage: {model: m}\n"


@pytest.fixture
def path(tmp_path):
    (tmp_path / "c.yaml").write_text(BASE)
    return tmp_path / "c.yaml"


def test_answers_are_written_in_process_unless_somebody_says_otherwise(path):
    assert load_config(path).engine == EngineConfig()
    assert EngineConfig().name == "in_process"


def test_the_name_alone_is_enough(path):
    assert load_config(path, ["engine=vllm"]).engine == EngineConfig("vllm")
    path.write_text(f"{BASE}engine: vllm\n")
    assert load_config(path).engine == EngineConfig("vllm")
    path.write_text(f"{BASE}engine: {{name: vllm, url: 'https://gpu.example/v1', key_env: KEY}}\n")
    assert load_config(path).engine == EngineConfig("vllm", "https://gpu.example/v1", key_env="KEY")
    assert load_config(path, ["engine.name=in_process"]).engine.url == "https://gpu.example/v1"


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("engine=sglang", "'engine.name' is 'sglang'"),
        ("engine.adress=x", "unknown key 'engine.adress'"),
        ("engine.timeout_seconds=0", "engine.timeout_seconds"),
        ("engine.retries=-1", "engine.retries"),
    ],
)
def test_what_is_wrong_is_named(path, override, sentence):
    with pytest.raises(ConfigError, match=sentence):
        load_config(path, [override])


def test_a_file_of_its_own_replaces_the_group(path, tmp_path):
    config = load_config(path, ["engine.retries=9"])
    engine = tmp_path / "engine.yaml"
    engine.write_text("engine: {name: vllm, model: skin}\n")
    assert with_engine(config, engine).engine == EngineConfig("vllm", model="skin")
    assert with_engine(config, None) is config
    engine.write_text("engine: vllm\n")
    assert with_engine(config, engine).engine == EngineConfig("vllm")
    for text, sentence in (
        ("seed: 1\n", "holds seed; it must hold the group engine alone"),
        ("", "holds nothing"),
        ("engine: {name: x}", "'engine.name' is 'x'"),
        ("engine: [1]", "'engine' must be a group"),
    ):
        engine.write_text(text)
        with pytest.raises(ConfigError, match=sentence):
            with_engine(config, engine)
    with pytest.raises(ConfigError, match="no such config"):
        with_engine(config, tmp_path / "gone.yaml")


def test_a_checkpoint_neither_stores_it_nor_chooses_it(path):
    config = load_config(path, ["engine=vllm"])
    assert "engine" not in to_dict(config)
    assert "engine" not in to_yaml(config)
    hostile = {**to_dict(config), "engine": {"name": "vllm", "url": "https://elsewhere.example/v1"}}
    assert from_card(hostile, "card").engine == Config(step="none", output_dir="run").engine
