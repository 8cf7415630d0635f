"""The diseases that a card names: counted in manifests, merged over steps, bounded, and what of them is shared."""

import json

from skingpt4.checkpoints import diseases
from skingpt4.checkpoints.card import problem
from skingpt4.checkpoints.diseases import card_values, of_card, shareable, taught_diseases
from skingpt4.config.schema import PromptConfig
from skingpt4.records.manifest import chain, read_manifest


def manifest(path, *rows):
    path.write_text("".join(json.dumps({"image": "a.png"} | row) + "\n" for row in rows))
    return read_manifest(path)


def test_diseases_are_counted_with_their_class(tmp_path):
    first = manifest(
        tmp_path / "a.jsonl",
        {"disease": "Tinea pedis", "class": "fungal_infections"},
        {"disease": "Tinea pedis"},
        {"disease": "Tinea pedis", "class": "dermatitis"},
        {"disease": "Tinea pedis", "class": "dermatitis"},
        {"disease": "psoriasis"},
        {"disease": None, "class": "herpes"},
    )
    second = manifest(tmp_path / "b.jsonl", {"disease": "psoriasis"}, {"disease": "unheard of"},
                      {"disease": "psoriasis", "turns": [{"question": "What?", "answer": "This."}]})  # fmt: skip
    prompt = PromptConfig(use_disease=True, use_turns=False)
    assert taught_diseases(chain([first, second]), prompt) == [
        {"disease": "Tinea pedis", "class": "dermatitis", "records": 4},
        {"disease": "psoriasis", "class": "psoriasis_and_lichen_planus", "records": 3},
        {"disease": "unheard of", "class": None, "records": 1},
    ]
    with_turns = taught_diseases(second, PromptConfig(use_disease=True))
    assert with_turns[0] == {"disease": "psoriasis", "class": "psoriasis_and_lichen_planus", "records": 1}
    assert taught_diseases(first, PromptConfig(use_disease=False)) == []


def test_steps_add_up_and_a_card_has_a_bound(monkeypatch):
    monkeypatch.setattr(diseases, "MAX_DISEASES", 2)
    step1 = card_values([{"disease": "a", "class": None, "records": 3}], {})
    assert step1 == {"diseases": [{"disease": "a", "class": None, "records": 3}], "num_diseases_left_out": 0}
    taught = [
        {"disease": name, "class": "herpes", "records": n} for name, n in (("b", 4), ("a", 2), ("c", 1))
    ]
    both = card_values(taught, step1)
    assert [(row["disease"], row["records"]) for row in both["diseases"]] == [("a", 5), ("b", 4)]
    assert both["num_diseases_left_out"] == 1
    assert card_values([], both)["num_diseases_left_out"] == 1
    assert problem({"tensors_sha256": "", **both}) is None
    assert problem({"tensors_sha256": "", "diseases": [{"disease": 3}]}).startswith("diseases")


def test_a_card_without_diseases_has_no_closed_set_of_its_own():
    assert of_card({}) is None
    assert of_card({"diseases": [], "num_diseases_left_out": 0}) is None
    assert of_card({"diseases": [{"disease": "a", "class": None, "records": 3}]}).diseases[0].name == "a"


def test_what_only_few_records_say_and_no_taxonomy_knows_is_not_shared():
    rows = [{"disease": name, "class": None, "records": n}
            for name, n in (("psoriasis", 1), ("psoriasis of John Doe", 4), ("local code 7", 5))]  # fmt: skip
    assert [row["disease"] for row in shareable(rows)] == ["psoriasis", "local code 7"]
