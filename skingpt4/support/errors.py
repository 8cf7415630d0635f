"""How every command reports a failure: one sentence on stderr and a non-zero exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


class UserError(Exception):
    """A failure whose message is a sentence for the user: what, where, what to do."""

    status = 1


@dataclass
class Status:
    """The exit status that a `reported` block ended with."""

    code: int = 0


def _sentence(error: Exception) -> str:
    """The message; of a failure in a loader's worker process, only its own last line, not the traceback."""
    text = str(error).strip()
    return text.splitlines()[-1].partition(": ")[2] if "Original Traceback" in text else text


@contextmanager
def reported() -> Iterator[Status]:
    """Turn expected failures into a sentence and a status; anything else keeps its traceback."""
    status = Status()
    try:
        yield status
    except UserError as error:
        print(f"error: {_sentence(error)}", file=sys.stderr)
        status.code = error.status
    except BrokenPipeError:  # whoever read the output, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status.code = 141
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        status.code = 130
    except Exception as error:
        # torch's own class is not imported here: commands that fail early should stay instant.
        if type(error).__name__ != "OutOfMemoryError":
            raise
        print(
            "error: out of GPU memory; lower optim.batch_size (and raise optim.accumulation) or --batch-size, "
            "choose language.dtype=bfloat16, or take a smaller language model",
            file=sys.stderr,
        )
        status.code = 1
