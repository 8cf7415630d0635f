"""A request's failures, in the terms of OpenAI's error object."""

from __future__ import annotations

import logging
from typing import Any

from skingpt4.server.audit import AuditError
from skingpt4.support.errors import UserError, is_out_of_memory, trace_of
from skingpt4.support.remote.http import RemoteError

logger = logging.getLogger(__name__)
KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
CODES = {"ContextFull": "context_length_exceeded", "ImageError": "invalid_image"}
MAX_ECHO = 60  # characters of a client's value in a message
RETRY_SECONDS = 2


class ApiError(UserError):
    """A request that is refused.

    Args:
        message: a sentence.
        param: the key of the request that it is about.
        status_code: of the HTTP response.
        code: for programs.
    """

    def __init__(
        self, message: str, param: str | None = None, status_code: int = 400, code: str | None = None
    ):
        super().__init__(message)
        self.param, self.status_code, self.code = param, status_code, code

    def to_dict(self) -> dict[str, Any]:
        """OpenAI's error object."""
        other = "invalid_request_error" if self.status_code < 500 else "server_error"
        kind = KINDS.get(self.status_code, other)
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """When to try again, and whether the connection ends because the body was not read."""
        headers = {"retry-after": str(RETRY_SECONDS)} if self.status_code in (429, 503) else {}
        return headers | ({"connection": "close"} if self.status_code == 408 else {})


def brief(value: Any) -> str:
    """A client's value as an error message repeats it: short, whatever its size."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    if isinstance(value, str) and len(value) > MAX_ECHO:
        return repr(value[:MAX_ECHO] + "...")
    return repr(value)


def as_api_error(error: Exception) -> ApiError:
    """Any failure as an `ApiError`; where an unexpected one came from is logged, without words."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, AuditError):
        logger.error("%s", error)
        return ApiError("the audit log cannot be written now; try again later", None, 503, "audit_log")
    if isinstance(error, RemoteError):
        logger.error("%s", error)
        return ApiError("the engine does not answer now; try again later", None, 503, "engine")
    if isinstance(error, UserError):
        return ApiError(str(error), "messages", 400, CODES.get(type(error).__name__))
    if is_out_of_memory(error):
        return ApiError(
            "out of memory: ask for a shorter answer, or try again later", None, 503, "out_of_memory"
        )
    logger.error("unexpected failure of a request\n%s", trace_of(error))
    return ApiError(
        f"something unexpected failed ({type(error).__name__}); the server's terminal shows where", None, 500
    )
