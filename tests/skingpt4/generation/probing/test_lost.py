"""Where a label is lost: features of each stage, probes of planted labels, and the stage that loses most."""

import numpy as np
import pytest
import torch

from skingpt4.generation.probing import lost
from skingpt4.generation.probing.lost import Labelled, Lost, label_of, measure
from skingpt4.generation.probing.probes import Accuracy
from skingpt4.generation.probing.stages import (
    STAGES,
    StageError,
    answer_prompt,
    chosen_stages,
    needs_model,
    pool_tokens,
    stage_features,
)
from skingpt4.model.prompts import IMAGE_TOKEN
from skingpt4.records.manifest import read_manifest
from skingpt4.records.record import Record
from tests.support.tiny import NUM_QUERIES, QUERY_WIDTH, make_encoder, make_model, tiny_config, write_manifest


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("lost")


@pytest.fixture(scope="module")
def model(folder):
    return make_model(folder, encoder=make_encoder())


@pytest.fixture(scope="module")
def config(folder):
    return tiny_config(folder)


@pytest.fixture(scope="module")
def records(folder):
    return read_manifest(write_manifest(folder / "eleven.jsonl", 11))


def test_tokens_are_pooled_on_their_grid():
    tokens = torch.arange(65.0)[None, :, None].expand(2, 65, 3)  # a class token, then 8 x 8 patches
    pooled = pool_tokens(tokens, 1)
    assert pooled.shape == (2, 17, 3)
    assert pooled[0, :3, 0].tolist() == [0, (1 + 2 + 9 + 10) / 4, (3 + 4 + 11 + 12) / 4]
    assert pool_tokens(tokens[:, :4], 1).shape == (2, 2, 3)  # three patches are on no square grid


def test_the_features_of_each_stage_are_those_of_the_network(model, config, records):
    counts = []
    features = stage_features(model.encoder, config, records, STAGES, model, counts.append)
    assert counts == [8, 3]
    width = model.projection.out_features
    assert {stage: f.shape for stage, f in features.items()} == {
        "tokens": (11, 17 * 32), "queries": (11, NUM_QUERIES * QUERY_WIDTH), "projection": (11, NUM_QUERIES * width),
        "language_model": (11, width),
    }  # fmt: skip
    queries = torch.from_numpy(features["queries"][9:10]).view(1, NUM_QUERIES, QUERY_WIDTH)
    with torch.no_grad():
        projected = model.projection(queries).flatten().numpy()
        ids = torch.tensor([answer_prompt(model, config)])
        state = model.language_model.hidden_states(model.embed(ids, queries))[0, -1].numpy()
    np.testing.assert_allclose(features["projection"][9], projected, atol=1e-5)
    np.testing.assert_allclose(features["language_model"][9], state, atol=1e-4)
    alone = stage_features(model.encoder, config, records, ("tokens",))
    np.testing.assert_array_equal(alone["tokens"], features["tokens"])


def test_the_answer_is_begun_up_to_the_disease(model, folder):
    with_disease = answer_prompt(model, tiny_config(folder))
    without = answer_prompt(model, tiny_config(folder, prompt__use_disease=False))
    assert with_disease[: len(without)] == without
    assert with_disease.count(IMAGE_TOKEN) == NUM_QUERIES
    text = model.tokenizer.decode(with_disease[len(without) :])
    assert text.strip().startswith("This could be a skin disease image of")


def test_a_label_that_the_pictures_show_is_read_at_every_stage(model, config, folder):
    def of_two(name, first):
        labels = ("acne_and_rosacea", "herpes")
        halves = [
            write_manifest(folder / f"{name}{n}.jsonl", 8, first=first + n, **{"class": label})
            for n, label in enumerate(labels)
        ]
        records = [record for half in halves for record in read_manifest(half)]
        return Labelled.of(records, "class", 100, name)

    same = of_two("shown", 300)
    result = measure(model.encoder, config, same, same, model=model)
    assert list(result.stages) == list(STAGES)
    assert all(accuracy.n == 16 for accuracy in result.stages.values())
    assert result.chance == 0.5
    assert result.to_dict()["stages"]["tokens"]["n"] == 16


def test_the_worst_stage():
    result = Lost({"tokens": Accuracy(9, 10), "queries": Accuracy(8, 10), "projection": Accuracy(8, 10),
                   "language_model": Accuracy(2, 10)}, 0.1)  # fmt: skip
    assert result.worst == ("projection", "language_model")
    assert Lost({"tokens": Accuracy(3, 10), "queries": Accuracy(4, 10)}, 0.1).worst is None
    assert str(Accuracy(8, 10)) == "80.0 % (49 to 94, n = 10)"


def test_labels_are_chosen_evenly_and_unknown_ones_left_out():
    records = [Record("x.png", class_name="herpes" if n % 2 else None, case_id=str(n)) for n in range(40)]
    chosen = Labelled.of(records, "class", 5, "m.jsonl")
    assert len(chosen.labels) == 5
    parts = [int(str(r.case_id)) // 8 for r in chosen.records]
    assert parts == [0, 1, 2, 3, 4], "one of each fifth of the 20 known ones"
    assert chosen.groups[0] == f"case_id {chosen.records[0].case_id}"
    assert Labelled.of(records, "case_id", 3, "m.jsonl").groups[0] == "row 0"
    assert label_of(Record("x.png", fitzpatrick=3), "fitzpatrick") == "3"
    with pytest.raises(StageError, match=r"m\.jsonl: no record has a disease"):
        Labelled.of(records, "disease", 5, "m.jsonl")
    with pytest.raises(StageError, match="--label colour"):
        Labelled.of(records, "colour", 5, "m.jsonl")
    assert "class" in lost.LABELS


def test_stages_by_name():
    assert chosen_stages(["all"]) == STAGES
    assert chosen_stages(["queries", "tokens"]) == ("tokens", "queries")
    assert not needs_model(("tokens", "queries"))
    assert needs_model(("language_model",))
    with pytest.raises(StageError, match="--stage words"):
        chosen_stages(["words"])
