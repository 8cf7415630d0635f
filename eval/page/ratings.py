"""The sections of the report about what people said: the seven items (figure 4a) and how far raters agree."""

from __future__ import annotations

from typing import Any

from eval.measures.intervals import Interval
from eval.page.figures import escape, plain
from eval.page.figures_ratings import scale_figure
from eval.page.markup import cell, details, figure, number, paragraph, table
from eval.rating.ratings import ITEMS
from eval.rating.summary import COEFFICIENT_RESAMPLES

# Short enough for the axis of a figure; the whole sentences stand in the table.
SHORT = {
    "diagnosis": "diagnosis correct\nor relevant",
    "description": "description\ninformative",
    "suggestions": "suggestions\nuseful",
    "helps_doctors": "helps doctors",
    "helps_patients": "helps patients",
    "privacy": "protects privacy",
    "willingness": "willing to use",
}
NO_RATINGS = (
    "No ratings yet. Collect them with python -m eval.review --run-dir RUN, then write the report again with "
    "--ratings ratings.csv; figure 4a and the raters' agreement appear here."
)
PUBLISHED = (
    "Published: agree or strongly agree as printed in the article (and the preprint), from forms whose number "
    "does not "
    "fit the stated 150 cases, by raters who knew that a model wrote the text; other cases, other raters, another "
    "model. No comparison of equals, so none is tested."
)
KAPPAS = (
    "1 is full agreement; 0 is chance, except for ICC(2,k), which is the reliability of the raters' mean. "
    "Where nearly "
    "all ratings fall into one category kappa and alpha become small although raters agree; AC2 does not."
)


def printed_shares(printed: dict[str, Any]) -> dict[str, dict[str, float]]:
    """What the paper prints: item -> {edition: percent that agrees}."""
    editions = printed.get("questionnaire", {}).get("percent", {})
    shares = {
        edition: dict(zip(ITEMS, data["agree_or_strongly"], strict=True))
        for edition, data in editions.items()
    }
    return {item: {edition: found[item] for edition, found in shares.items()} for item in ITEMS}


def ratings_section(rated: dict[str, Any], printed: dict[str, Any]) -> str:
    """Figure 4a of each arm, its numbers beside the published ones, hallucinations and the arms' differences."""
    if not rated or not rated["arms"]:
        return paragraph(NO_RATINGS)
    shares = printed_shares(printed)
    raters = f"{rated['raters']} rater{'s' if rated['raters'] > 1 else ''}"
    parts = [paragraph(f"Ratings: {rated['num_ratings']}, cases: {rated['cases']}, by {raters}.")]
    for arm, items in rated["arms"].items():
        words = {SHORT[item]: summary for item, summary in items.items()}
        points = {SHORT[item]: sorted(set(shares[item].values())) for item in items}
        caption = (
            f"{plain(arm)}: the five-point scale by item, n ratings each. Dot and line: agree or strongly "
            "agree with its "
            "95 % interval (cases drawn with all their ratings). Diamonds: published."
        )
        parts.append(f"<h3>{escape(plain(arm))}</h3>")
        parts.append(figure(scale_figure(words, points, f"scale-{arm}"), caption))
        rows = [[escape(ITEMS[item]), *_row(summary, shares[item])] for item, summary in items.items()]
        head = ["item", "agree", "also over raters", "published: article", "preprint", "ratings", "cases"]
        parts.append(table(f"{plain(arm)}: agree or strongly agree, with 95 % intervals", head, rows))
    parts.append(paragraph(PUBLISHED, soft=True))
    if rated["raters"] > 1:
        text = (
            "Also over raters: cases and raters are both drawn (two-way bootstrap), so it speaks of other "
            "raters of the "
            "same kind; with few raters it is rough."
        )
        parts.append(paragraph(text, soft=True))
    return "".join(parts) + _flags(rated) + _pairs(rated)


def _row(summary: dict[str, Any], shares: dict[str, float]) -> list[str]:
    wide = summary["agree_over_raters"]
    return [
        cell(Interval.from_dict(summary["agree"])),
        cell(Interval.from_dict(wide)) if wide else "one rater",
        *(f"{shares[edition]:.2f} %" if edition in shares else "–" for edition in ("article", "preprint")),
        str(summary["num_ratings"]),
        str(summary["num_cases"]),
    ]


def _flags(rated: dict[str, Any]) -> str:
    if not rated["hallucination"]:
        return ""
    rows = [
        [escape(plain(arm)), cell(Interval.from_dict(share)), str(share["n"])]
        for arm, share in rated["hallucination"].items()
    ]
    return table(
        "Answers that raters flagged for something that is not in the picture", ["arm", "flagged", "n"], rows
    )


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _pairs(rated: dict[str, Any]) -> str:
    """Differences of the arms, item by item."""
    parts = []
    for name, items in rated["pairs"].items():
        first, _, second = name.partition("_minus_")
        rows = []
        for item, found in items.items():
            agree, mean = found["agree"], found["mean"]
            points = Interval.from_dict(agree).points().split(" (")
            span = points[1].split(",")[0].replace("-", "−")
            scores = f"{mean['value']:+.2f} <small>{mean['low']:.2f} to {mean['high']:.2f}</small>"
            rows.append(
                [
                    escape(ITEMS[item]),
                    f"{points[0].replace('-', '−')} <small>{span}</small>",
                    scores.replace("-", "−"),
                    _model(found["mixed_model"]),
                    _p(found["p"]),
                    _p(found["p_holm"]),
                ]
            )
        caption = f"{plain(first)} minus {plain(second)}, the same cases and raters"
        parts.append(table(caption, ["item", "agree", "mean score", "mixed model", "p", "p, Holm"], rows))
    if not parts:
        return ""
    text = (
        "Intervals of agree and mean score draw cases and raters (two-way bootstrap). Mixed model: difference "
        "of mean "
        "scores, random effect of the case, raters fixed, REML, Wald interval; “no fit” where it did not "
        "converge, and "
        "the bootstrap stands alone. p: sign flips of whole cases, mean score; the mixed model and p speak of "
        "these raters "
        "only. Holm: corrected for all items and arms of these tables."
    )
    return "<h3>Differences of the arms</h3>" + "".join(parts) + paragraph(text, soft=True)


def _model(found: dict[str, Any] | None) -> str:
    if found is None:
        return "no fit"
    text = f"{found['value']:+.2f} <small>{found['low']:.2f} to {found['high']:.2f}</small>"
    return text.replace("-", "−")


def agreement_section(rated: dict[str, Any]) -> str:
    """How far raters agree, item by item and arm by arm."""
    if not rated or rated["raters"] < 2:
        return paragraph(
            "Agreement needs two raters or more who rated the same cases." if rated else NO_RATINGS
        )
    parts = []
    for arm, items in rated["arms"].items():
        names = list(next((summary["agreement"] for summary in items.values() if summary["agreement"]), {}))
        if not names:
            parts.append(paragraph(f"{plain(arm)}: no two raters rated the same case."))
            continue
        rows = []
        for item, summary in items.items():
            cells = [_coefficient(summary["agreement"].get(name)) for name in names]
            rows.append([escape(ITEMS[item]), *cells, str(summary["num_cases"])])
        parts.append(
            table(f"{plain(arm)}: agreement of the raters, with 95 % intervals", ["item", *names, "n"], rows)
        )
    how = (
        f"Intervals of kappa, alpha and AC2 draw cases ({COEFFICIENT_RESAMPLES} times); that of ICC(2,k) is "
        "based on F. "
        "n is the number of cases."
    )
    return "".join(parts) + paragraph(KAPPAS) + details("How they are computed", paragraph(how))


def _coefficient(found: dict[str, Any] | None) -> str:
    if found is None or found["value"] is None:
        return "not defined"
    return f"{number(found['value'])} <small>{number(found['low'])} to {number(found['high'])}</small>"
