"""Where the pictures of a public data set are: files of a folder, or members of its zip and tar archives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

from data.reading.files import find_files
from data.reading.rows import Candidate, Refusal, RowError, SourceError
from data.reading.tables import need_folder
from skingpt4.records.archives import ARCHIVES, StoreError, exists, member_names, num_bytes
from skingpt4.records.naming import Located, locate
from skingpt4.support.errors import reason_of

CaseFields = tuple[dict[str, Any], tuple[str, ...]]  # a case's fields, and remarks about them


class Pictures:
    """The pictures of a folder or archive, found by path or, wherever they are in it, by name.

    Archives (.zip, and .tar that is not compressed) are read in place.
    """

    def __init__(self, place: Path, what: str) -> None:
        """Check that there is such a folder or archive.

        Args:
            place: the folder, or one archive.
            what: the pictures' name in messages.

        Raises:
            SourceError: neither of them is there.
        """
        self.folder = place if place.suffix in ARCHIVES and place.is_file() else need_folder(place, what)
        self._by_name: dict[str, list[str]] | None = None

    def find(self, written: str) -> Located:
        """The picture that a table names, with or without folder and suffix.

        Raises:
            RowError: pictures of different content have that name.
        """
        place = locate(self.folder, written)
        if exists(place.path):
            return place
        path = PurePath(written.replace("\\", "/"))
        names = self._names().get(path.name.casefold(), [])
        # The same name in several folders: the one whose folders are those that the table writes, if it is one.
        named = [name for name in names if _as_unpacked(name).endswith(_as_unpacked(path.as_posix()))]
        names = named if len(named) == 1 else names
        sizes = {num_bytes(self.folder / name) for name in names}
        if len(sizes) > 1:  # mirrors hold the same pictures twice; these are others
            raise RowError("bad_row", f"{path.name!r} fits several pictures: {' and '.join(names[:3])}")
        return Located(self.folder / names[0]) if names else place

    def _names(self) -> dict[str, list[str]]:
        if self._by_name is None:
            self._by_name = {}
            for name in self._files():
                path = PurePath(name)
                for key in dict.fromkeys((path.name.casefold(), path.stem.casefold())):
                    self._by_name.setdefault(key, []).append(name)
        return self._by_name

    def _files(self) -> Iterator[str]:
        """Every file, and every member of an archive, as a path below the folder."""
        if self.folder.is_file():
            yield from _members(self.folder)
            return
        archives = []
        for name in find_files(self.folder, Counter()):
            yield name
            if name.endswith(ARCHIVES):
                archives.append(name)
        for archive in archives:
            yield from (f"{archive}/{member}" for member in _members(self.folder / archive))


def _members(archive: Path) -> Iterator[str]:
    try:
        for name in member_names(archive):
            if not name.startswith("__MACOSX/") and not PurePath(name).name.startswith("."):
                yield name
    except (StoreError, OSError) as error:
        raise SourceError(reason_of(error) if isinstance(error, OSError) else str(error)) from None


def _as_unpacked(name: str) -> str:
    """A path in which archives are folders of their name, to be compared from its end."""
    return f"/{name}".casefold().replace(".zip/", "/").replace(".tar/", "/")


def candidates_of_case(
    file: str,
    number: int,
    names: Sequence[str],
    pictures: Pictures,
    read: Callable[[], CaseFields],
    own: Callable[[int], dict[str, Any]] = lambda place: {},
) -> Iterator[Candidate | Refusal]:
    """A row for every picture of a case, all with the case's fields, or a refusal of each.

    Args:
        file: that names the case, at
        number: its row.
        names: of the case's pictures.
        pictures: where they are.
        read: the case's fields, and remarks; it raises RowError where it cannot be used.
        own: further fields of the picture at a place in `names`.
    """
    try:
        fields, remarks = read()
        places = [pictures.find(name) for name in names]
    except RowError as error:
        for name in names or (None,):
            yield Refusal(file, number, name, error.reason, str(error))
        return
    for place, located in enumerate(places):
        yield Candidate(file, number, located.path, fields | own(place), (*remarks, *located.remarks))
