"""Which class and concepts a free text states."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from skingpt4.taxonomy.lexicon import Lexicon
from skingpt4.taxonomy.mentions import Mention, find_mentions, sentences
from skingpt4.taxonomy.taxonomy import CONCEPTS, concept_words, lexicon

Outcome = Literal["asserted", "ambiguous", "no_class", "mentioned", "negated", "unknown"]
OUTCOMES: tuple[Outcome, ...] = ("asserted", "ambiguous", "no_class", "mentioned", "negated", "unknown")
ANSWER_FORM = "This could be a skin disease image of {disease}."


@dataclass(frozen=True)
class Classified:
    """What a text asserts.

    `class_name` is set only where the text asserts diseases of one class (outcome "asserted"). Otherwise the
    outcome says why not: it asserts several classes ("ambiguous") or a disease of no class ("no_class"), it
    only weighs, compares or recalls diseases ("mentioned"), rules them out ("negated") or names none that is
    known ("unknown"). `mention` is the decisive one, `mentions` are all in order of appearance.
    """

    class_name: str | None
    outcome: Outcome
    mention: Mention | None = None
    mentions: tuple[Mention, ...] = ()


def classify(text: str, form: str = ANSWER_FORM, names: Lexicon | None = None) -> Classified:
    """The class that a free text asserts.

    An answer in the published form is judged by that sentence only: what it says later about other diseases does not
    matter, and an unknown disease in that sentence makes the answer unknown. In other texts every sentence counts.
    Assertions of more than one class assert none.

    Args:
        text: an answer, a note or a single name.
        form: the sentence that states a diagnosis, with `{disease}` in it.
        names: diseases with their classes (default: the taxonomy's).
    """
    names = names or lexicon()
    term = names.get(text)
    mentions = find_mentions(names, text)
    if term is not None and not mentions and not re.search(r"[?;]|[.!]\s", text):
        mentions = (Mention(term, 0, len(text), text, "asserted"),)
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
    """Spans where the text states a diagnosis in the given form: from the disease to the end of the sentence."""
    words = form.split("{disease}")[0].split()
    if not words:
        return []
    opening = re.compile(r"\s+".join(map(re.escape, words)), re.IGNORECASE)
    return [
        (match.end(), end) for start, end in sentences(text) for match in opening.finditer(text, start, end)
    ]


def find_concepts(text: str, stated: bool = True) -> list[str]:
    """SKINCON concepts that a text states to be there, in SKINCON's order; else those that it speaks of in any way.

    Any known wording counts ("erythematous", "scaly"). What the text rules out ("no vesicles") or only mentions
    ("may leave a scar") does not, nor does a word inside a disease's name ("plaque psoriasis"), unless it is the
    name's last ("acne scar").
    """
    words, meaning = concept_words()
    diseases = [(start, end) for _, start, end in lexicon().find(text)]
    named: set[str] = set()
    for mention in find_mentions(words, text, "findings"):
        in_name = any(start <= mention.start and mention.end < end for start, end in diseases)
        if not in_name and (mention.status == "asserted" or not stated):
            named |= meaning[mention.term.name]
    return [name for name in CONCEPTS if name in named]
