"""Responses of a tiny language model: derivatives of its log-probabilities, and an inverse that undoes them."""

import pytest
import torch

from skingpt4.model.build import build
from skingpt4.records.manifest import read_manifest
from skingpt4.training.start.labels import labels_of
from skingpt4.training.start.response import DAMPING, Responses, inverse
from tests.support.tiny import tiny_config, write_manifest


@pytest.fixture
def measured(tmp_path):
    manifest = write_manifest(tmp_path / "train.jsonl", count=12)
    config = tiny_config(tmp_path, data__train=[manifest], optim__batch_size=4)
    model, records = build(config, torch.device("cpu")), read_manifest(manifest)
    vectors = torch.randn(12, config.qformer.num_query_tokens, config.qformer.width)
    return Responses(
        model, lambda row: vectors[row], records, labels_of(records, config.prompt), config
    ), vectors


def test_a_response_is_the_change_of_a_labels_log_probability(measured):
    responses, vectors = measured
    projection = responses.model.projection
    found = responses.of_labels(vectors.mean(0))
    assert found.shape == (8, projection.out_features)
    assert responses.model.projection is projection
    assert projection.weight.grad is None
    record, question = responses._answers()[-1]
    shown = responses._collate([{"encoded": responses._texts(record, question), "queries": vectors.mean(0)}])[
        0
    ]
    step = torch.nn.functional.normalize(torch.randn(projection.out_features), dim=0) * 1e-2
    losses = []
    for sign in (1, -1):
        with torch.no_grad():
            projection.bias += sign * step
            losses.append(responses.model(**shown)[0])
            projection.bias -= sign * step
    assert float(losses[1] - losses[0]) / 2 == pytest.approx(float(found[-1] @ step), rel=1e-2)


def test_words_are_learned_and_the_shifts_are_gone(measured):
    responses, _ = measured
    constant = responses.learn_words(5)
    assert constant.abs().max() > 0
    assert not responses.shifted.shifts.any()


def test_conversations_do_not_dilute_the_words(tmp_path):
    """With the settings of the default's step 2, most of their tokens would belong to answers that name no label."""
    manifest = write_manifest(tmp_path / "train.jsonl", count=12)
    later = {"What is the cause?": "A doctor should explain the cause."}
    config = tiny_config(
        tmp_path, data__train=[manifest], prompt__other_questions=later, prompt__other_share=1.0
    )
    model, records = build(config, torch.device("cpu")), read_manifest(manifest)
    vectors = torch.randn(12, config.qformer.num_query_tokens, config.qformer.width)
    words = Responses(
        model, lambda row: vectors[row], records, labels_of(records, config.prompt), config
    )._samples
    ids = [words[number]["encoded"].input_ids for number in range(12)]
    texts = [model.tokenizer.decode([one for one in of if one >= 0]) for of in ids]
    assert not [text for text in texts if "cause" in text]


def test_the_inverse_prefers_each_label_over_the_others_of_its_kind():
    generator = torch.Generator().manual_seed(0)
    responses, kinds = torch.randn(7, 40, generator=generator), (slice(0, 3), slice(3, 7))
    back = responses.double() @ inverse(responses, kinds)
    for kind in kinds:
        own = back[kind, kind]
        own = own - own.mean(0)
        expected = torch.eye(len(own)) - 1 / len(own)
        assert torch.allclose(own, expected.double(), atol=20 * DAMPING**2)
