"""The optional history of a case on the page: its fields, and what they hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr
from gradio.components import Component

from skingpt4.chat import history
from skingpt4.chat.texts import Texts
from skingpt4.server.gradio_app import escape
from skingpt4.server.page import markup
from skingpt4.server.page.state import HistoryEntry


class HistoryForm:
    """The fields by their names in `history.from_fields`; their values are the words that the model reads."""

    def __init__(self, texts: Texts, trained: bool) -> None:
        """Lay the fields out where Gradio now stands.

        Args:
            texts: of the page's language.
            trained: whether the model was trained with histories; only then they are used by default.
        """
        which = "trained" if trained else "not_trained"
        gr.HTML(f'<p class="hint">{escape(texts[f"history.{which}"])}</p>')
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
        self.fields: dict[str, Component] = {
            "site": site, "duration": duration, "symptoms": symptoms, "age_band": age, "fitzpatrick": skin,
            "medication": medication,
        }  # fmt: skip
        self.use = gr.Checkbox(trained, label=texts["history.use"], elem_id="use-history")
        self.trained = trained
        self.components = {*self.fields.values(), self.use}

    def entry(self, values: Mapping[Component, Any]) -> HistoryEntry:
        """What the fields hold, out of the values of the page's components."""
        return HistoryEntry(
            {name: values[field] for name, field in self.fields.items()}, bool(values[self.use])
        )

    def blank(self) -> dict[Component, Any]:
        """The fields' values of a new case."""
        empty: dict[str, Any] = {"site": None, "symptoms": []}
        return {field: empty.get(name, "") for name, field in self.fields.items()} | {self.use: self.trained}


def _choices(texts: Texts, group: str, words: Sequence[str]) -> list[tuple[str, str]]:
    return [(markup.localised(texts, f"history.{group}", word, word), word) for word in words]
