"""Where the pictures of a public data set are, and the pictures of one case."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

from data.reading.files import find_files
from data.reading.rows import Candidate, Refusal, RowError
from skingpt4.records.archives import exists
from skingpt4.records.naming import Located, locate

CaseFields = tuple[dict[str, Any], tuple[str, ...]]  # a case's fields, and remarks about them


class Pictures:
    """The pictures of a folder, found by path or, wherever they are in it, by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._by_name: dict[str, list[str]] | None = None

    def find(self, written: str) -> Located:
        """The picture that a table names, with or without folder and suffix.

        Raises:
            RowError: pictures of different content have that name.
        """
        place = locate(self.folder, written)
        if exists(place.path):
            return place
        last = PurePath(written.replace("\\", "/")).name
        names = self._names().get(last.casefold(), [])
        sizes = {os.path.getsize(self.folder / name) for name in names}
        if len(sizes) > 1:  # mirrors hold the same pictures twice; these are others
            raise RowError("bad_row", f"{last!r} fits several pictures: {' and '.join(names[:3])}")
        return Located(self.folder / names[0]) if names else place

    def _names(self) -> dict[str, list[str]]:
        if self._by_name is None:
            self._by_name = {}
            for name in find_files(self.folder, Counter()):
                path = PurePath(name)
                for key in dict.fromkeys((path.name.casefold(), path.stem.casefold())):
                    self._by_name.setdefault(key, []).append(name)
        return self._by_name


def candidates_of_case(
    file: str, number: int, names: Sequence[str], pictures: Pictures, read: Callable[[], CaseFields]
) -> Iterator[Candidate | Refusal]:
    """A row for every picture of a case, all with the case's fields, or a refusal of each.

    Args:
        file: that names the case, at
        number: its row.
        names: of the case's pictures.
        pictures: where they are.
        read: the case's fields, and remarks; it raises RowError where it cannot be used.
    """
    try:
        fields, remarks = read()
        places = [pictures.find(name) for name in names]
    except RowError as error:
        for name in names or (None,):
            yield Refusal(file, number, name, error.reason, str(error))
        return
    for place in places:
        yield Candidate(file, number, place.path, fields, (*remarks, *place.remarks))
