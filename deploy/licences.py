"""List the licence of every locked package: make licences (writes runs/licences.csv).

A licence is what an installed package states about itself. Packages of other systems are listed as not installed.
"""

from __future__ import annotations

import csv
import sys
from collections import Counter
from importlib import metadata
from pathlib import Path

from skingpt4.cli.deploy.locked import ENTRY

COLUMNS = ("package", "version", "licence", "home_page")
ABSENT, UNKNOWN = "not installed on this system", "not stated"


def licence(meta: metadata.PackageMetadata) -> str:
    """By the newest of the three fields in which a package may state it; a field may also hold the complete text."""
    classifiers = [
        text.rpartition(" :: ")[2]
        for text in meta.get_all("Classifier") or ()
        if text.startswith("License ::")
    ]
    stated = (meta["License-Expression"], meta["License"], "; ".join(classifiers))
    lines = [text.strip() for text in stated if text and text.strip() not in ("", "UNKNOWN", "OSI Approved")]
    short = [text for text in lines if "\n" not in text and len(text) < 200]
    return short[0] if short else lines[0].splitlines()[0].strip() if lines else UNKNOWN


def rows(lock: Path) -> list[tuple[str, str, str, str]]:
    """One row for each package and version of a lock."""
    result = []
    for line in lock.read_text(encoding="utf-8").splitlines():
        if (entry := ENTRY.match(line)) is None:
            continue
        try:
            meta = metadata.metadata(entry["name"])
        except metadata.PackageNotFoundError:
            result.append((entry["name"], entry["version"], ABSENT, ""))
            continue
        urls = [text.partition(", ")[2] for text in meta.get_all("Project-URL") or ()]
        result.append(
            (entry["name"], entry["version"], licence(meta), meta["Home-page"] or (urls or [""])[0])
        )
    return result


def main(root: Path) -> int:
    """Write the table; print how many packages there are of each licence."""
    table = rows(root / "requirements.lock") + rows(root / "requirements-lavis.txt")
    path = root / "runs/licences.csv"
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *table])
    for name, number in Counter(row[2] for row in table).most_common():
        print(f"{number:4}  {name}")
    print(f"{path.relative_to(root)}: {len(table)} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(__file__).parents[1]))
