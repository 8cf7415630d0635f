"""How every command reports a failure: one sentence on stderr and a non-zero exit status."""

from __future__ import annotations

import errno
import io
import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from skingpt4.support.files import private_files

# Set to 1, it adds the traceback below the sentence; `skingpt4 --debug COMMAND` sets it.
DEBUG = "SKINGPT4_DEBUG"
# Control characters but tabs and line feeds; line separators; what shows the following text in another direction.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")

FILE_FAILED = 74  # EX_IOERR, the exit status where a file could not be read or written
# What the disk says where a program can do nothing about it.
DISK_FAILURES = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO)


class UserError(Exception):
    """A failure whose message is a sentence for the user: what, where, what to do."""

    status = 1


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the machine's or a GPU's memory ran out."""
    # torch's class for GPUs is known by name, not imported; its allocator for CPUs raises a plain RuntimeError.
    names_memory = "not enough memory" in str(error)
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or names_memory


def reason_of(error: BaseException) -> str:
    """Why something failed, without the system's `[Errno 2]` and without a file's name, which the sentence has."""
    text = getattr(error, "strerror", None) or re.sub(r"^\[Errno -?\d+\] ", "", str(error))
    return text or type(error).__name__


@dataclass
class Status:
    """The exit status that a `reported` block ended with."""

    code: int = 0


@contextmanager
def reported(for_others: bool = False) -> Iterator[Status]:
    """The frame of every command: what it writes is private, and an expected failure is a sentence and a status.

    Anything unexpected keeps its traceback. With SKINGPT4_DEBUG=1 in the environment, the traceback of an expected
    failure and of its causes follows the sentence.

    Args:
        for_others: the command writes nothing about patients (pretrained weights, a folder to publish), so its files
            are as readable as the user's umask makes them.
    """
    status = Status()
    _print_any_name()
    try:
        with ExitStack() as stack:
            if not for_others:
                stack.enter_context(private_files())
            yield status
    except UserError as error:
        _print_error(_sentence(error), error)
        status.code = error.status
    except BrokenPipeError:  # whoever read the output, such as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status.code = 141
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        status.code = 130
    except OSError as error:
        if error.errno not in DISK_FAILURES:
            raise
        sentence = f"{error.filename or 'a file'}: cannot be read or written ({reason_of(error)})"
        _print_error(f"{sentence}; once this is fixed, give the same command again", error)
        status.code = FILE_FAILED
    except Exception as error:
        if type(error).__name__ != "OutOfMemoryError":
            raise
        _print_error(
            "out of GPU memory; lower optim.batch_size (and raise optim.accumulation) or --batch-size, "
            "choose language.dtype=bfloat16, or take a smaller language model",
            error,
        )
        status.code = 1


def _print_any_name() -> None:
    """A character that the terminal's encoding lacks, or a byte of a file name, is printed with a backslash."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def without_controls(text: str) -> str:
    """Text for a terminal: what that could take for a command is written with a backslash."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def trace_of(error: BaseException) -> str:
    """For a server's log: where a failure that nobody expected came from, and of which kind it and its causes are.

    Its message is left out, which may quote what a patient or a clinician wrote, unless SKINGPT4_DEBUG is 1.
    """
    if os.environ.get(DEBUG) == "1":
        return "".join(traceback.format_exception(error)).rstrip()
    parts: list[str] = []
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        seen.append(cause)
        places = traceback.format_tb(cause.__traceback__)
        parts[:0] = ["Traceback (most recent call last):\n", *places, f"{type(cause).__name__}\n"]
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return "".join(parts).rstrip()


def _print_error(sentence: str, error: Exception) -> None:
    print(f"error: {without_controls(sentence)}", file=sys.stderr)  # a file's name may hold them
    if os.environ.get(DEBUG) == "1":
        # `raise ... from None` hides what happened first; here it is what one wants to see.
        cause: BaseException | None = error
        while cause is not None:
            cause.__suppress_context__ = False
            cause = cause.__cause__ or cause.__context__
        traceback.print_exception(error)


def _sentence(error: Exception) -> str:
    """The message; of a failure in a loader's worker process, only its own last line, not the traceback."""
    text = str(error).strip()
    return text.splitlines()[-1].partition(": ")[2] if "Original Traceback" in text else text
