"""Print the installed packages of requirements.lock that no server needs, as those of the tests; images drop them."""

from __future__ import annotations

import platform
import sys
from importlib import metadata
from pathlib import Path

from packaging.utils import canonicalize_name

from skingpt4.cli.deploy.locked import Target, needed, read_lock, requirements_of

EXTRAS = ("serve", "clinic", "quantise")


def main(root: Path) -> int:
    """Print one name a line."""
    target = Target(".".join(platform.python_version_tuple()[:2]), platform.machine())
    lock = read_lock(root / "requirements.lock", target)
    servers = set(needed(lock, requirements_of(root, EXTRAS), target, gpu=True))
    installed = {canonicalize_name(each.metadata["Name"]) for each in metadata.distributions()}
    print(*sorted(installed & lock.keys() - servers), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(__file__).parents[1]))
