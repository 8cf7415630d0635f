"""A part of a picture as a picture of its own, beside the untouched original.

Three sliders place a frame: they work with the keyboard, a mouse and a finger. The part is cut from the reduced copy,
which is all that the page holds of a picture.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from skingpt4.chat.exporting.record import ShownPicture
from skingpt4.chat.texts import Texts
from skingpt4.server.cover import covered
from skingpt4.server.gradio_app import escape, note
from skingpt4.server.page.failures import PageError, failure
from skingpt4.server.page.part import Page
from skingpt4.server.page.state import MAX_IMAGES, CaseImage, PageState, Update

ALONE, BOTH = "alone", "both"
MIN_SIDE = 64  # pixels of a part: fewer show the encoder nothing but blur
MIN_PERCENT = 10
Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels


def box_of(width: int, height: int, across: float, down: float, percent: float) -> Box:
    """The frame, inside the picture, with its proportions.

    Args:
        width: of the picture in pixels.
        height: of the picture in pixels.
        across: where the frame's middle is, in percent from the left.
        down: in percent from the top.
        percent: of the picture's width and height.
    """
    w, h = (max(1, round(side * percent / 100)) for side in (width, height))
    left = min(max(round(width * across / 100 - w / 2), 0), width - w)
    top = min(max(round(height * down / 100 - h / 2), 0), height - h)
    return left, top, left + w, top + h


def source_of(state: PageState | None) -> CaseImage | None:
    """The picture that a part is cut from: the last one that is not a part itself."""
    images = [] if state is None or state.is_opened else state.images
    return next((each for each in reversed(images) if each.shown.part_of is None), None)


def add_part(state: PageState | None, place: tuple[float, float, float], which: str, texts: Texts) -> Update:
    """Add a part of the last picture to the case.

    Args:
        state: of the page.
        place: across, down and percent; see `box_of`.
        which: ALONE, the model reads the part but not the original; or BOTH.
        texts: of the page's language.
    """
    try:
        source = source_of(state)
        if state is None or state.ended or source is None or source.shown.picture is None:
            raise PageError(texts["errors.no_picture"])
        if state.held_image:
            raise PageError(texts["errors.held_picture"])
        if state.answering:
            raise PageError(texts["errors.busy"])
        if len(state.images) >= MAX_IMAGES:
            raise PageError(texts("pictures.too_many", count=MAX_IMAGES))
        whole = source.shown.picture
        left, top, right, bottom = box = box_of(*whole.size, *place)
        if min(right - left, bottom - top) < MIN_SIDE:
            raise PageError(texts("part.too_small", count=MIN_SIDE))
        image = whole.crop(box)
        shown = ShownPicture.of(image, source.shown.view)
        shown.part_of = {
            "sha256": source.shown.sha256,
            "box": [left, top, right, bottom],
            "size": list(whole.size),
        }
        shown.remarks = list(source.shown.remarks)
        state.images.append(CaseImage(shown, pixels=state.session.pixels(image)))
    except Exception as error:
        return Update(failure(error, texts), images=True)
    source.set_aside = which == ALONE and not source.sent
    state.log("part_added", sha256=source.shown.sha256, alone=source.set_aside)
    key = "part.added_alone" if source.set_aside else "part.added"
    return Update(note(texts(key, number=len(state.images))), images=True)


def preview(state: PageState | None, place: tuple[float, float, float], texts: Texts, cover: bool) -> str:
    """The last picture with the frame over it."""
    source = source_of(state)
    if source is None or source.shown.picture is None:
        return f'<p class="hint">{escape(texts["errors.no_picture"])}</p>'
    width, height = source.shown.picture.size
    left, top, right, bottom = box_of(width, height, *place)
    image = f'<img src="{source.url}" alt="{escape(texts["part.preview_alt"])}">'
    if cover:
        image = covered(image, texts["pictures.uncover"], texts["pictures.cover"])
    frame = (
        f"left:{100 * left / width:.2f}%;top:{100 * top / height:.2f}%;"
        f"width:{100 * (right - left) / width:.2f}%;height:{100 * (bottom - top) / height:.2f}%"
    )
    return f'<div class="part">{image}<span aria-hidden="true" style="{frame}"></span></div>'


class CropForm:
    """The frame's sliders, its preview, and the button that adds the part."""

    def __init__(self, texts: Texts) -> None:
        """Lay them out where Gradio now stands."""
        self.texts = texts
        with gr.Accordion(texts["part.heading"], open=False, elem_id="part") as self.fold:
            gr.HTML(f'<p class="hint">{escape(texts["part.hint"])}</p>')
            self.preview = gr.HTML("", elem_id="part-preview")
            self.place = [
                gr.Slider(0, 100, 50, step=1, label=texts["part.across"], elem_id="part-across"),
                gr.Slider(0, 100, 50, step=1, label=texts["part.down"], elem_id="part-down"),
                gr.Slider(MIN_PERCENT, 100, 50, step=1, label=texts["part.size"], elem_id="part-size"),
            ]
            choices = [(texts[f"part.{which}"], which) for which in (ALONE, BOTH)]
            self.which = gr.Radio(choices, value=ALONE, label=texts["part.which"], elem_id="part-which")
            self.add = gr.Button(texts["part.add"], size="sm", elem_id="part-add")

    def connect(self, page: Page) -> None:
        """Let the sliders move the frame and the button change the page's case."""
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}

        def show(state: PageState | None, *place: float) -> str:
            return preview(state, place, self.texts, page.tools.cover)  # type: ignore[arg-type]

        def add(state: PageState | None, which: str, *place: float) -> dict[Any, Any]:
            return page.changes(state, add_part(state, place, which, self.texts))  # type: ignore[arg-type]

        for event in (self.fold.expand, *(slider.change for slider in self.place)):
            event(show, [page.state, *self.place], self.preview, trigger_mode="always_last", **quiet)
        self.add.click(add, [page.state, self.which, *self.place], page.updated, **quiet)
