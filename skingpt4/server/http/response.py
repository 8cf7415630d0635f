"""Answers in the shape of OpenAI's chat completions, complete or as server-sent events."""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

from skingpt4.server.http.request import MODEL


@dataclass(frozen=True)
class Usage:
    """Numbers of tokens; an image's vectors count as tokens of the prompt."""

    prompt_tokens: int
    completion_tokens: int

    def to_dict(self) -> dict[str, int]:
        """OpenAI's usage object."""
        total = self.prompt_tokens + self.completion_tokens
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": total,
        }


@dataclass(frozen=True)
class Reply:
    """What surrounds one answer: its id, its time and the fingerprint of the weights that gave it."""

    fingerprint: str | None
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def complete(
        self, text: str, finish_reason: str, usage: Usage, extension: dict[str, Any]
    ) -> dict[str, Any]:
        """The answer in one object."""
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": finish_reason, "logprobs": None}
        return {
            **self._envelope("chat.completion"),
            "choices": [choice],
            "usage": usage.to_dict(),
            "skingpt4": extension,
        }

    def piece(self, text: str, first: bool = False) -> str:
        """One event with a piece of the text."""
        delta = {"role": "assistant", "content": text} if first else {"content": text}
        return event(self._chunk([self._choice(delta, None)]))

    def end(self, finish_reason: str, extension: dict[str, Any], usage: Usage | None) -> str:
        """The last events: the reason for the end with the extension, the usage if requested, and the end mark."""
        events = [event(self._chunk([self._choice({}, finish_reason)]) | {"skingpt4": extension})]
        if usage is not None:
            events.append(event(self._chunk([]) | {"usage": usage.to_dict()}))
        return "".join([*events, "data: [DONE]\n\n"])

    def _choice(self, delta: dict[str, Any], finish_reason: str | None) -> dict[str, Any]:
        return {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return self._envelope("chat.completion.chunk") | {"choices": choices}

    def _envelope(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id, "object": kind, "created": self.created, "model": MODEL,
            "system_fingerprint": self.fingerprint,
        }  # fmt: skip


def event(data: dict[str, Any]) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"
