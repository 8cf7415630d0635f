"""The closed vocabularies of the project: concepts, classes, Dermnet's folders, and names of diseases.

The words are data: taxonomy.yaml (SKINCON's concepts, the paper's classes, Dermnet's folders), and two files that are
read on first use: diseases.yaml (names of diseases by class) and concept_words.yaml (how free texts say concepts).
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Literal

from skingpt4.support.errors import UserError
from skingpt4.support.files import read_yaml
from skingpt4.taxonomy import naming
from skingpt4.taxonomy.lexicon import Lexicon, Term, normal_form

OTHERS = "others"


class UnknownName(UserError):
    """A name that is not in a vocabulary; `nearest` is the closest one that is, or None."""

    def __init__(self, message: str, nearest: str | None) -> None:
        super().__init__(message)
        self.nearest = nearest


_DATA = read_yaml(Path(__file__).with_name("taxonomy.yaml"))

# Column order of the SKINCON annotation files (Daneshjou et al. 2022, arXiv 2302.00785).
CONCEPTS: tuple[str, ...] = tuple(_DATA["concepts"])
# Rows of Table 2 (Nature Communications 2024, 15:5649) without its 16th row, "others".
CLASSES: tuple[str, ...] = tuple(name for name in _DATA["classes"] if name != OTHERS)


def version() -> str:
    """A short hash of all the taxonomy's words and phrases, so that results name the taxonomy they were read with."""
    files = ("taxonomy.yaml", "diseases.yaml", "cues.yaml", "concept_words.yaml")
    return hashlib.sha256(
        b"".join(Path(__file__).with_name(name).read_bytes() for name in files)
    ).hexdigest()[:12]


# --- look-ups ------------------------------------------------------------------------------------------


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name with the most similar spelling, or None if none is close."""
    by_form = {entry.casefold(): entry for entry in known}
    close = difflib.get_close_matches(name.casefold(), by_form, n=1, cutoff=0.6)
    return by_form[close[0]] if close else None


def _plain(name: str) -> str:
    """Letters and digits only, so that case, spaces, hyphens and brackets do not matter."""
    return "".join(c for c in name.casefold() if c.isalnum())


@cache
def concept_spellings() -> dict[str, str]:
    """Every known spelling of a concept with SKINCON's own."""
    return {spelling: name for name, more in _DATA["concepts"].items() for spelling in (name, *more)}


def concept(name: str) -> str | None:
    """SKINCON's own spelling of a concept ("Flat-topped" is "Flat topped"), or None if it is none of the 48."""
    by_form = {_plain(spelling): name for spelling, name in concept_spellings().items()}
    return by_form.get(_plain(name))


@cache
def concept_words() -> tuple[Lexicon, dict[str, frozenset[str]]]:
    """The words by which free texts say concepts, and the concepts of each; none where they mean something else."""
    data = read_yaml(Path(__file__).with_name("concept_words.yaml"))
    meaning: dict[str, set[str]] = {phrase: set() for group in data["not_concepts"] for phrase in group}
    for word, name in concept_spellings().items():
        meaning[word] = {name}
    for name, words in data["words"].items():
        for word in words:
            meaning.setdefault(word, set()).add(name)
    terms = Lexicon(Term(word, word, None) for word in meaning)
    return terms, {word: frozenset(names) for word, names in meaning.items()}


def class_title(class_name: str) -> str:
    """The name of a class for people."""
    return _DATA["classes"][class_name]["title"]


def class_disease(class_name: str) -> str:
    """The disease that represents a class where each class needs one name."""
    return _DATA["classes"][class_name]["disease"]


@dataclass(frozen=True)
class DermnetFolder:
    """A folder of Dermnet's Kaggle layout with its class (None: in no row of Table 2) and numbers of files.

    `how` says how certain the class is: "exact" (Table 2 has the same count), "by name" or "none shown".
    """

    name: str
    class_name: str | None
    how: Literal["exact", "by name", "none shown"]
    train: int
    test: int


@cache
def dermnet_folders() -> tuple[DermnetFolder, ...]:
    """The 23 folders, in alphabetical order."""
    return tuple(
        DermnetFolder(row["folder"], row["class"], row["how"], row["train"], row["test"])
        for row in _DATA["dermnet"]
    )


def dermnet_folder(name: str) -> DermnetFolder:
    """The folder of that name; case, spaces and punctuation do not matter.

    Raises:
        UnknownName: no such folder; carries the nearest known name.
    """
    by_form = {_plain(folder.name): folder for folder in dermnet_folders()}
    if _plain(name) in by_form:
        return by_form[_plain(name)]
    close = nearest(name, (folder.name for folder in dermnet_folders()))
    hint = f"; the nearest is '{close}'" if close else ""
    raise UnknownName(f"'{name}' is none of Dermnet's 23 folders{hint}", close)


# --- diseases ------------------------------------------------------------------------------------------


@cache
def _diseases() -> dict[str, Any]:
    return read_yaml(Path(__file__).with_name("diseases.yaml"))


@cache
def lexicon() -> Lexicon:
    """All disease names; a term's group is its class, and None where Table 2 shows none."""
    data = _diseases()
    terms = [Term(name.replace("_", " "), name.replace("_", " "), name) for name in CLASSES]
    for group in (*CLASSES, OTHERS, "none"):
        class_name = None if group == "none" else group
        for usual, more in data[group].items():
            if usual == "also":
                terms += [Term(name, name, class_name) for name in more]
            else:
                terms += [Term(name, usual, class_name) for name in (usual, *more)]
        for name in data["only_as_whole_name"].get(group, ()):
            terms.append(Term(name, name, class_name, only_alone=True))
    groups = {term.name: term for term in terms}
    for code, name in data["codes"].items():
        terms.append(Term(code, groups[name].usual, groups[name].group, only_alone=True))
    return Lexicon(terms, words=data["words"])


def written_out(name: str) -> str:
    """The disease that a data set's code stands for ("nv" is "melanocytic nevus"); any other name as it is."""
    return _diseases()["codes"].get(name.casefold(), name)


def disease(name: str) -> Term | None:
    """The disease of that name (any spelling or known synonym), or None if it is not known."""
    return lexicon().get(name)


@lru_cache(4096)
def listed_disease(name: str) -> Term | None:
    """The disease that a data set's list means by a name, which may have brackets and words for site and form too."""
    return disease(name) or naming.reduced(name, _sure, _qualifiers())


def _sure(name: str) -> Term | None:
    """A disease as the rest of a longer name: not a finding that is a disease only as the complete name."""
    term = lexicon().get(name)
    return None if term is None or term.only_alone else term


@cache
def _qualifiers() -> frozenset[str]:
    return frozenset(normal_form(word) for word in _diseases()["qualifiers"])


def disease_class(name: str) -> str | None:
    """The class of a disease; None if the name is unknown (see `listed_disease`) or in no class of Table 2."""
    term = listed_disease(name)
    return term.group if term else None
