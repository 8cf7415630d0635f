import pytest

from eval.measures.by_task import reference_texts
from eval.measures.by_task.reference_texts import INSTALL, text_overlap


def line(answer, references, cluster=0):
    return {"answer": answer, "references": references, "cluster": cluster}


def test_bleu_of_three_words_by_hand():
    pytest.importorskip("sacrebleu")
    # Words 2 of 3, pairs 1 of 2, the triple 0 of 1, which sacrebleu smooths to 1/2; as long as the reference. The
    # third root of 2/3 * 1/2 * 1/2.
    figures = text_overlap([line("a red plaque", ["a red papule"])])
    assert figures["bleu"]["value"] == pytest.approx((1 / 6) ** (1 / 3), abs=1e-6)
    assert "nrefs" in figures["bleu"]["signature"]


def test_the_nearest_of_several_references_counts_and_cases_are_averaged():
    pytest.importorskip("sacrebleu")
    lines = [
        line("eczema of the hand today", ["psoriasis of the nail", "eczema of the hand today"], 0),
        line("xyz", ["qqq www"], 1),
    ]
    figures = text_overlap(lines)
    assert (figures["num_cases"], figures["num_references"]) == (2, 3)
    assert figures["chrf"]["value"] == pytest.approx(0.5)
    assert (figures["chrf"]["low"], figures["chrf"]["high"]) == (0.0, 1.0)


def test_without_the_library_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setattr(reference_texts, "find_spec", lambda name: None)
    figures = text_overlap([line("a", ["b"])])
    assert figures == {"num_cases": 1, "num_references": 1, "missing": INSTALL}


def test_cases_without_answer_or_reference_take_no_part():
    assert text_overlap([line(None, ["a"]), line("a", [])]) == {}
