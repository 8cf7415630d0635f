"""Any folder of class folders: the folder's name is a class of the paper or a disease."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unicodedata import normalize

import yaml

from data.reading.files import find_files
from data.reading.rows import Candidate, Refusal, Rows, SourceError, did_you_mean
from data.reading.tables import DiskMap, need_folder
from skingpt4.records.blanks import text_or_none
from skingpt4.records.folders import class_folders
from skingpt4.records.naming import readable
from skingpt4.records.schema import CLASS_NAMES
from skingpt4.support.errors import reason_of
from skingpt4.support.regular import read_regular_text
from skingpt4.taxonomy.taxonomy import disease_class, lexicon, listed_disease, written_out

HELP = "any folder of class folders (step 2)"
EPILOG = """DIR/NAME/... holds the pictures of NAME: a class of the paper (acne_and_rosacea, others, ...) or a disease
that the taxonomy knows (psoriasis). Other names need a --class-map, a YAML file such as

  Akne: acne_and_rosacea
  BCC pictures: {class: malignant_lesions, disease: basal cell carcinoma}
  unsorted: null            # used without a class; a folder that is missing here is an error

  python -m data.prepare folders pictures --source clinic --class-map classes.yaml --out-dir runs/data/clinic"""


@dataclass(frozen=True)
class Options:
    """The folder and what its names mean; see `add_arguments`."""

    folder: Path
    class_map: Path | None = None
    source: str | None = None
    split: str | None = None
    licence: str | None = None
    skip_unknown: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The folder and what its names mean."""
    parser.add_argument("folder", type=Path, metavar="DIR", help="the folder that holds the class folders")
    parser.add_argument(
        "--class-map", type=Path, metavar="YAML", help="folder name: class, or {class, disease}"
    )
    parser.add_argument("--source", metavar="NAME", help="what to call it (default: DIR's name)")
    parser.add_argument("--split", metavar="NAME", help="the part of the data set that it is, such as train")
    parser.add_argument("--licence", metavar="TEXT", help="under which terms the pictures may be used")
    parser.add_argument(
        "--skip-unknown", action="store_true", help="refuse only the pictures of unknown folders"
    )


def read(options: Options) -> Rows:
    """Check every folder's name, then give the files in order.

    Raises:
        SourceError: no class folders, an unknown one, or a map that cannot be read.
    """
    root = need_folder(options.folder, "the class folders")
    mapped = read_class_map(options.class_map) if options.class_map else {}
    folders = class_folders(root)
    if not folders:
        raise SourceError(f"{root}: expected a folder for each class; found none")
    # macOS writes an accent as a character of its own, people and other systems do not.
    spelled = {normalize("NFC", name): name for name in folders}
    mapped = {spelled.get(normalize("NFC", name), name): label for name, label in mapped.items()}
    for name in mapped:
        if name not in folders:
            raise SourceError(
                f"{options.class_map}: names {name!r}, which is not in {root}{did_you_mean(name, folders)}"
            )
    labels = {name: label for name in folders if (label := mapped.get(name) or label_of(name))}
    unknown = [name for name in folders if name not in labels]
    if unknown and not options.skip_unknown:
        more = f" ({len(unknown) - 1} more are unknown)" if len(unknown) > 1 else ""
        raise SourceError(
            f"{root / unknown[0]}: is neither a class of the paper nor a disease that the taxonomy knows"
            f"{more}; rename it, name it in a --class-map, or add --skip-unknown"
            f"{did_you_mean(_spaced(unknown[0]), _known_names())}"
        )
    fields = {
        "source": options.source or readable(root.resolve().name),
        "split": options.split,
        "licence": options.licence,
    }
    left_out: Counter[str] = Counter()
    files = find_files(root, left_out)
    return Rows(_rows(root, files, labels, fields), len(files), folders=tuple(labels), left_out=left_out)


def label_of(name: str) -> dict[str, str | None] | None:
    """Class and disease that a folder's name says by itself, or None; _ and - stand for spaces in a disease."""
    if name in CLASS_NAMES:
        return {"class": name, "disease": None}
    known = listed_disease(name) or listed_disease(_spaced(name))
    return {"class": known.group, "disease": written_out(_spaced(name))} if known else None


def _spaced(name: str) -> str:
    return name.replace("_", " ").replace("-", " ")


def _known_names() -> list[str]:
    """What a folder may be called: classes and diseases."""
    return [*CLASS_NAMES, *(term.name for term in lexicon().terms.values())]


def read_class_map(path: Path) -> dict[str, dict[str, str | None]]:
    """A YAML file of folder names as {folder: {class, disease}}.

    Raises:
        SourceError: a missing file, one that is not a YAML map, or an unknown class.
    """
    try:
        content = yaml.load(read_regular_text(path), TextLoader)
    except FileNotFoundError:
        raise SourceError(f"{path}: no such file") from None
    except RecursionError:
        raise SourceError(f"{path}: is nested too deep for a map of folders") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SourceError(f"{path}: is not readable YAML ({' '.join(reason_of(error).split())})") from None
    if not isinstance(content, dict) or not content:
        raise SourceError(f"{path}: expected lines such as 'folder name: acne_and_rosacea'")
    return {name: _label(value, f"{path}, {name!r}") for name, value in content.items()}


class TextLoader(yaml.BaseLoader):
    """Reads every word of a YAML file as the text that it is: folders may be called `no`, `off`, `01` or `1e3`.

    A key that stands twice is an error; other loaders take the last.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping of a node.

        Raises:
            yaml.constructor.ConstructorError: one key twice, or one that is not a text.
        """
        mapping = super().construct_mapping(node, deep=deep)
        if len(mapping) < len(node.value):
            names = [str(key.value) for key, _ in node.value]
            name = next(name for name in names if names.count(name) > 1)
            raise yaml.constructor.ConstructorError(None, None, f"{name!r} stands twice", node.start_mark)
        return mapping


def _label(value: Any, where: str) -> dict[str, str | None]:
    label = value if isinstance(value, dict) else {"class": value}
    for key, text in label.items():
        if key not in ("class", "disease"):
            raise SourceError(f"{where}: {key!r} is neither 'class' nor 'disease'")
        if not isinstance(text, str):
            raise SourceError(f"{where}: {key!r} must be a text, found a {type(text).__name__}")
    name, disease = text_or_none(label.get("class")), text_or_none(label.get("disease"))
    if name is not None and name not in CLASS_NAMES:
        raise SourceError(
            f"{where}: {name!r} is none of the paper's classes{did_you_mean(name, CLASS_NAMES)}"
        )
    if name is None and disease:
        name = disease_class(disease)
    return {"class": name, "disease": disease and written_out(disease)}


def _rows(
    root: Path, files: DiskMap, labels: dict[str, dict[str, str | None]], fields: dict[str, Any]
) -> Iterator[Candidate | Refusal]:
    for name in files:
        path, folder = root / name, name.split("/")[0]
        if folder not in labels or "/" not in name:
            detail = (
                f"{folder!r} is not a class folder"
                if "/" not in name
                else f"the folder {folder!r} is unknown"
            )
            yield Refusal(str(path), None, str(path), "unknown_folder", detail)
        else:
            yield Candidate(str(path), None, path, {**fields, **labels[folder]}, folder=folder)
