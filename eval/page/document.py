"""The report as a list of parts: a run already read and measured into its sections."""

from __future__ import annotations

from eval.page.data import Report
from eval.page.parts import Bullets, Document, Part, Section, Text
from eval.page.sections.arms import arms_parts, cards_parts
from eval.page.sections.checklists import checklists_parts, facts
from eval.page.sections.comparisons import comparisons_parts, published_parts, trainings_parts
from eval.page.sections.gallery import gallery_parts
from eval.page.sections.leading import concepts_parts, confusion_parts, groups_parts, losses_parts
from eval.page.sections.measures import consistency_parts, measures_parts
from eval.page.sections.provenance import provenance_parts
from eval.page.sections.ratings import agreement_parts, ratings_parts
from eval.page.sections.summary import lead, summary_parts
from eval.page.sections.tasks import task_parts
from eval.page.sections.times import times_parts

TITLES = {
    "summary": "Summary",
    "arms": "Results of every arm",
    "cards": "What the arms are, and what they cost",
    "comparisons": "Paired comparisons",
    "trainings": "Trainings of one recipe",
    "published": "What others have published",
    "ratings": "What people say of the answers",
    "agreement": "How far the raters agree",
    "times": "Response times",
    "consistency": "Consistency",
    "losses": "Losses of the steps",
    "measures": "Further measures",
    "confusion": "Which class is taken for which",
    "concepts": "Concepts",
    "groups": "By skin type and by class",
    "gallery": "Cases",
    "method": "How the measures are computed",
    "checklists": "Reporting checklists",
    "provenance": "Provenance",
}

METHOD = """
Every case is asked two questions, each in a new conversation: one about the concepts, one about the
diagnosis. Class top-1 does not read the text: every class is scored by the log-probability of an answer
that names it, and the best-scored class must be the true one; for top 3 the true class must be among the
best three. Class in text reads the class from the written answer with the project's list of disease names
and phrases. The disease must be asserted, not ruled out or only considered; an answer that asserts none, or
diseases of several classes, counts as wrong. Concepts are read in any known wording ("scaly" for Scale), unless
the answer rules them out; they are measured on the cases whose concepts are known.
Concept micro F1 pools all (case, concept) pairs: twice the number of concepts rightly named, divided by
those named plus those annotated, and 0 where there are neither. Shares have Wilson 95 % intervals. F1 and
all differences have percentile bootstrap intervals that draw cases; a difference computes both arms on the
same drawn cases. McNemar's exact test uses the cases that only one arm got right. The intervals describe
the sampling of cases, not training again with another seed (for that, see groups of trainings); where no
case differs, a bootstrap interval has no width. Arms of other systems are asked the same; how their classes
were scored stands in the table of arms, and scores of different kinds differ in what they can show.
"""


def document(report: Report) -> Document:
    """The complete report; the section about trainings is there where groups of them were named."""
    results = report.results
    rated = results.get("ratings") or {}
    known = facts(report.answers, results, len(report.losses))
    consistency = results.get("consistency") or {}
    in_order = {arm: consistency[arm] for arm in report.arms if arm in consistency}
    parts: dict[str, list[Part]] = {
        "summary": summary_parts(report),
        "arms": arms_parts(report),
        "cards": cards_parts(report),
        "comparisons": comparisons_parts(report),
        "trainings": trainings_parts(report) if report.groups else [],
        "published": published_parts(report),
        "ratings": ratings_parts(rated, report.printed),
        "agreement": agreement_parts(rated),
        "times": times_parts(report),
        "consistency": consistency_parts(in_order),
        "losses": losses_parts(report),
        "measures": [*task_parts(results), *measures_parts(results["arms"])],
        "confusion": confusion_parts(report),
        "concepts": concepts_parts(report),
        "groups": groups_parts(report),
        "gallery": gallery_parts(report),
        "method": [Text(METHOD.strip())],
        "checklists": checklists_parts(known, TITLES),
        "provenance": provenance_parts(report),
    }
    sections = [
        Section(key, title, parts[key], ends_page=key == "summary")
        for key, title in TITLES.items()
        if parts[key]
    ]
    notes = [Bullets([("", note) for note in report.notes])] if report.notes else []
    introduction: list[Part] = [Text(warning(report), "warn"), Text(lead(report), "lead"), *notes]
    return Document(f"Evaluation of {report.name}", introduction, sections)


def warning(report: Report) -> str:
    """What stands above everything else."""
    pictures = {
        "all": "; the pictures are rendered phantoms with no clinical meaning",
        "some": "; some of the pictures are rendered phantoms with no clinical meaning",
    }
    return f"Research software, not a medical device{pictures.get(report.phantoms, '')}."
