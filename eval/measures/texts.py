"""Statistics of answers as texts, true or not: length, repetition, all alike, or beside the question."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.asking.answers import Answer, ArmAnswers
from eval.measures.intervals import (
    RESAMPLES,
    Interval,
    case_draws,
    percentile_interval,
    proportion,
    ratio_interval,
)
from skingpt4.generation.questions import CLINICAL_PROMPTS
from skingpt4.support.files import read_yaml
from skingpt4.taxonomy.free_text import classify, find_concepts
from skingpt4.taxonomy.mentions import sentences

ON_TOPIC = Path(__file__).with_name("on_topic.yaml")
_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """Words in small letters, without punctuation."""
    return _WORD.findall(text.casefold())


def distinct(text: str, n: int) -> float | None:
    """Share of a text's n-grams of words that differ from each other; None where it has none (Li et al. 2016)."""
    tokens = words(text)
    grams = list(zip(*(tokens[i:] for i in range(n)), strict=False))
    return len(set(grams)) / len(grams) if grams else None


def repeats_a_sentence(text: str) -> bool:
    """Does one sentence (of any words, punctuation and case aside) stand in it twice?"""
    each_sentence = [tuple(words(text[start:end])) for start, end in sentences(text)]
    counts = Counter(each for each in each_sentence if each)
    return bool(counts) and max(counts.values()) > 1


def median(values: Sequence[float], seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """Median with a bootstrap that draws cases."""
    ranked = np.sort(np.asarray(values, dtype=np.float64))
    order = np.argsort(np.asarray(values), kind="stable")
    drawn = np.cumsum(case_draws(len(ranked), resamples, seed)[:, order], axis=1)
    middle = (drawn >= len(ranked) / 2).argmax(axis=1)  # the lower median of each draw
    return percentile_interval(float(np.median(ranked)), ranked[middle], len(ranked))


def _about(answers: Sequence[Answer], limit: int | None) -> dict[str, Any]:
    """One question's answers, one a case."""
    texts = [answer.text for answer in answers]
    tokens, seconds = (
        [answer.fields[key] for answer in answers if answer.fields.get(key) is not None]
        for key in ("num_tokens", "seconds")
    )
    counts = Counter(texts)
    figures: dict[str, Any] = {
        "words": ratio_interval([len(words(text)) for text in texts]).to_dict(),
        "empty": proportion(sum(not text.strip() for text in texts), len(texts)).to_dict(),
        "repeats_a_sentence": proportion(sum(map(repeats_a_sentence, texts)), len(texts)).to_dict(),
        "same_as_another_case": proportion(sum(counts[text] > 1 for text in texts), len(texts)).to_dict(),
        "num_different_texts": len(counts),
    }
    for n in (1, 2):
        shares = [share for share in (distinct(text, n) for text in texts) if share is not None]
        if shares:
            figures[f"distinct_{n}"] = ratio_interval(shares).to_dict()
    if tokens:
        figures["tokens"] = ratio_interval(tokens).to_dict()
        if limit:
            figures["cut_by_limit"] = proportion(sum(t >= limit for t in tokens), len(tokens)).to_dict()
    if seconds:
        figures["seconds"] = median(seconds).to_dict()
    return figures


def text_statistics(arm: ArmAnswers) -> dict[str, Any]:
    """Of the first repeat on unchanged pictures, for every turn and probe.

    Returns:
        {"turn 1": {...}, ..., "probe 1": {...}}, each with the question and figures: `words` and `tokens` (means),
        `distinct_1`, `distinct_2` (mean share of an answer's own n-grams that differ), `empty`, `repeats_a_sentence`,
        `same_as_another_case` (shares of answers), `cut_by_limit` (as many tokens as were allowed), `seconds`
        (median of the time from an answer's submission to its end, others decoded beside it) and
        `num_different_texts`.
    """
    limit = arm.meta.get("decoding", {}).get("max_new_tokens")
    asked: dict[tuple[str, int], list[Answer]] = {}
    for kind in ("turn", "probe"):
        for answer in arm.of(kind):
            asked.setdefault((kind, answer.key.number), []).append(answer)
    return {
        f"{kind} {number}": {
            "question": answers[0].fields.get("prompt" if kind == "turn" else "question"),
            **_about(answers, limit),
        }
        for (kind, number), answers in sorted(
            asked.items(), key=lambda item: (item[0][0] != "turn", item[0][1])
        )
    }


def different_answers(arm: ArmAnswers) -> Interval | None:
    """Share of cases whose answers to the prompts all differ (punctuation and case aside); None where one was asked.

    Of the first repeat on unchanged pictures. A model that answers every question with the same sentence has 0.
    """
    of_case: dict[str, list[tuple[str, ...]]] = {}
    for answer in arm.of("turn"):
        of_case.setdefault(answer.key.case_id, []).append(tuple(words(answer.text)))
    asked = max(map(len, of_case.values()), default=0)
    complete = [answers for answers in of_case.values() if len(answers) == asked]
    if asked < 2:
        return None
    return proportion(sum(len(set(answers)) == asked for answers in complete), len(complete))


def is_on_topic(prompt: int, answer: str) -> bool:
    """Whether an answer is about clinical prompt 1 to 4.

    The first asks for a disease (any known name or word for a concept will do, ruled out or not), the second for
    features, the third for a cause and the fourth for a treatment. To say that one cannot tell, or to send to a
    doctor, is on topic for the last two.
    A low bar and no measure of truth, it catches a model that answers every question with the same sentence.
    """
    if prompt <= 2 and find_concepts(answer, stated=False):
        return True
    if prompt == 1:
        return bool(classify(answer).mentions)
    return _cues()[prompt].search(answer) is not None


def on_topic(arm: ArmAnswers) -> dict[str, Any]:
    """Shares of the answers to each clinical prompt that are on topic: {"turn 1": figure, ...}.

    Of the first repeat on unchanged pictures; other prompts are left out.
    """
    judged: dict[int, list[bool]] = {}
    for answer in arm.of("turn"):
        if answer.fields.get("prompt") in CLINICAL_PROMPTS:
            number = CLINICAL_PROMPTS.index(answer.fields["prompt"]) + 1
            judged.setdefault(number, []).append(is_on_topic(number, answer.text))
    return {f"turn {number}": proportion(sum(of), len(of)).to_dict() for number, of in sorted(judged.items())}


@functools.cache
def _cues() -> dict[int, re.Pattern[str]]:
    return {
        prompt: re.compile(r"\b(?:" + "|".join(patterns) + r")\b", re.IGNORECASE)
        for prompt, patterns in read_yaml(ON_TOPIC).items()
    }
