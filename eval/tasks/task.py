"""A task: the labels of an evaluation, the texts that stand for them, what is asked, and how answers are measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from skingpt4.records.blanks import is_blank
from skingpt4.taxonomy import taxonomy
from skingpt4.taxonomy.lexicon import Lexicon, Term

# What a task may ask the report for; `eval.measures.tasks` computes them.
Metric = Literal[
    "top_k",
    "balanced_accuracy",
    "fairness",
    "weighted_top_k",
    "concept_auroc",
    "multiple_choice",
    "text_overlap",
]
DEFAULT = "skingpt4_15"
UNKNOWN = "unknown"
RecordKey = Annotated[str, Field(pattern="^(x_[a-z0-9_]+|[a-z_]+)$")]


class _Strict:
    """What is read from the file has exactly the declared keys."""

    __pydantic_config__ = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class Published(_Strict):
    """A result that somebody else printed (`value` as a fraction); shown beside ours, never tested against."""

    system: str
    metric: str
    value: float
    source: str
    n: int | None = None


@dataclass(frozen=True)
class Data(_Strict):
    """What the user downloads and accepts, and the command that prepares it."""

    download: str
    terms: str
    command: str


@dataclass(frozen=True)
class Label(_Strict):
    """Where a record says its label: the key, and what its values mean where they are not the labels themselves."""

    key: RecordKey = "disease"
    values: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Task(_Strict):
    """One task; `eval/tasks/*.yaml` are examples, and docs/tasks.md explains every key.

    Attributes:
        classes: the closed set, in its order; empty for a task about concepts or texts alone.
        options: the diseases or synonyms whose sentences stand for a class.
        question: asked before the closed set is scored; None is the project's own.
        answer_form: the sentence with `{disease}` that is scored; None is the configuration's.
        list_question: for systems that choose from a list, with `{options}`.
        prompts: of the conversation; None are the four published ones.
        concepts: to be scored; empty for a task without.
        group_columns: keys of a record by whose values results are divided.
        cluster: key of a record; cases that share its value are drawn together by the bootstrap.
        positive: the class that sensitivity, specificity and AUC are about.
        differential: key of a record that holds {label: weight}.
        references: key of a record that holds reference texts, all of the first prompt.
        choices: options of a multiple-choice question.
        cases_wording: a class whose cases all have one disease is scored in its wording.
        sha256: of the file.
    """

    name: Annotated[str, Field(pattern="^[a-z][a-z0-9_]*$")]
    title: str
    about: str
    classes: tuple[str, ...] = ()
    options: dict[str, tuple[str, ...]] = field(default_factory=dict)
    label: Label = Label()
    question: str | None = None
    answer_form: str | None = None
    list_question: str = (
        "Which of the following does the image show? {options}. Answer with one of them, word for word."
    )
    prompts: tuple[str, ...] | None = None
    with_history: bool = False
    concepts: tuple[str, ...] = ()
    group_columns: tuple[RecordKey, ...] = ()
    cluster: RecordKey | None = None
    positive: str | None = None
    differential: RecordKey | None = None
    references: RecordKey | None = None
    choices: Annotated[int, Field(ge=2, le=48)] = 4
    cases_wording: bool = False
    metrics: tuple[Metric, ...] = ()
    published: tuple[Published, ...] = ()
    data: Data | None = None
    sha256: str = ""

    @property
    def is_default(self) -> bool:
        """Whether it is the paper's own task, which needs no `task.json`."""
        return self.name == DEFAULT

    @property
    def needs_concept_scores(self) -> bool:
        """Whether a metric reads the likelihood of each concept; the default asks for it with --concept-scores."""
        choices = "multiple_choice" in self.metrics and bool(self.concepts)
        return not self.is_default and ("concept_auroc" in self.metrics or choices)

    def label_of(self, row: Mapping[str, Any]) -> str | None:
        """The class of a record: None where its key is empty, or holds none of the task's labels.

        A value may be a label, one of its options or a synonym that the taxonomy knows, in any spelling. With a
        differential it is the likeliest label, of equally likely ones the first in the task's order.

        Args:
            row: a record as its manifest has it, own keys (`x_...`) included.
        """
        if self.differential:
            weights = self.differential_of(row)
            return max(
                (name for name in self.classes if name in weights), key=weights.__getitem__, default=None
            )
        value = row.get(self.label.key)
        if value is None or isinstance(value, list | dict):
            return None
        return self.label_named(str(value))

    def label_named(self, name: str) -> str | None:
        """The class that a name stands for, or None; see `label_of`."""
        text = name.strip()
        if text in self.classes:
            return text
        if label := self._by_value.get(_plain(text)):
            return label
        if self.label.key == "class" or is_blank(text):  # the paper's classes have one spelling
            return None
        term = self.lexicon.get(text)
        return term.group if term else None

    @cached_property
    def _by_value(self) -> dict[str, str]:
        return {_plain(name): label for name, label in self.label.values.items()}

    @cached_property
    def lexicon(self) -> Lexicon:
        """All names of diseases with the task's class as their group, None outside the task.

        A synonym of an option counts for the option's class, unless it belongs to options of several classes.
        """
        own = [Term(name, name, label) for label in self.classes for name in (label, *self.options[label])]
        own += [Term(name.replace("_", " "), name, name) for name in self.classes if "_" in name]
        usual: dict[str, set[str]] = {}
        for term in own:
            known = taxonomy.disease(term.name)
            if known and term.group:
                usual.setdefault(known.usual, set()).add(term.group)
        groups = {name: labels.pop() for name, labels in usual.items() if len(labels) == 1}
        others = [
            Term(term.name, term.usual, groups.get(term.usual), term.only_alone)
            for term in taxonomy.lexicon().terms.values()
        ]
        return Lexicon([*own, *others], words=taxonomy.lexicon().words)

    def has_answer(self, row: Mapping[str, Any]) -> bool:
        """Whether a record says what an answer is measured against."""
        if self.classes:
            return self.label_of(row) is not None
        if self.references:
            return bool(self.references_of(row))
        return row.get("concepts") is not None

    def differential_of(self, row: Mapping[str, Any]) -> dict[str, float]:
        """Label to weight, summing to 1; names that are none of the labels stay as they are.

        Raises:
            ValueError: the record's value is not {name: weight}.
        """
        value = row.get(self.differential) if self.differential else None
        if not value:
            return {}
        if not isinstance(value, dict) or not all(_is_weight(weight) for weight in value.values()):
            raise ValueError("is not an object of names with weights of 0 or more")
        weights: dict[str, float] = {}
        for name, weight in value.items():
            label = self.label_named(str(name)) or str(name)
            weights[label] = weights.get(label, 0.0) + float(weight)
        total = sum(weights.values())
        return {name: weight / total for name, weight in weights.items() if weight} if total else {}

    def references_of(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """The reference texts of a record, without those that say nothing.

        Raises:
            ValueError: the record's value is not a text or a list of texts.
        """
        value = row.get(self.references) if self.references else None
        texts = [value] if isinstance(value, str) else value or []
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ValueError("is not a text or a list of texts")
        return tuple(text for text in texts if not is_blank(text))

    def group_of(self, row: Mapping[str, Any]) -> dict[str, str]:
        """The value of each group column, `unknown` where a record has none."""
        values = {key: row.get(key) for key in self.group_columns}
        return {
            key: UNKNOWN if value is None or is_blank(str(value)) else str(value)
            for key, value in values.items()
        }

    def list_text(self) -> str:
        """The question with the list of labels in it, for systems that are asked to choose."""
        return self.list_question.format(options="; ".join(name.replace("_", " ") for name in self.classes))

    def missing_labels(self, labels: Iterable[str]) -> list[str]:
        """The classes that none of some labels is."""
        present = set(labels)
        return [name for name in self.classes if name not in present]


def _is_weight(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e300


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
