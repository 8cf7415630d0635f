"""Answers of made-up models with known properties, as `eval.asking.answers.case_lines` gives them."""

import numpy as np

from skingpt4.taxonomy.taxonomy import CLASSES, CONCEPTS


def simulate(num_cases=150, accuracy=0.6, seed=0, text_silent=0.2, skin_accuracy=None):
    """Lines whose likelihood is right with `accuracy`; the text is silent with `text_silent`, else says the same.

    Ten concepts are in the labels with 0.3; each is named with 0.8 where it is there, with 0.1 where not; log-odds
    are normal, 1.5 higher where it is there (AUROC 0.8556). `skin_accuracy` is (light, middle, dark).
    """
    rng = np.random.default_rng(seed)
    lines = []
    for number in range(num_cases):
        true = CLASSES[number % len(CLASSES)]
        skin = int(rng.integers(1, 7))
        right = rng.random() < (skin_accuracy[(skin - 1) // 2] if skin_accuracy else accuracy)
        best = true if right else str(rng.choice([name for name in CLASSES if name != true]))
        scores = dict(zip(CLASSES, rng.normal(-6, 1, len(CLASSES)).tolist(), strict=True))
        scores[best] = max(scores.values()) + 1
        there = [name for name in CONCEPTS[:10] if rng.random() < 0.3]
        named = [name for name in CONCEPTS[:10] if rng.random() < (0.8 if name in there else 0.1)]
        silent = rng.random() < text_silent
        odds = {name: float(rng.normal(1.5 * (name in there))) for name in CONCEPTS[:10]}
        lines.append(
            {
                "arm": "two_step",
                "case_id": f"case-{number}",
                "class": true,
                "class_scores": scores,
                "predicted_class": best,
                "text_class": None if silent else best,
                "text_outcome": "unknown" if silent else "asserted",
                "concepts": there,
                "predicted_concepts": named,
                "concept_scores": odds,
                "fitzpatrick": skin,
            }
        )
    return lines


def covers(figure, true):
    """Whether a figure's interval holds a value, and says how many cases it rests on."""
    assert figure["n"] > 0
    return figure["low"] <= true <= figure["high"]
