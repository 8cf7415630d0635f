"""Files of one JSON object a line that grow while a program runs."""

from pathlib import Path


def mend(path: Path) -> None:
    """Take away a last line that a kill has torn, so that the next one begins a line of its own."""
    if path.is_file():
        content = path.read_bytes()
        if content and not content.endswith(b"\n"):
            with path.open("r+b") as file:
                file.truncate(content.rfind(b"\n") + 1)
