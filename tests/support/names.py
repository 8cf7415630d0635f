"""Names that files may have, however odd."""

import os
from pathlib import Path

from hypothesis import strategies as st

ODD = [
    "L\udce4sion.jpg", "x" * 251 + ".jpg", "50% #2 دَمَل 皮疹.jpg", " lead.JPG", "two\nlines.jpg", "a'b\"c.jpg",
    "e\u0301.png", "\u202egpj.exe", "\x1b[31m.jpg", "back\\slash.jpg", "-rf", "a;b|c,d.jpg", "IMG_0001",
    "\udcff\udcfe", "~", "$HOME.jpg",
]  # fmt: skip


def file_names() -> st.SearchStrategy[str]:
    """Names of single files, as Python gives them: any bytes but / and zero, up to 255 of them."""
    bodies = st.binary(min_size=1, max_size=255).map(
        lambda data: data.replace(b"/", b"_").replace(b"\0", b"_")
    )
    return st.one_of(st.sampled_from(ODD), bodies.map(os.fsdecode)).filter(
        lambda name: name not in (".", "..")
    )


def make_files(folder: Path, names: list[str]) -> list[str]:
    """Make files that hold their own name; returns the names, each once."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(os.fsencode((folder / name).name))
    return list(dict.fromkeys(names))
