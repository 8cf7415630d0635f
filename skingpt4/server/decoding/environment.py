"""What a server's processes hand on to those that they start, and what is left of them when they crash: little.

The environment holds the API's key, the page's password and whatever else the account's programs know. The
processes that parse and decode work on what strangers sent, so they get what Python needs to start and to find its
libraries, and nothing else. A core file would hold pictures and conversations that are kept in memory on purpose.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys

NEEDED = re.compile(
    r"PATH|LD_LIBRARY_PATH|DYLD_\w+|SYSTEMROOT|TMPDIR|TEMP|TMP|LANG|LC_\w+"
    r"|PYTHON(?:HOME|UTF8|IOENCODING|COERCECLOCALE|DONTWRITEBYTECODE|UNBUFFERED)",
    re.IGNORECASE,  # Windows writes SystemRoot
)


def environment(**more: str) -> dict[str, str]:
    """The environment of a process of ours, in which Python finds what this one finds; `more` is added."""
    needed = {name: value for name, value in os.environ.items() if NEEDED.fullmatch(name)}
    return needed | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))} | more


def leave_no_core() -> None:
    """Let this process, and all that it starts, leave no core file if it crashes; Windows makes none."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
