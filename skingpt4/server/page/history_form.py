"""The optional history of a case on the page: its controls, and what they hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from skingpt4.chat import history
from skingpt4.chat.texts import Texts
from skingpt4.server.page import views
from skingpt4.server.page.visit import Visit


def controls(texts: Texts, trained: bool) -> list[Any]:
    """The fields, in the order that `take` expects them; the values are the words that the model reads."""
    which = "trained" if trained else "not_trained"
    gr.HTML(f'<p class="hint">{views.text(texts[f"history.{which}"])}</p>')
    with gr.Row():
        site = gr.Dropdown(
            _choices(texts, "sites", history.SITES), value=None, allow_custom_value=True, min_width=160,
            label=texts["history.site"], elem_id="site",
        )  # fmt: skip
        duration = gr.Textbox(
            label=texts["history.duration"], max_length=history.MAX_LENGTH, max_lines=1, min_width=160,
            placeholder=texts["history.duration_example"],
        )  # fmt: skip
    symptoms = gr.CheckboxGroup(
        _choices(texts, "symptoms_named", history.SYMPTOMS), label=texts["history.symptoms"]
    )
    with gr.Row():
        unsaid = [(texts["history.unsaid"], "")]
        bands = [(band, band) for band in history.AGE_BANDS]
        age = gr.Dropdown(unsaid + bands, value="", label=texts["history.age_band"], min_width=160)
        types = [(name, name) for name in history.SKIN_TYPES]
        skin = gr.Dropdown(unsaid + types, value="", label=texts["history.fitzpatrick"], min_width=160)
    medication = gr.Textbox(label=texts["history.medication"], max_length=history.MAX_LENGTH, max_lines=1)
    use = gr.Checkbox(trained, label=texts["history.use"], elem_id="use-history")
    return [site, duration, symptoms, age, skin, medication, use]


def _choices(texts: Texts, group: str, words: Sequence[str]) -> list[tuple[str, str]]:
    return [(views.named(texts, f"history.{group}", word, word), word) for word in words]


def empty(trained: bool) -> list[Any]:
    """The fields' values of a new case."""
    return [None, "", [], "", "", "", trained]


def take(visit: Visit | None, told: Sequence[Any], trained: bool) -> None:
    """Keep what the fields say in the case: always in its record, before the first question only if ticked.

    Raises:
        HistoryError: a field that cannot be used.
    """
    if visit is None or visit.ended:
        return
    *fields, use = told
    given = history.from_fields(*fields)
    visit.history = given if given and use else None
    shown = {"trained": trained, "read_by_the_model": bool(use)}
    visit.record.history = given.to_dict() | shown if given else None
