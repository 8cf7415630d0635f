"""Ratings and a run made up, with raters of known bias and agreement: what the report must find again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eval.asking.answers import Answer, Key, to_line
from eval.rating.ratings import ITEMS, Rating
from skingpt4.generation.questions import CLINICAL_PROMPTS
from skingpt4.taxonomy.taxonomy import CLASSES

CUTS = (-1.6, -0.9, -0.2, 0.8)  # of the latent opinion, between the five points of the scale
PROBES = ("Which concepts?", "What is wrong with my skin?")


@dataclass(frozen=True)
class Panel:
    """Raters who form an opinion: item + arm + case + their own bias + noise, cut into five points."""

    biases: tuple[float, ...] = (0.0, 0.5, -0.4)
    items: tuple[float, ...] = (0.6, 0.8, 0.5, 0.9, 0.3, 1.6, 0.2)
    arms: tuple[tuple[str, float], ...] = (("two_step", 0.0), ("untrained", -0.7))
    case_sd: float = 1.0
    noise_sd: float = 0.6

    def scores(self, num_cases: int, seed: int) -> dict[tuple[str, str], np.ndarray]:
        """(arm, item) -> scores (cases, raters), 1 to 5."""
        rng = np.random.default_rng(seed)
        case = rng.normal(0, self.case_sd, (num_cases, 1))
        found = {}
        for arm, shift in self.arms:
            for item, level in zip(ITEMS, self.items, strict=True):
                noise = rng.normal(0, self.noise_sd, (num_cases, len(self.biases)))
                opinion = level + shift + case + np.array(self.biases) + noise
                found[arm, item] = 1.0 + np.searchsorted(CUTS, opinion)
        return found

    def ratings(self, cases: list[str], seed: int) -> list[Rating]:
        """One rating of every case, arm, rater and item; the time a rater takes is drawn too."""
        rng = np.random.default_rng(seed + 1)
        found = []
        for (arm, item), table in self.scores(len(cases), seed).items():
            for row, case in enumerate(cases):
                for column in range(len(self.biases)):
                    value = str(int(table[row, column]))
                    found.append(Rating(arm, case, f"r{column + 1}", item, value, "5"))
        for arm, _ in self.arms:
            for case in cases:
                for column in range(len(self.biases)):
                    seconds = f"{rng.lognormal(3.0, 0.5):.1f}"
                    found.append(Rating(arm, case, f"r{column + 1}", "own_diagnosis", "eczema", seconds))
                    found.append(
                        Rating(arm, case, f"r{column + 1}", "hallucination", str(int(rng.random() < 0.2)))
                    )
        return found


def write_run(
    folder: Path,
    images: list[str],
    arms: dict[str, float],
    repeats: int = 1,
    temperature: float = 0.0,
    cases_file: str | None = None,
    seed: int = 0,
    truth: list[str] | None = None,
) -> list[str]:
    """A run's folder as `eval.run` leaves it; `arms` says how often each is right. Returns the ids of the cases.

    An arm that does not know draws one of the 15 classes. `truth` holds the pictures' classes.
    """
    rng = np.random.default_rng(seed)
    (folder / "answers").mkdir(parents=True, exist_ok=True)
    ids = [f"case-{number + 1:04d}" for number in range(len(images))]
    truth = truth or [CLASSES[number % len(CLASSES)] for number in range(len(images))]
    cases = [
        {"id": name, "images": [image], "sha256": ["0" * 64], "class": true, "disease": true.replace("_", " "),
         "concepts": ["Papule", "Scale"], "fitzpatrick": number % 6 + 1, "source": "phantoms", "history": None,
         "reference": []}
        for number, (name, image, true) in enumerate(zip(ids, images, truth, strict=True))
    ]  # fmt: skip
    (folder / "cases.jsonl").write_text("".join(json.dumps(case) + "\n" for case in cases))
    for arm, right in arms.items():
        lines = []
        for name, true in zip(ids, truth, strict=True):
            for repeat in range(repeats):
                lines += _case(rng, arm, name, true, right, repeat)
        (folder / "answers" / f"{arm}.jsonl").write_text("".join(map(to_line, lines)), encoding="utf-8")
        meta = {
            "arm": arm, "checkpoint": f"runs/{arm}.safetensors", "checkpoint_sha256": "ab" * 32, "step": 2,
            "iteration": 600, "cases_sha256": "cd" * 32, "encoder": {"name": "tiny"}, "template": "smollm2",
            "prompts": list(CLINICAL_PROMPTS), "probes": list(PROBES), "with_history": False,
            "disease_sentence": "This could be a skin disease image of {disease}.",
            "scored_diseases": [name.replace("_", " ") for name in CLASSES], "taxonomy": "1",
            "language_model": "smollm2-135m-instruct", "precision": "float32", "batch_size": 1, "seed": 0,
            "decoding": {"max_new_tokens": 48, "temperature": temperature, "seed": 0}, "num_cases": len(ids),
            "repeats": repeats, "perturbations": [], "num_processes": 1, "git_revision": "0123abc",
            "hardware": {"device": "x86_64", "threads": 2, "torch": "2.11", "transformers": "5.17"},
            "overlap_with_training": [], "overlap_not_compared": [], **({"cases": cases_file} if cases_file else {}),
        }  # fmt: skip
        (folder / "answers" / f"{arm}.meta.json").write_text(json.dumps(meta), encoding="utf-8")
    return ids


def _case(
    rng: np.random.Generator, arm: str, name: str, true: str, right: float, repeat: int
) -> list[Answer]:
    best = true if rng.random() < right else CLASSES[int(rng.integers(len(CLASSES)))]
    disease = best.replace("_", " ")
    lines = []
    for number, prompt in enumerate(CLINICAL_PROMPTS, 1):
        first = float(rng.uniform(0.1, 0.3))
        said = {
            "prompt": prompt, "answer": f"This could be a skin disease image of {disease}. " + "It itches. " * number,
            "num_tokens": 20, "seconds_to_first_token": first, "seconds": first + float(rng.gamma(4, 0.2)),
            "num_decoded_together": 1,
        }  # fmt: skip
        lines.append(Answer(arm, Key(name, repeat, None, "turn", number), said))
    said = {"num_tokens": 9, "seconds_to_first_token": 0.2, "seconds": 0.8}
    concepts = {
        "question": PROBES[0],
        "answer": "Papule, Scale",
        "predicted_concepts": ["Papule", "Scale"],
        **said,
    }
    text_class = best if rng.random() < 0.85 else None
    diagnosis = {
        "question": PROBES[1], "answer": f"This could be {disease}.", "text_class": text_class,
        "text_outcome": "asserted" if text_class else "unknown", **said,
    }  # fmt: skip
    lines += [
        Answer(arm, Key(name, repeat, None, "probe", number), said)
        for number, said in enumerate((concepts, diagnosis), 1)
    ]
    if repeat == 0:
        scores = {cls: (-1.0 if cls == best else -3.0) + float(rng.normal(0, 0.3)) for cls in CLASSES}
        lines.append(
            Answer(arm, Key(name, 0, None, "scores"), {"class_scores": scores, "concept_scores": None})
        )
    return lines
