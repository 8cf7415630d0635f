"""The calculation of many GPUs: by hand where possible, its inputs checked, and the page shows what it gives."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from benchmarks.harness.shapes import SHAPES, language_shape
from benchmarks.scale import command
from benchmarks.scale.estimate import Load, step_memory, step_speed, step_traffic
from benchmarks.scale.inputs import DEFAULT, InputsError, Measured, read_inputs, read_measured
from skingpt4.doctor import memory

ROOT = Path(__file__).parents[3]
PAGE, RESULT = ROOT / "docs/scale.md", ROOT / "benchmarks/results/scale.json"
LAYERS_13B = 40 * (4 * 5120**2 + 3 * 5120 * 13824)  # numbers in the matrices of Vicuna-13B's layers


@pytest.fixture(scope="module")
def inputs():
    return read_inputs()


@pytest.fixture(scope="module")
def load():
    return Load(language_shape(SHAPES["vicuna13b"]), 2, "bfloat16")


@pytest.fixture
def a100(inputs):
    return inputs.cards["A100-80GB"]


# ---- by hand


def test_a_copy_is_the_estimate_of_the_doctor(load):
    parts = memory.training(load.config, load.shape, "bfloat16", 0)
    for gpus in (1, 64):
        assert step_memory(load, "ddp", gpus).card == sum(parts.values()) + memory.CUDA_CONTEXT


def test_layers_are_divided_and_two_are_complete(load):
    rest = 2 * load.shape.num_others
    for gpus in (2, 8, 64):
        found = step_memory(load, "fsdp", gpus)
        assert found.weights == pytest.approx(rest + 2 * LAYERS_13B / gpus)
        assert found.gathered == 2 * 2 * LAYERS_13B / 40
        less = step_memory(load, "fsdp_ckpt", gpus)
        assert less.activations < found.activations / 5
        assert replace(less, activations=found.activations) == found
        host = step_memory(load, "offload", gpus)
        assert host.host - found.host == 2 * LAYERS_13B / gpus
        assert host.weights == rest


def test_copies_exchange_the_projection_s_gradients_alone(load, inputs, a100):
    traffic = step_traffic(load, "ddp", 8, inputs, a100)
    assert traffic.gathered == traffic.from_host == 0
    assert traffic.reduced == int(2 * 7 / 8 * 4 * (768 * 5120 + 5120))
    assert traffic.seconds_reducing == pytest.approx(traffic.reduced / 300e9 + 5e-5)
    alone = step_traffic(load, "ddp", 1, inputs, a100)
    assert (alone.reduced, alone.seconds_reducing) == (0, 0.0)


def test_layers_are_gathered_twice_but_the_last(load, inputs, a100):
    layer = 2 * LAYERS_13B // 40
    near, far = (step_traffic(load, "fsdp", gpus, inputs, a100) for gpus in (8, 64))
    assert near.gathered == 79 * layer * 7 // 8
    assert near.seconds_gathering == pytest.approx(near.gathered / 300e9 + 79 * 5e-5)
    assert far.seconds_gathering == pytest.approx(far.gathered / 200e9 + 79 * 5e-5)  # the nodes' adapters
    host = step_traffic(load, "offload", 1, inputs, a100)
    assert (host.gathered, host.from_host) == (0, 79 * layer)
    assert host.seconds_gathering == pytest.approx(79 * layer / 32e9)


def test_a_step_lasts_as_long_as_its_operations_and_what_is_not_hidden(load, inputs, a100):
    operations = 2 * (232 * 4 * LAYERS_13B + 160 * 4 * 5120 * 32000)
    none = step_traffic(load, "ddp", 1, inputs, a100)
    speed = step_speed(load, "ddp", none, inputs, a100, None)
    assert not speed.is_measured
    assert speed.seconds_computing == pytest.approx(operations / (0.4 * 312e12))
    assert speed.best_seconds == speed.worst_seconds == speed.seconds_computing
    traffic = step_traffic(load, "fsdp", 64, inputs, a100)
    speed = step_speed(load, "fsdp", traffic, inputs, a100, None)
    assert speed.best_seconds == pytest.approx(traffic.seconds_gathering + traffic.seconds_reducing)
    assert speed.worst_seconds == pytest.approx(speed.seconds_computing + speed.best_seconds)
    again = step_speed(load, "fsdp_ckpt", traffic, inputs, a100, None)
    assert again.seconds_computing > 1.4 * speed.seconds_computing


# ---- measured figures take the place of assumed ones


@pytest.fixture
def gpu_result(tmp_path):
    """As `python -m benchmarks gpu` writes it, with made figures."""
    stages = {
        "vicuna13b build": {"weights_bytes": 1, "line": ""},
        "vicuna13b train 2": {
            "batch": 2, "median_seconds_a_step": 0.5, "peak_bytes_above_weights": 3_000_000_000,
            "counted": {"tokens": 500, "logits": 200, "pictures": 0},
        },
        "vicuna13b train 16": {
            "batch": 16, "median_seconds_a_step": 2.0, "peak_bytes_above_weights": None,
            "counted": {"tokens": 4000, "logits": 1600, "pictures": 0},
        },
        "vicuna13b train 64": {"failed": "OutOfMemoryError"},
        "vicuna7b train 2": {"left_out": "no time"},
    }  # fmt: skip
    path = tmp_path / "gpu.json"
    path.write_text(json.dumps({"hardware": {"gpu": "NVIDIA A100-SXM4-80GB"}, "stages": stages}))
    return path


def test_a_measured_rate_counts_for_its_card_and_model_alone(gpu_result, inputs):
    measured = read_measured(gpu_result, inputs.models)
    tflops = (4 * LAYERS_13B * 4000 + 4 * 5120 * 32000 * 1600) / 2.0 / 1e12  # of the faster batch
    assert measured == {"13B": Measured("NVIDIA A100-SXM4-80GB", 16, pytest.approx(tflops), None)}
    for card in ("A100-80GB", "H100-80GB"):
        for row in command.rows(replace(inputs, card=card), measured):
            is_its = (card, row["model"]) == ("A100-80GB", "13B")
            assert row["speed"]["is_measured"] == is_its
            assert is_its == (row["speed"]["tflops"] == pytest.approx(tflops))


def test_without_a_gpu_s_file_nothing_is_measured(tmp_path, inputs):
    assert read_measured(tmp_path / "none.json", inputs.models) == {}


@pytest.mark.parametrize(
    "text", ["{}", "[]", "x", '{"hardware": {"cpu": "x"}, "stages": {}}', '{"stages": 1}']
)
def test_another_file_is_refused(text, tmp_path, inputs):
    (tmp_path / "gpu.json").write_text(text)
    with pytest.raises(
        InputsError, match=r"gpu\.json: (is not a result of python -m benchmarks gpu|cannot be read)"
    ):
        read_measured(tmp_path / "gpu.json", inputs.models)


# ---- inputs


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("card: A100-80GB", "card: A99", "card 'A99' is none of V100-32GB, A100-80GB"),
        (
            "peak_tflops: 312",
            "peak_tflops: 0",
            r"cards\.A100-80GB\.peak_tflops is 0\.0; it must be more than 0",
        ),
        ("peak_tflops: 312", "peak_tflops: fast", "peak_tflops|fast"),
        ("gpus: [1, 2", "gpus: [0, 2", r"gpus\.0 is 0"),
        ("efficiency: 0.4  # of", "effort: 0.4  # of", "effort"),
        ("7B: vicuna7b", "7B: tiny", r"models\.7B: 'tiny' is not a shape"),
        ("dtype: float16", "dtype: int3", "int3"),
        ("cards:", "cards: [", "inputs.yaml: "),
    ],
)
def test_inputs_that_cannot_be_are_refused_in_a_sentence(old, new, sentence, tmp_path):
    text = DEFAULT.read_text()
    assert old in text
    (tmp_path / "inputs.yaml").write_text(text.replace(old, new, 1))
    with pytest.raises(InputsError, match=sentence) as refused:
        read_inputs(tmp_path / "inputs.yaml")
    assert "\n" not in str(refused.value)


def test_a_missing_file_or_card_is_named(tmp_path, capsys):
    assert command.main(["--inputs", str(tmp_path / "none.yaml")]) == 1
    assert "none.yaml: cannot be read" in capsys.readouterr().err
    assert command.main(["--card", "A99", "--out", str(tmp_path / "x.json")]) == 1
    assert "--card A99: is none of" in capsys.readouterr().err
    assert not (tmp_path / "x.json").exists()


# ---- the page


@pytest.fixture(scope="module")
def result():
    return json.loads(RESULT.read_text(encoding="utf-8"))


def test_the_file_is_what_its_inputs_give_today(result, inputs):
    assert result["inputs"] == asdict(inputs)
    measured = {title: Measured(**step) for title, step in result["measured"].items()}
    assert command.tables(command.calculate(inputs, measured)) == command.tables(result)
    assert result["command"] == "python -m benchmarks scale"
    assert "+" not in result["commit"]


def test_the_page_shows_the_tables_of_the_file(result):
    page = PAGE.read_text(encoding="utf-8")
    for title, table in command.tables(result).items():
        assert table in page, title
    assert "calculated, not measured" in page


def test_the_page_shows_what_the_readers_were_measured_at():
    from benchmarks.records import scale

    records = json.loads((ROOT / "benchmarks/results/records_scale.json").read_text(encoding="utf-8"))
    assert scale.table(records["rows"]) in PAGE.read_text(encoding="utf-8")
    assert "+" not in records["commit"]
    sizes = {row["records"] for row in records["rows"]}
    assert sizes <= set(scale.SIZES)
    assert f"{max(sizes):,} were measured" in PAGE.read_text(encoding="utf-8")
