"""Opens a consultation that was saved as JSON: it can be read and exported again, but not asked about.

The model of today may be another one, and the pictures in a file are reduced copies, so a further answer would not
belong to the answers before it.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import gradio as gr
from PIL import Image

from skingpt4.chat.checks.alarm import AlarmReading
from skingpt4.chat.differential import ClassProbability, ConceptProbability, Differential, DiseaseProbability
from skingpt4.chat.exporting import fhir, letter
from skingpt4.chat.exporting.record import ConsultationError, from_json
from skingpt4.chat.exporting.sections import sections
from skingpt4.chat.texts import TextError, Texts
from skingpt4.server import uploads
from skingpt4.server.decoding.turns import decoded, num_pixels
from skingpt4.server.gradio_app import note
from skingpt4.server.page import markup
from skingpt4.server.page.failures import PageError, failure
from skingpt4.server.page.part import Page
from skingpt4.server.page.state import MAX_IMAGES, CaseImage, PageState, Update
from skingpt4.server.page.tools import Tools

MAX_BYTES = 32 * 2**20  # six pictures of MAX_SIDE take 4


def opened_state(data: bytes, tools: Tools, state: PageState, texts: Texts) -> PageState:
    """The page's state for a saved consultation.

    Args:
        data: the file.
        tools: of the page.
        state: the one that it takes the place of.
        texts: in which the page shows it.

    Raises:
        ConsultationError: it is no consultation, is damaged, or holds what this software does not write.
    """
    if len(data) > MAX_BYTES:
        raise ConsultationError(f"the file has more than {MAX_BYTES} bytes")
    try:
        record = from_json(data.decode("utf-8"), "the file", num_pixels, _opened)
        if len(record.pictures) > MAX_IMAGES:
            raise ConsultationError(f"the file holds more than {MAX_IMAGES} pictures")
        images = [
            CaseImage(shown, score=(shown.quality or {}).get("score"), sent=True) for shown in record.pictures
        ]
        ranked = _differential(record.differential)
        result = PageState(
            record, tools.new_session(), state.user, state.write_log, images, differential=ranked
        )
        # What the page or an export cannot show fails here, where nothing has been forgotten yet.
        markup.gallery(result, texts)
        markup.differential(result, texts)
        sections(record)
        fhir.bundle(record)
        list(letter.lines(record))
    except (TypeError, ValueError, LookupError, AttributeError, OverflowError, TextError) as error:
        raise ConsultationError(
            f"the file holds a value that this software does not write ({type(error).__name__})"
        ) from None
    result.is_opened = True
    return result


def _opened(data: bytes) -> Image.Image:
    with decoded(data) as (image, _):
        return image.copy()


def _differential(saved: dict[str, Any] | None) -> Differential | None:
    if not saved or "ranked" not in saved:
        return None
    known = {f.name for f in fields(Differential)}
    values = {name: value for name, value in saved.items() if name in known}
    for name, kind in (
        ("ranked", ClassProbability), ("concepts", ConceptProbability), ("diseases", DiseaseProbability),
    ):  # fmt: skip
        values[name] = tuple(kind(**row) for row in values.get(name, ()))
    values["alarms"] = tuple(map(AlarmReading.from_dict, values.get("alarms", ())))
    for name in ("red_flags", "next_steps"):
        values[name] = tuple(map(str, values.get(name, ())))
    return Differential(**values)


class OpenButton:
    """The button that opens a saved consultation."""

    def __init__(self, texts: Texts) -> None:
        """Lay it out where Gradio now stands."""
        self.texts = texts
        self.button = gr.UploadButton(
            texts["export.open"], file_types=[".json"], size="sm", min_width=150, elem_id="open"
        )

    def connect(self, page: Page) -> None:
        """Let it replace the page's case."""
        changed = [page.state, page.save_note, *page.updated]

        def replace(
            state: PageState | None, upload: dict[str, Any] | None, request: gr.Request
        ) -> dict[Any, Any]:
            own = uploads.vouched(upload, request)
            fresh, said, update = self.open(page.tools, state, upload if own else None)
            return {page.state: fresh, page.save_note: said, **page.changes(fresh, update)}

        self.button.upload(
            replace, [page.state, self.button], changed, preprocess=False, show_progress="hidden",
            api_visibility="private",
        )  # fmt: skip

    def open(
        self, tools: Tools, state: PageState | None, upload: dict[str, Any] | None
    ) -> tuple[PageState | None, str, Update]:
        """The state that the page has afterwards, the note about it, and what it shows.

        The file is read and deleted at once. A case that is there is forgotten only where the file can be opened.
        """
        try:
            data = uploads.take(upload["path"], read=state is not None) if upload else None
            if state is None or state.ended:
                raise PageError(self.texts["errors.not_accepted"])
            if state.answering:
                raise PageError(self.texts["errors.busy"])
            if data is None:
                raise PageError(self.texts["errors.file_missing"])
            fresh = opened_state(data, tools, state, self.texts)
        except Exception as error:
            return state, failure(error, self.texts), Update()
        state.forget()
        fresh.log("consultation_opened")
        same = fresh.record.model.get("sha256") == tools.model.get("sha256")
        keys = ["export.opened"] + ([] if same else ["export.opened_other_model"])
        said = note(" ".join(self.texts[key] for key in keys))
        shown = Update(
            "", fresh.messages(), busy=False, question="", full=False, images=True, differential=True
        )
        return fresh, said, shown
