"""The data of a benchmark: drawn images, and answers of chosen lengths. They have no clinical meaning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data.phantoms.splits import render_phantom
from skingpt4.model.prompts import Template, answer_end

SHORTEST, LONGEST = 20, 160  # tokens of an answer, its end included; the spread of real notes


def answer_lengths(count: int, seed: int = 0) -> list[int]:
    """`count` lengths evenly over SHORTEST to LONGEST, in random order."""
    lengths = np.linspace(SHORTEST, LONGEST, count).round().astype(int)
    return np.random.default_rng(seed).permutation(lengths).tolist()


def answer_of(tokenizer: Any, template: Template | None, length: int, seed: int = 0) -> str:
    """A text of `length` tokens with the template's end, or a few less if no cut gives exactly as many."""
    end = answer_end(template, tokenizer)
    notes = range(12 * (1 + length // LONGEST))
    words = " ".join(render_phantom(seed, "benchmark", number, size=32).note for number in notes)
    if tokenizer(words, add_special_tokens=False)["input_ids"][:9].count(tokenizer.unk_token_id) > 4:
        rng = np.random.default_rng(seed)  # a random model's stand-in tokenizer does not know English
        words = " ".join(f"w{number}" for number in rng.integers(0, 1000, max(length, LONGEST)))
    ids = tokenizer(words, add_special_tokens=False)["input_ids"]
    for cut in range(length, 0, -1):
        text = tokenizer.decode(ids[:cut]).strip()
        if len(tokenizer(text + end, add_special_tokens=False)["input_ids"]) <= length:
            return text
    return text


def write_records(
    folder: Path, tokenizer: Any, template: Template | None, count: int, size: int = 224, seed: int = 0
) -> Path:
    """Write `count` drawn images with notes of spread lengths; returns the manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, length in enumerate(answer_lengths(count, seed)):
        phantom = render_phantom(seed, "benchmark", number, size=size)
        name = f"{number}.png"
        Image.fromarray(phantom.image).save(folder / name)
        note = answer_of(tokenizer, template, length, number)
        rows.append(json.dumps({"image": name, "note": note, "source": "generated"}) + "\n")
    path = folder / "manifest.jsonl"
    path.write_text("".join(rows), encoding="utf-8")
    return path


def drawn_image(number: int, split: str = "benchmark", seed: int = 0) -> Image.Image:
    """One drawn image."""
    return Image.fromarray(render_phantom(seed, split, number).image)
