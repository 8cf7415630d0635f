"""What a file or directory of weights is, told from its headers alone.

`inspect` is a pure function of what lies on the disk. It loads no model, runs no code of the file and reads no
numbers, but for one exception of a few kilobytes: the final norm of a Llama, which tells a delta from a model.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from skingpt4.weights.files.headers import UnreadableWeights
from skingpt4.weights.files.inspect_directory import inspect_directory
from skingpt4.weights.files.inspect_file import KINDS, Inspection, inspect_file, projection_fits

__all__ = ["KINDS", "Inspection", "UnreadableWeights", "describe", "inspect", "projection_fits"]


def inspect(path: str | Path) -> Inspection:
    """Say what a file or directory is.

    Raises:
        UnreadableWeights: nothing is there (kind `missing`). Whatever is there is answered for, however broken.
    """
    path = Path(path)
    return inspect_directory(path) if path.is_dir() else inspect_file(path)


def describe(found: Inspection, with_tensors: bool = False) -> str:
    """The inspection as lines for people."""
    rows: list[tuple[str, object]] = [("is", KINDS[found.kind])]
    for key, value in found.details.items():
        if value is not None:
            told = ", ".join(f"{k} ({v})" for k, v in value.items()) if isinstance(value, dict) else value
            rows.append((key.replace("_", " "), "; ".join(told) if isinstance(told, list) else told))
    if found.tensors:
        dtypes = Counter(info.dtype for info in found.tensors.values())
        told = ", ".join(f"{n} {dtype}" for dtype, n in dtypes.most_common())
        rows.append(("tensors", f"{len(found.tensors)} ({told}), {found.num_bytes / 1e6:,.1f} MB"))
    if found.fits:
        rows.append(("fits", found.fits))
    if found.missing:
        shown = ", ".join(found.missing[:6]) + (", ..." if len(found.missing) > 6 else "")
        rows.append(("missing", f"{len(found.missing)}: {shown}"))
    elif found.usable:
        rows.append(("missing", "nothing"))
    if found.problem:
        rows.append(("refused", found.problem))
    pad = max(len(key) for key, _ in rows)
    lines = [str(found.path), *(f"  {key:{pad}}  {value}" for key, value in rows)]
    if with_tensors:
        width = max(map(len, found.tensors), default=0)
        lines += [f"    {n:{width}} {i.dtype:9} {list(i.shape)}" for n, i in found.tensors.items()]
    return "\n".join(lines)
