"""Every projector on its way: trained, stopped and resumed to the same bits, loaded, asked, scored, refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from skingpt4.chat.differential import Ranker
from skingpt4.chat.heatmap import HeatmapError, heatmap
from skingpt4.chat.session import ChatSession
from skingpt4.checkpoints import checkpoint, load, minigpt4
from skingpt4.checkpoints.checkpoint import CheckpointError
from skingpt4.checkpoints.load import from_pretrained, load_model, load_projection
from skingpt4.cli.deploy import share
from skingpt4.config.schema import ConfigError
from skingpt4.config.validate import check_values
from skingpt4.doctor.dry_run import dry_run
from skingpt4.generation.sampling import Generation
from skingpt4.model.projection import INPUT_MAPS, picture_shape
from skingpt4.records.comparing.overlap import OverlapError
from skingpt4.records.record import RecordError
from skingpt4.training.loop import run
from skingpt4.training.prepare import prepare
from skingpt4.training.resuming.run_folder import RunDirError
from skingpt4.weights.files.tensors import WeightsMismatch
from tests.support.tiny import make_picture, tiny_config, write_manifest

WAYS = {
    "qformer": {},
    "linear": {"projector": "linear", "pooling__side": 2},
    "mlp": {"projector": "mlp", "pooling__side": 2, "projection__hidden_width": 24},
    "shuffled": {"projector": "mlp", "pooling__side": 2, "pooling__method": "pixel_shuffle"},
    "crops": {"projector": "linear", "pooling__side": 1, "vision__crops": 5},
    "queries of crops": {"vision__crops": 5},
    "large": {"projector": "linear", "pooling__side": 2, "vision__image_size": 84},
}
VECTORS = {
    "qformer": 4, "linear": 5, "mlp": 5, "shuffled": 5, "crops": 10, "queries of crops": 20, "large": 5,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("projectors")


@pytest.fixture
def configure(folder, tmp_path):
    def make(name="run", cached=True, **changes):
        cache = {"data__augment": False, "data__feature_cache": str(tmp_path / "cache")} if cached else {}
        return tiny_config(
            folder, output_dir=str(tmp_path / name), optim__iters_per_epoch=2, log__checkpoint_every=1,
            log__keep_checkpoints=9, **cache, **changes,
        )  # fmt: skip

    return make


def card_of(config):
    return json.loads((checkpoint.find(config.output_dir) / checkpoint.CARD).read_text())


def tensors_of(config):
    return checkpoint.load(config.output_dir)[0]


def without_later(config, iteration):
    """A copy of the run as if it had been killed after an iteration."""
    for path in checkpoint.saved(Path(config.output_dir)):
        if int(path.name.rpartition("_")[2]) > iteration:
            shutil.rmtree(path)


def assert_equal(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("way", WAYS)
def test_a_projector_from_training_to_an_answer(way, configure):
    config = configure(**WAYS[way])
    run(config)
    complete, card = tensors_of(config), card_of(config)
    shape = picture_shape(config)
    kind = config.projector
    assert shape.num_vectors == VECTORS[way]
    assert card["projector"] == {
        "kind": kind, "vectors": VECTORS[way], "width": shape.width, "crops": config.vision.crops,
    }  # fmt: skip
    trained = {name for name, part in card["parts"].items() if part["trained"]}
    assert trained == {"projection"}
    assert ("qformer" in card["parts"]) == (kind == "qformer")
    assert card["parts"]["projection"]["parameters"] == sum(t.numel() for t in complete.values())

    without_later(config, 1)
    run(config, resume=True)
    assert_equal(tensors_of(config), complete)

    model = load_model(
        config, config.output_dir
    )  # with its encoder, which computes the known answer's vectors
    session = ChatSession(model, config)
    session.add_image(make_picture(3))
    session.add_image(session.pixels(make_picture(3)))
    assert torch.equal(session.queries[0], session.queries[1])
    assert session.queries[0].shape == (1, shape.num_vectors, shape.width)
    assert isinstance(session.ask("What is it?", Generation(max_new_tokens=4)), str)
    ranked = Ranker(model, config).rank(session.queries)
    assert sum(c.probability for c in ranked.ranked) == pytest.approx(1.0)
    if kind == "qformer":
        assert heatmap(model, make_picture(3)).size == make_picture(3).size
    else:
        with pytest.raises(HeatmapError, match="no Q-Former"):
            heatmap(model, make_picture(3))


@pytest.mark.parametrize("changes", [WAYS["mlp"], WAYS["crops"]])
def test_without_a_cache_the_pictures_are_read(changes, configure):
    config = configure(cached=False, **changes)
    run(config)
    assert len(checkpoint.saved(Path(config.output_dir))) == 4


@pytest.mark.parametrize("way", ["qformer", "linear", "mlp"])
@pytest.mark.parametrize("inputs", ["standardised", "whitened", "discriminants"])
def test_other_coordinates_resume_to_the_same_bits_and_save_plain_layers(way, inputs, configure):
    config = configure(projection__inputs=inputs, **WAYS[way])
    run(config)
    complete = tensors_of(config)
    without_later(config, 2)
    run(config, resume=True)
    assert_equal(tensors_of(config), complete)
    raw = configure("raw", **WAYS[way])
    assert prepare(raw, torch.device("cpu")).model.projection.state_dict().keys() == complete.keys()
    # What was saved answers without the map as the run did with it.
    load_projection(load_model(raw, None), raw, config.output_dir)

    second = configure("second", projection__inputs=inputs, initial_checkpoint=config.output_dir, **WAYS[way])
    model = prepare(second, torch.device("cpu")).model
    assert model.input_map is not None
    for key, value in model.plain_projection().items():
        torch.testing.assert_close(value, complete[key], rtol=1e-3, atol=1e-4)


def test_other_coordinates_train_otherwise(configure):
    runs = [configure(inputs, projection__inputs=inputs) for inputs in ("raw", *INPUT_MAPS, "discriminants")]
    for config in runs:
        run(config)
    weights = [tensors_of(config)["weight"] for config in runs]
    assert not any(
        torch.equal(one, other) for one, other in zip(weights, [*weights[1:], weights[0]], strict=True)
    )


def test_coordinates_need_cached_features(configure):
    config = configure(cached=False, projection__inputs="whitened")
    sentence = "'projection.inputs' whitened takes its statistics from cached features"
    with pytest.raises(ConfigError, match=sentence):
        run(config)
    report, is_stopped = dry_run("config.yaml", config)
    assert is_stopped
    assert sentence in " ".join(report.split())


def test_a_shared_folder_gives_the_same_projector_back(configure, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)  # where the vision encoder's file is
    config = configure(projection__inputs="whitened", qformer__weights=None, **WAYS["mlp"])
    run(config)
    out = tmp_path / "shared"
    assert share.main(["--checkpoint", config.output_dir, "--out", str(out), "--include", "vision"]) == 0
    model = from_pretrained(out, language_model=config.language.model)
    assert_equal(model.projection.state_dict(), tensors_of(config))
    card = (out / "README.md").read_text()
    assert "two linear layers, 32 to 32" in card
    assert "| vectors a picture | 5, of 1 crop(s) | |" in card
    assert "| projector | mlp on 2 x 2 patches (grid) | |" in card


def test_a_checkpoint_of_another_projector_is_refused_in_one_sentence(configure, monkeypatch):
    mlp, linear, qformer = (configure(way, **WAYS[way]) for way in ("mlp", "linear", "qformer"))
    run(mlp)
    run(qformer)
    monkeypatch.setattr(load, "build_encoder", None)  # refused before anything large is read
    for config, other, was, here in (
        (linear, mlp, r"mlp \(5 vectors of 32 a picture\)", r"linear \(5 vectors of 32 a picture\)"),
        (qformer, mlp, "mlp", r"qformer \(4 vectors of 32 a picture\)"),
        (mlp, qformer, "qformer", "mlp"),
    ):
        sentence = rf"was trained with projector {was}.*, and this run has projector {here}.*; set projector, pooling"
        with pytest.raises(CheckpointError, match=sentence):
            load_model(config, other.output_dir)
        config.initial_checkpoint = other.output_dir
        report, is_stopped = dry_run("config.yaml", config)
        assert is_stopped
        assert "MISSING  starts from" in report
        config.initial_checkpoint = None
    mlp.projector = "linear"
    with pytest.raises(RunDirError, match="projector differ"):
        run(mlp, resume=True)


def test_minigpt4_s_file_belongs_to_the_qformer(configure, tmp_path):
    linear = configure(**WAYS["linear"])
    run(linear)
    with pytest.raises(minigpt4.ExportError, match="projector linear, and MiniGPT-4's layout is one layer"):
        minigpt4.export(tmp_path / "out.pth", *checkpoint.load(linear.output_dir))
    minigpt4.write(tmp_path / "theirs.pth", tensors_of(linear), {})
    with pytest.raises(
        WeightsMismatch, match="layer on Q-Former queries, and this run has projector: linear"
    ):
        load_model(linear, tmp_path / "theirs.pth")


def test_the_dry_run_shows_tokens_a_picture(configure):
    report, _ = dry_run("config.yaml", configure(**WAYS["crops"]))
    report = " ".join(report.split())
    assert (
        "linear: 1 linear layer on 1 x 1 patches (grid) and the class token of 5 crops; 10 tokens of the"
        in report
    )
    assert "<10 image vectors>" in report
    assert "frozen: vision_encoder, language_model" in report


def test_the_projection_may_be_frozen_beside_lora(configure, capsys):
    config = configure(freeze=["vision_encoder", "qformer", "language_model", "projection"], lora__rank=2)
    before = prepare(config, torch.device("cpu")).model.projection.state_dict()
    run(config)
    assert_equal(tensors_of(config), before)
    assert "trained: lora" in capsys.readouterr().out
    assert {n for n, part in card_of(config)["parts"].items() if part["trained"]} == {"lora"}
    config.lora.rank = 0
    with pytest.raises(ConfigError, match="'freeze' names projection, so there is nothing to train"):
        check_values(config, "config.yaml")


# ---- the alignment before step 1


def test_step1_starts_from_the_alignment(configure, folder, tmp_path):
    """Captions without a question, then concepts from that projection; the card names the parent and what it saw."""
    captioned = write_manifest(
        tmp_path / "captions.jsonl", 6, first=50, sha256="cd" * 32, caption="A red face."
    )
    align = configure(
        "align", step="align", data__train=[captioned], prompt__bare=True, prompt__use_caption=True,
        prompt__use_concepts=False, prompt__use_disease=False, prompt__use_note=False,
    )  # fmt: skip
    report, is_stopped = dry_run("align.yaml", align)
    assert not is_stopped
    assert "<4 image vectors>>>A red face.\n<<" in report
    assert "what the vectors mean" not in report
    run(align)
    complete = tensors_of(align)
    without_later(align, 1)
    run(align, resume=True)
    assert_equal(tensors_of(align), complete)
    assert card_of(align)["step"] == "align"

    step1 = configure("step1")
    report, _ = dry_run("step1.yaml", step1)
    assert "has to learn what the vectors mean at all" in " ".join(report.split())
    step1.initial_checkpoint = align.output_dir
    report, is_stopped = dry_run("step1.yaml", step1)
    assert not is_stopped
    assert "(align, iteration 4)" in report
    prepared = prepare(step1, torch.device("cpu"))
    assert_equal(prepared.model.projection.state_dict(), complete)
    run(step1)
    assert card_of(step1)["parent"]["step"] == "align"
    seen = checkpoint.load_seen(step1.output_dir, card_of(step1))
    assert len(seen["sha256"]) == 1 + 6  # of the captions' pictures, and of step 1's

    cases = write_manifest(tmp_path / "cases.jsonl", 2, first=50, sha256="cd" * 32)
    align.data.evaluation = [cases]
    with pytest.raises(OverlapError):
        prepare(align, torch.device("cpu"))


def test_captions_are_missing(configure):
    config = configure(step="align", prompt__use_caption=True, prompt__use_concepts=False,
                       prompt__use_disease=False, prompt__use_note=False)  # fmt: skip
    with pytest.raises(RecordError, match="none of the 6 records has what this step teaches"):
        run(config)
