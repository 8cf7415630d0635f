"""Step dpo: the loss of the paper and its gradient; planted preferences are learned, shuffled ones are not."""

import json
import math

import pytest
import torch
from torch.nn import functional as F

from skingpt4.checkpoints.load import load_model
from skingpt4.config.schema import ConfigError
from skingpt4.model import loss as losses
from skingpt4.model.loss import answer_margins, preference_loss
from skingpt4.model.prompts import IGNORED
from skingpt4.records.manifest import read_manifest
from skingpt4.records.record import RecordError
from skingpt4.training.batches import num_supervised, pad_right
from skingpt4.training.features import cached_images, cached_queries
from skingpt4.training.loop import run
from skingpt4.training.preferences.pairs import Pairs, margins_of
from skingpt4.training.samples import SampleEncoder
from tests.support.tiny import conversation, make_model, make_picture, make_queries, tiny_config

QUESTION = "What is wrong with my skin?"
DISEASES = ("psoriasis", "acne", "melanoma", "eczema")


def write_pairs(path, count, first=0, swapped=lambda number: False):
    """Pictures with two answers; the planted preference is for those that send to a doctor."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(count):
        make_picture(first + number).save(path.parent / f"{path.stem}_{number}.png")
        disease = DISEASES[number % 4]
        texts = [f"This could be {disease}. See a doctor.", f"This could be {disease}. Do nothing."]
        if swapped(number):
            texts.reverse()
        turns, rejected = ([{"question": QUESTION, "answer": text}] for text in texts)
        lines.append(
            json.dumps({"image": f"{path.stem}_{number}.png", "turns": turns, "rejected": rejected}) + "\n"
        )
    path.write_text("".join(lines))
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("dpo")


@pytest.fixture(scope="module")
def parent(folder):
    return run(tiny_config(folder, output_dir=str(folder / "parent")))


def dpo_config(folder, parent, tmp_path, train, **changes):
    return tiny_config(
        folder,
        **{
            "step": "dpo", "initial_checkpoint": str(parent), "output_dir": str(tmp_path / "run"),
            "data__train": [train], "data__augment": False, "data__feature_cache": str(tmp_path / "features"),
            "optim__max_epoch": 1, "optim__iters_per_epoch": 12, "optim__batch_size": 4, "optim__init_lr": 3e-2,
            **changes,
        },
    )  # fmt: skip


def pair_batch(model):
    rows = [("Acne.", "Eczema, perhaps."), ("Psoriasis, see a doctor.", "No.")]
    samples = [
        {"encoded": conversation(model, QUESTION, good), "rejected": conversation(model, QUESTION, bad),
         "queries": queries, "reference": reference, "beta": 0.5}
        for (good, bad), queries, reference in zip(rows, make_queries(2), (0.7, -1.2), strict=True)
    ]  # fmt: skip
    return pad_right(samples)


def by_hand(model, batch):
    """The formula with all logits at once."""
    embeds = model.embed(batch["input_ids"], batch["queries"])
    logits = model.language_model(inputs_embeds=embeds, attention_mask=batch["attention_mask"]).logits
    logs = logits[:, :-1].float().log_softmax(-1)
    targets = batch["labels"][:, 1:]
    of_tokens = logs.gather(-1, targets.clamp(min=0)[..., None])[..., 0] * (targets != IGNORED)
    preferred, other = of_tokens.sum(1).chunk(2)
    return -F.logsigmoid(batch["beta"] * ((preferred - other) - batch["reference"])).sum()


@pytest.mark.parametrize("family", ["llama", "gemma2"])  # gemma2 changes its logits behind the head
@pytest.mark.parametrize("chunk", [1, 2**25])
def test_loss_and_gradient_are_the_papers(family, chunk, folder, monkeypatch):
    monkeypatch.setattr(losses, "LOSS_CHUNK_BYTES", chunk)
    model = make_model(folder, family)
    batch = pair_batch(model)
    assert num_supervised(batch) == 2
    loss, count = model(**batch)
    loss.backward()
    gradient = model.projection.weight.grad.clone()
    model.zero_grad()
    expected = by_hand(model, batch)
    expected.backward()
    assert count == 2
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(gradient, model.projection.weight.grad, rtol=1e-3, atol=1e-6)


def test_at_the_reference_the_loss_is_log_2(folder):
    model = make_model(folder)
    batch = pair_batch(model)
    embeds = model.embed(batch["input_ids"], batch["queries"])
    own = answer_margins(model.language_model, embeds, batch["labels"], batch["attention_mask"])
    loss, count = preference_loss(
        model.language_model, embeds, batch["labels"], batch["attention_mask"], own.detach(), 0.1
    )
    assert loss.item() / count == pytest.approx(math.log(2), rel=1e-5)


def shifts(config, before, after, held_out):
    """How far training moved the margins of held-out pairs."""
    records = read_manifest(held_out)
    store = cached_queries(held_out, records, config, config.data.feature_cache)
    moved = []
    for checkpoint in (before, after):
        model = load_model(config, checkpoint)
        pairs = Pairs(records, SampleEncoder.from_config(config, model.tokenizer), cached_images(store))
        moved.append(margins_of(model, pairs))
    return moved[1] - moved[0]


def test_planted_preferences_are_learned_and_shuffled_ones_are_not(folder, parent, tmp_path):
    held_out = write_pairs(tmp_path / "held_out" / "pairs.jsonl", 8, first=100)
    moved = {}
    for name, swapped in (("planted", lambda n: False), ("shuffled", lambda n: n // 4 % 2 == 1)):
        train = write_pairs(tmp_path / name / "pairs.jsonl", 24, swapped=swapped)
        config = dpo_config(folder, parent, tmp_path / name, train, data__validation=[held_out])
        moved[name] = shifts(config, parent, run(config), held_out)
    assert (moved["planted"] > 0).all()
    assert moved["planted"].mean() > 1.0  # nats
    assert moved["shuffled"].mean().abs() < 0.3 * moved["planted"].mean()
    lines = [
        json.loads(line) for line in (tmp_path / "planted" / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert lines[0]["loss"] == pytest.approx(math.log(2), rel=1e-3)  # the first batch, before any change
    (validation,) = [line for line in lines if line["kind"] == "validation"]
    assert validation["loss"] < math.log(2) < 1


def test_the_reference_is_computed_once_and_saved(folder, parent, tmp_path, monkeypatch):
    train = write_pairs(tmp_path / "pairs.jsonl", 6)
    config = dpo_config(folder, parent, tmp_path, train, optim__iters_per_epoch=2)
    run(config)
    (saved,) = (tmp_path / "features" / "references").iterdir()
    assert saved.suffix == ".safetensors"
    monkeypatch.setattr(
        "skingpt4.training.preferences.pairs.margins_of", lambda *a: pytest.fail("computed again")
    )
    longer = dpo_config(folder, parent, tmp_path, train, optim__iters_per_epoch=2, optim__max_epoch=2)
    run(longer, resume=True)
    saved.write_bytes(b"damaged")
    monkeypatch.undo()
    run(dpo_config(folder, parent, tmp_path, train, output_dir=str(tmp_path / "again")))
    assert len(saved.read_bytes()) > 7


def test_records_without_a_worse_answer_are_refused_by_name(folder, parent, tmp_path):
    path = tmp_path / "pairs.jsonl"
    write_pairs(path, 3)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[1]["rejected"][0]["question"] = "Another question?"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(RecordError, match=r"record 2 of 3 \(pairs_1.png\) is not a pair.*eval.preferences"):
        run(dpo_config(folder, parent, tmp_path, str(path)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"initial_checkpoint": None}, "step dpo goes on from a trained model"),
        ({"data__feature_cache": None}, "set 'data.feature_cache'"),
        ({"data__sampling": "inverse"}, "leave data.sampling at the default"),
    ],
)
def test_what_does_not_go_with_it_is_one_sentence(changes, message, folder, parent, tmp_path):
    with pytest.raises(ConfigError, match=message):
        run(dpo_config(folder, parent, tmp_path, write_pairs(tmp_path / "p.jsonl", 2), **changes))
