"""A request's body: its size is known before it is read, it must arrive in time, and its JSON is bounded."""

from __future__ import annotations

from typing import Any

import anyio
import orjson
from starlette.requests import Request

from skingpt4.server.http.failures import ApiError

MAX_SECONDS = 30.0  # for a complete body
STALL_SECONDS, STALL_BYTES = 5.0, 64 * 2**10  # in each such time so much must arrive, or the rest


def declared_bytes(request: Request, limit: int) -> int:
    """How many bytes the body has at most, by its headers.

    Raises:
        ApiError: not JSON, or too large.
    """
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        raise ApiError("send the body as application/json", None, 415)
    length = request.headers.get("content-length", "")
    if not length.isdigit():
        return limit
    if int(length) > limit:
        raise _too_large(limit)
    return int(length)


async def read_body(request: Request, limit: int) -> bytearray:
    """The body's bytes.

    Raises:
        ApiError: it is larger than `limit`, or comes too slowly.
    """
    body, num_before = bytearray(), 0
    started = anyio.current_time()
    try:
        with anyio.fail_after(STALL_SECONDS) as scope:
            async for part in request.stream():
                body += part
                if len(body) > limit:
                    raise _too_large(limit)
                if len(body) - num_before >= STALL_BYTES:
                    num_before = len(body)
                    scope.deadline = min(anyio.current_time() + STALL_SECONDS, started + MAX_SECONDS)
    except TimeoutError:
        raise ApiError(
            f"the body came too slowly: {len(body)} bytes in {anyio.current_time() - started:.0f} seconds",
            None,
            408,
            "body_timeout",
        ) from None
    return body


def parse_json(body: bytes | bytearray, max_values: int) -> Any:
    """The body's JSON.

    Raises:
        ApiError: it is not JSON, or has more values than any conversation that the model can read.
    """
    # An empty list has two bytes in JSON and sixty in memory. Base64 holds none of these signs.
    num_values = body.count(b",") + body.count(b"[") + body.count(b"{")
    if num_values > max_values:
        raise ApiError(
            f"the body has more than {max_values} values or commas; shorten the conversation",
            code="context_length_exceeded",
        )
    try:
        return orjson.loads(body)
    except (ValueError, RecursionError):
        raise ApiError("the body is not JSON in UTF-8") from None


def _too_large(limit: int) -> ApiError:
    return ApiError(f"the body is larger than {limit} bytes; send smaller pictures", None, 413, "too_large")
