"""How a failure reads on the page."""

from __future__ import annotations

import logging

from skingpt4.chat.session import ContextFull
from skingpt4.chat.texts import Texts
from skingpt4.records.images import ImageError
from skingpt4.server.gradio_app import note
from skingpt4.server.page.markup import megapixels
from skingpt4.support.errors import UserError, is_out_of_memory, trace_of
from skingpt4.support.remote.http import RemoteError

logger = logging.getLogger(__name__)


class PageError(UserError):
    """Something that cannot be done now; the message says why, in the page's language."""


def failure(error: Exception, texts: Texts) -> str:
    """The cause of a failure as the page's note; where an unexpected one came from is logged."""
    if isinstance(error, ImageError):
        cause = texts(f"errors.picture_{error.reason}", **megapixels())
    elif isinstance(error, ContextFull):
        cause = texts("errors.context_full", why=str(error).rstrip("."))
    elif isinstance(error, RemoteError):
        logger.error("%s", error)
        cause = texts["errors.engine"]
    elif isinstance(error, UserError):
        cause = str(error)
    elif is_out_of_memory(error):
        cause = texts["errors.out_of_memory"]
    else:
        logger.error("unexpected failure on the page\n%s", trace_of(error))
        cause = texts("errors.unexpected", what=f"{type(error).__name__}: {error}")
    return note(cause, failed=True)
