"""The closed vocabularies of the project, and what a free text says in their terms.

The words are data: assets/taxonomy.yaml (SKINCON's concepts, the paper's classes, Dermnet's folders) and
assets/diseases.yaml (names of diseases by class), which is read when first asked for.

    python -m skingpt4.taxonomy "No sign of melanoma; this is a seborrhoeic keratosis."
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from skingpt4.errors import UserError, reported
from skingpt4.lexicon import ASSETS, Lexicon, Term, read_asset
from skingpt4.mentions import Mention, find_mentions, sentences

OTHERS = "others"


class UnknownName(UserError):
    """A name that a vocabulary does not hold; `nearest` is the closest one that it does, or None."""

    def __init__(self, message: str, nearest: str | None) -> None:
        """Keep the message and the suggestion."""
        super().__init__(message)
        self.nearest = nearest


_DATA = read_asset("taxonomy.yaml")

# Column order of the SKINCON annotation files (Daneshjou et al. 2022, arXiv 2302.00785).
CONCEPTS: tuple[str, ...] = tuple(_DATA["concepts"])
# Rows of Table 2 (Nature Communications 2024, 15:5649) without its 16th row, "others".
CLASSES: tuple[str, ...] = tuple(name for name in _DATA["classes"] if name != OTHERS)


def version() -> str:
    """A short hash of all the taxonomy's words and phrases, so that results say what read them."""
    files = ("taxonomy.yaml", "diseases.yaml", "cues.yaml")
    return hashlib.sha256(b"".join((ASSETS / name).read_bytes() for name in files)).hexdigest()[:12]


# --- look-ups ------------------------------------------------------------------------------------------


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is written most alike, or None where nothing comes close."""
    by_form = {entry.casefold(): entry for entry in known}
    close = difflib.get_close_matches(name.casefold(), by_form, n=1, cutoff=0.6)
    return by_form[close[0]] if close else None


def _plain(name: str) -> str:
    """Letters and digits only, so that case, spaces, hyphens and brackets do not matter."""
    return "".join(c for c in name.casefold() if c.isalnum())


@cache
def _concept_spellings() -> dict[str, str]:
    return {spelling: name for name, more in _DATA["concepts"].items() for spelling in (name, *more)}


def concept(name: str) -> str | None:
    """SKINCON's own spelling of a concept ("Flat-topped" is "Flat topped"), or None if it is none of the 48."""
    by_form = {_plain(spelling): name for spelling, name in _concept_spellings().items()}
    return by_form.get(_plain(name))


def class_title(class_name: str) -> str:
    """How a class is called when shown to people."""
    return _DATA["classes"][class_name]["title"]


def class_disease(class_name: str) -> str:
    """The disease that stands for a class where each needs one name."""
    return _DATA["classes"][class_name]["disease"]


@dataclass(frozen=True)
class DermnetFolder:
    """A folder of Dermnet's Kaggle layout with its class (None: in no row of Table 2) and numbers of files.

    `how` tells how sure the class is: "exact" (Table 2 has the same count), "by name" or "none shown".
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
def lexicon() -> Lexicon:
    """All disease names; a term's group is its class, and None where Table 2 shows none."""
    data = read_asset("diseases.yaml")
    terms = [Term(name.replace("_", " "), name.replace("_", " "), name) for name in CLASSES]
    for group in (*CLASSES, OTHERS, "none"):
        class_name = None if group == "none" else group
        for usual, more in data[group].items():
            if usual == "also":
                terms += [Term(name, name, class_name) for name in more]
            else:
                terms += [Term(name, usual, class_name) for name in (usual, *more)]
        for name in data["only_as_whole_name"].get(group, ()):
            terms.append(Term(name, name, class_name, whole=True))
    return Lexicon(terms, words=data["words"])


def disease(name: str) -> Term | None:
    """The disease of that name (any spelling or known synonym), or None if it is not known."""
    return lexicon().whole(name)


def disease_class(name: str) -> str | None:
    """The class of a disease; None if the name is unknown or Table 2 shows no class (`disease` tells which)."""
    found = disease(name)
    return found.group if found else None


# --- free text -----------------------------------------------------------------------------------------

Outcome = Literal["asserted", "ambiguous", "no_class", "mentioned", "negated", "unknown"]
OUTCOMES: tuple[Outcome, ...] = ("asserted", "ambiguous", "no_class", "mentioned", "negated", "unknown")
ANSWER_FORM = "This could be a skin disease image of {disease}."


@dataclass(frozen=True)
class Classified:
    """What a text commits to.

    `class_name` is set only where the text asserts diseases of one class (outcome "asserted"). Otherwise the
    outcome says why not: it asserts several classes ("ambiguous") or a disease of no class ("no_class"), it
    only weighs, compares or recalls diseases ("mentioned"), rules them out ("negated") or names none that is
    known ("unknown"). `mention` is the one that decided, `mentions` are all in order of appearance.
    """

    class_name: str | None
    outcome: Outcome
    mention: Mention | None = None
    mentions: tuple[Mention, ...] = ()


def classify(text: str, form: str = ANSWER_FORM) -> Classified:
    """The class that a free text commits to.

    An answer in the published form is judged by that sentence alone: what a note says later about other
    diseases does not matter, and a disease there that is not known leaves the answer unknown. In other texts
    every sentence counts. Assertions of more than one class commit to none.

    Args:
        text: an answer, a note or a single name.
        form: the sentence that states a diagnosis, with `{disease}` in it.
    """
    whole = disease(text)
    mentions = find_mentions(lexicon(), text)
    if whole is not None and not mentions and not re.search(r"[?;]|[.!]\s", text):
        mentions = (Mention(whole, 0, len(text), text, "asserted"),)
    stated = _stated_spans(text, form)
    deciding = (
        [m for m in mentions if any(start <= m.start < end for start, end in stated)] if stated else mentions
    )
    asserted = [m for m in deciding if m.status == "asserted"]
    if asserted:
        classes = {m.class_name for m in asserted}
        if len(classes) > 1:
            return Classified(None, "ambiguous", asserted[0], mentions)
        outcome: Outcome = "no_class" if classes == {None} else "asserted"
        return Classified(asserted[0].class_name, outcome, asserted[0], mentions)
    for status in ("mentioned", "negated"):
        for mention in deciding:
            if mention.status == status:
                return Classified(None, mention.status, mention, mentions)
    return Classified(None, "unknown", None, mentions)


def _stated_spans(text: str, form: str) -> list[tuple[int, int]]:
    """Where the text states a diagnosis in the given form: from the disease to the end of that sentence."""
    words = form.split("{disease}")[0].split()
    if not words:
        return []
    opening = re.compile(r"\s+".join(map(re.escape, words)), re.IGNORECASE)
    return [
        (match.end(), end) for start, end in sentences(text) for match in opening.finditer(text, start, end)
    ]


def find_names(text: str, names: Iterable[str]) -> list[str]:
    """The names that stand in a text as whole words, in order of appearance; case does not matter.

    A longer name hides a shorter one inside it ("Warty/Papillomatous" is no "Papule").
    """
    found: list[tuple[int, str]] = []
    taken: list[range] = []
    for name in sorted(names, key=len, reverse=True):
        for match in re.finditer(rf"(?<!\w){re.escape(name)}(?!\w)", text, flags=re.IGNORECASE):
            if not any(match.start() in span for span in taken):
                found.append((match.start(), name))
                taken.append(range(*match.span()))
                break
    return [name for _, name in sorted(found)]


def find_concepts(text: str) -> list[str]:
    """SKINCON concepts that a text names in any known spelling, in SKINCON's order."""
    spellings = _concept_spellings()
    found = {spellings[name] for name in find_names(text, spellings)}
    return [name for name in CONCEPTS if name in found]


# --- command line --------------------------------------------------------------------------------------


def _describe(text: str, result: Classified, as_json: bool) -> str:
    mention = result.mention
    if as_json:
        said = [{**asdict(m), "disease": m.term.usual, "class": m.class_name} for m in result.mentions]
        for item in said:
            del item["term"]
        return json.dumps(
            {"text": text, "class": result.class_name, "outcome": result.outcome, "mentions": said},
            ensure_ascii=False,
        )
    parts = [f"{result.class_name or '-':27} {result.outcome:10}"]
    if mention:
        cue = f" by '{mention.cue}'" if mention.cue else ""
        parts.append(f"'{mention.text}' at {mention.start}-{mention.end}, {mention.status}{cue}")
    return "  ".join(parts).rstrip()


def main(argv: Sequence[str] | None = None) -> int:
    """Classify the texts of the command line or of a file; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m skingpt4.taxonomy",
        description="Which of the 15 classes a free text commits to. Research software, no medical device.",
    )
    parser.add_argument("text", nargs="*", help="texts to classify")
    parser.add_argument("--file", type=Path, help="a file with one text a line")
    parser.add_argument("--json", action="store_true", help="one JSON object a line, with all mentions")
    args = parser.parse_args(argv)
    with reported() as status:
        texts = list(args.text)
        if args.file:
            try:
                texts += args.file.read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise UserError(f"{args.file}: cannot be read as text ({error})") from None
        if not texts:
            raise UserError("nothing to classify; give texts or --file")
        counts: Counter[str] = Counter()
        for text in texts:
            result = classify(text)
            counts[result.outcome] += 1
            print(_describe(text, result, args.json))
        if len(texts) > 1:
            said = ", ".join(f"{counts[name]} {name}" for name in OUTCOMES if counts[name])
            print(f"{len(texts)} texts: {said}", file=sys.stderr)
    return status.code


if __name__ == "__main__":
    sys.exit(main())
