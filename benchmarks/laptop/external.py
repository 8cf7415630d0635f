"""An engine's process: started with another environment's Python, asked line by line."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from skingpt4.support.errors import UserError

WORKER = Path(__file__).with_name("worker.py")


class ExternalEngine:
    """One engine with one precision; a context manager that ends its process.

    Args:
        python: of the environment that has the engine.
        arguments: of `worker.py`: engine, folder, precision, --threads.
        log: that the engine's own output is appended to.

    Raises:
        UserError: it ended instead of loading; the message has its log's last line.
    """

    def __init__(self, python: Path, arguments: Sequence[str], log: Path) -> None:
        self.log = log
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
        with log.open("ab") as errors:
            try:
                self._process = subprocess.Popen(
                    [str(python), str(WORKER), *arguments],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=environment,
                )  # fmt: skip
            except OSError as error:
                raise UserError(f"{python}: {error.strerror}; name the Python of an environment") from None
        self.facts = self._line()

    def ask(self, **fields: Any) -> dict[str, Any]:
        """The answer to one line.

        Raises:
            UserError: the engine failed.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(fields).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        return self._line()

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            lines = self.log.read_text("utf-8", "replace").split("\n")
            reason = next((line for line in reversed(lines) if line.strip()), "it printed nothing")
            raise UserError(f"the engine ended: {reason.strip()[-300:]} ({self.log})")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> ExternalEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.communicate()
