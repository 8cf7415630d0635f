"""What the page's controls do with pictures and the whole case: take, judge, remove, save, delete."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

from skingpt4.chat.record import Consultation, ShownPicture
from skingpt4.chat.texts import Texts
from skingpt4.server import uploads
from skingpt4.server.gradio_app import note
from skingpt4.server.page.visit import MAX_PICTURES, Shown, Tools, View, Visit, failure, waiting
from skingpt4.support.errors import UserError

TYPES = {"html": "text/html", "pdf": "application/pdf", "json": "application/json"}


class PageError(UserError):
    """Something that cannot be done now; the message says why, in the page's language."""


@dataclass(frozen=True)
class Desk:
    """The controls around the conversation, for all pages of one language; each brings its own `Visit`."""

    tools: Tools
    texts: Texts

    def begin(self) -> Visit:
        """A new case, after the disclaimer was accepted."""
        record = Consultation(
            model=self.tools.model, language=self.texts.code, disclaimer=self.texts["record.disclaimer"]
        )
        visit = Visit(record, self.tools.new_session())
        self.tools.log("consultation_started", id=visit.record.id, language=self.texts.code)
        return visit

    def add(self, visit: Visit | None, upload: dict[str, Any] | None, view: str) -> Shown:
        """Take one more picture; one that waits for a decision gives way to it.

        Gradio cannot receive a picture that is no file. What was sent, with its EXIF data and name, is read and
        deleted at once, unread before the disclaimer is accepted; the page shows a copy that never is a file.
        """
        if upload is None:
            return Shown()
        data = uploads.take(upload["path"], read=visit is not None and not visit.ended)
        if data is None:
            return self.missing()
        try:
            if visit is None or visit.ended:
                raise PageError(self.texts["errors.not_accepted"])
            held = waiting(visit.views)
            if len(visit.views) - (held is not None) >= MAX_PICTURES:
                raise PageError(self.texts("pictures.too_many", count=MAX_PICTURES))
            added = self._judged(data, view)
        except Exception as error:
            return Shown(note=failure(error, self.texts), views=True)
        if held is not None:
            visit.views.remove(held)
        visit.views.append(added)
        self.tools.log(
            "picture_added",
            id=visit.record.id,
            sha256=added.shown.sha256,
            quality=added.score,
            held=added.held,
        )
        which = "pictures.held" if added.held else "pictures.added"
        said = note(self.texts(which, number=len(visit.views)), failed=added.held)
        return Shown(note=said, views=True)

    def missing(self) -> Shown:
        """There is no such upload, or it is somebody else's."""
        return Shown(note=note(self.texts["errors.picture_missing"], failed=True))

    def _judged(self, data: bytes, view: str) -> View:
        shown = ShownPicture.of(data, view)
        assert shown.picture is not None
        if self.tools.assess is None:
            return View(shown)
        quality = self.tools.assess(shown.picture)
        shown.quality = quality.to_dict()
        kinds = tuple(problem.kind for problem in quality.problems)
        return View(shown, kinds, quality.score, held=not quality.acceptable)

    def use_anyway(self, visit: Visit | None) -> Shown:
        """Take the picture that was not good enough; that is recorded."""
        held = waiting(visit.views) if visit else None
        if visit is None or held is None:
            return Shown(views=True)
        held.held, held.shown.overridden = False, True
        self.tools.log(
            "quality_overridden", id=visit.record.id, sha256=held.shown.sha256, kinds=held.problems
        )
        number = visit.views.index(held) + 1
        return Shown(note=note(self.texts("pictures.override_done", number=number)), views=True)

    def remove(self, visit: Visit | None) -> Shown:
        """Drop the last picture, unless a question has shown it."""
        if visit is None or not visit.views:
            return Shown(views=True)
        if visit.views[-1].sent:
            return Shown(note=note(self.texts["pictures.cannot_remove"], failed=True), views=True)
        visit.views.pop()
        return Shown(note=note(self.texts["pictures.removed"]), views=True)

    def delete(self, visit: Visit | None) -> tuple[Visit, Shown]:
        """Forget everything; a new, empty case takes its place."""
        if visit is not None:
            self.tools.log("consultation_deleted", id=visit.record.id)
            visit.forget()
        said = note(self.texts["export.deleted"])
        return self.begin(), Shown([], said, False, "", views=True, scores=True, full=False)

    def save(self, visit: Visit | None, kind: str, with_pictures: bool) -> tuple[list[str] | None, Shown]:
        """An export, made in memory, as (file name, data: address); None if there is nothing to save.

        Args:
            visit: the case.
            kind: html, pdf or json.
            with_pictures: whether the export carries the pictures.
        """
        if visit is None or not visit.views:
            return None, Shown(note=note(self.texts["export.nothing"], failed=True))
        try:
            data = self.tools.exports[kind](visit.record, with_pictures)
        except Exception as error:
            return None, Shown(note=failure(error, self.texts))
        self.tools.log("exported", id=visit.record.id, kind=kind, with_pictures=with_pictures)
        name = f"consultation-{visit.record.id}.{kind}"
        url = f"data:{TYPES[kind]};base64,{base64.b64encode(data).decode()}"
        return [name, url], Shown(note=note(self.texts("export.saved", name=name)))
