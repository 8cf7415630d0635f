"""The section about consistency (figure 4c): repeats of the same question, and changed pictures."""

from __future__ import annotations

from typing import Any

from eval.measures.intervals import Interval
from eval.page.figures import escape, plain
from eval.page.figures_ratings import repeats_figure
from eval.page.markup import cell, figure, number, paragraph, table

SOURCES = {
    "turn 1": "first answer of the conversation",
    "diagnosis probe": "answer to the question of diagnosis",
}
PUBLISHED = (
    "Published: 93.73 % over 45 samples and 10 repeats. It is possible as the mean pairwise agreement (1898 of "
    "2025 pairs) "
    "and as no share of 450 answers; the temperature is not stated."
)


def consistency_section(found: dict[str, Any]) -> str:
    """Repeats and changes of every arm that has them; a sentence where there is no result.

    Args:
        found: arm -> what `eval.measures.consistency` measured of it.
    """
    parts = [repeats for arm, entry in found.items() if (repeats := _repeats(arm, entry.get("repeats")))]
    if not parts:
        text = "Each case was asked once, so nothing is known of how steady the answers are"
        parts = [paragraph(f"{text}; ask again with eval.run --repeats 10 --temperature 0.7.")]
    else:
        parts.append(paragraph(PUBLISHED, soft=True))
    return "".join(parts) + _changes(found)


def _repeats(arm: str, entry: dict[str, Any] | None) -> str:
    if not entry:
        return ""
    if entry.get("trivial"):
        same = entry.get("identical_texts")
        said = f" ({Interval.from_dict(same).text()} of the cases had identical texts)" if same else ""
        return paragraph(
            f"{plain(arm)}: decoding was greedy, so its {entry['repeats']} repeats are the same by "
            f"construction{said}. "
            "That checks the software and is no result about the model."
        )
    parts, rows = [f"<h3>{escape(plain(arm))}</h3>"], []
    for source, words in SOURCES.items():
        if source not in entry:
            continue
        data = entry[source]
        caption = f"{words}: the class of each repeat against the case's most frequent one, "
        caption += f"temperature {entry['temperature']:g}."
        name = f"repeats-{arm}-{source.replace(' ', '-')}"
        parts.append(figure(repeats_figure(data["matrix"], name), caption[0].upper() + caption[1:]))
        kappa = data["fleiss_kappa"]
        text = number(kappa["value"])
        if kappa["value"] is not None:
            text += f" <small>{number(kappa['low'])} to {number(kappa['high'])}</small>"
        shares = (cell(Interval.from_dict(data[key])) for key in ("pairwise", "modal", "always_same"))
        rows.append([escape(words), *shares, text, str(data["pairwise"]["n"])])
    head = [
        "answer",
        "pairs of repeats that agree",
        "most frequent class",
        "always the same",
        "Fleiss' kappa",
        "n",
    ]
    return "".join(parts) + table(
        f"{plain(arm)}: {entry['repeats']} repeats, n cases, 95 % intervals", head, rows
    )


def _changes(found: dict[str, Any]) -> str:
    parts = []
    for arm, entry in found.items():
        rows = []
        for change, data in (entry.get("perturbations") or {}).items():
            shares = (data.get(key) for key in ("class_scored", "diagnosis probe", "turn 1", "top1"))
            cells = [cell(Interval.from_dict(share)) if share else "–" for share in shares]
            n = max((share["n"] for share in data.values() if isinstance(share, dict)), default=0)
            rows.append([escape(change.replace(":", " ")), *cells, str(n)])
        if rows:
            head = [
                "change",
                "same scored class",
                "same diagnosis in text",
                "same in first answer",
                "top-1 after it",
                "n",
            ]
            parts.append(table(f"{plain(arm)}: changed pictures against the picture as it is", head, rows))
    return ("<h3>Changed pictures</h3>" + "".join(parts)) if parts else ""
