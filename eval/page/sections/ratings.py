"""The sections of the report about what people said: the seven items (figure 4a) and how far raters agree."""

from __future__ import annotations

from typing import Any

from eval.page.figures.ratings import scale_figure
from eval.page.parts import (
    NOTHING,
    Details,
    Figure,
    Heading,
    Part,
    Row,
    Table,
    Text,
    number_cell,
    p_value,
    plain,
    points_cell,
    share_cell,
    signed_cell,
)
from eval.rating.ratings import ITEMS
from eval.rating.summary import COEFFICIENT_RESAMPLES

# Short enough for the axis of a figure; the complete sentences stand in the table.
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
    "Published: agree or strongly agree as printed in the article (and the preprint). The number of forms "
    "does not fit the stated 150 cases, and the raters knew that a model wrote the text; cases, raters "
    "and model differ from ours. No comparison of equals, so none is tested."
)
OVER_RATERS = (
    "Also over raters: cases and raters are both drawn (two-way bootstrap), so this interval also covers "
    "other raters of the same kind; with few raters it is rough."
)
DIFFERENCES = (
    "Intervals of agree and mean score draw cases and raters (two-way bootstrap). Mixed model: difference "
    "of mean scores with a random effect of the case and fixed raters, REML, Wald interval; “no fit” "
    "means that it did not converge and only the bootstrap remains. p: sign flips of complete cases, mean "
    "score; the mixed model and p apply to these raters only. Holm: corrected for all items and arms of "
    "these tables."
)
KAPPAS = (
    "1 is full agreement; 0 is chance, except for ICC(2,k), which is the reliability of the raters' mean. "
    "Where nearly all ratings fall into one category kappa and alpha become small although raters agree; "
    "AC2 does not."
)


def printed_shares(printed: dict[str, Any]) -> dict[str, dict[str, float]]:
    """What the paper prints: item -> {edition: percent that agrees}."""
    editions = printed.get("questionnaire", {}).get("percent", {})
    shares = {
        edition: dict(zip(ITEMS, data["agree_or_strongly"], strict=True))
        for edition, data in editions.items()
    }
    return {item: {edition: by_item[item] for edition, by_item in shares.items()} for item in ITEMS}


def ratings_parts(rated: dict[str, Any], printed: dict[str, Any]) -> list[Part]:
    """Figure 4a of each arm, its numbers beside the published ones, hallucinations and the arms' differences.

    Args:
        rated: of `eval.rating.summary.summary`; empty without ratings.
        printed: the paper's figures, of `skingpt4.taxonomy.published`.
    """
    if not rated or not rated["arms"]:
        return [Text(NO_RATINGS)]
    shares = printed_shares(printed)
    raters = f"{rated['raters']} rater{'s' if rated['raters'] > 1 else ''}"
    parts: list[Part] = [Text(f"Ratings: {rated['num_ratings']}, cases: {rated['cases']}, by {raters}.")]
    head = ["item", "agree", "also over raters", "published: article", "preprint", "ratings", "cases"]
    for arm, items in rated["arms"].items():
        by_words = {SHORT[item]: summary for item, summary in items.items()}
        points = {SHORT[item]: sorted(set(shares[item].values())) for item in items}
        caption = (
            f"{plain(arm)}: the five-point scale by item, n ratings each. Dot and line: agree or strongly "
            "agree with its 95 % interval (cases drawn with all their ratings). Diamonds: published."
        )
        rows: list[Row] = [
            [ITEMS[item], *_item_cells(summary, shares[item])] for item, summary in items.items()
        ]
        parts += [
            Heading(plain(arm)),
            Figure(scale_figure(by_words, points, f"scale-{arm}"), caption),
            Table(f"{plain(arm)}: agree or strongly agree, with 95 % intervals", head, rows),
        ]
    parts.append(Text(PUBLISHED, "soft"))
    if rated["raters"] > 1:
        parts.append(Text(OVER_RATERS, "soft"))
    return [*parts, *_hallucinations(rated), *_differences(rated)]


def _item_cells(summary: dict[str, Any], shares: dict[str, float]) -> Row:
    over_raters = summary["agree_over_raters"]
    return [
        share_cell(summary["agree"]),
        share_cell(over_raters) if over_raters else "one rater",
        *(
            f"{shares[edition]:.2f} %" if edition in shares else NOTHING
            for edition in ("article", "preprint")
        ),
        str(summary["num_ratings"]),
        str(summary["num_cases"]),
    ]


def _hallucinations(rated: dict[str, Any]) -> list[Part]:
    if not rated["hallucination"]:
        return []
    caption = "Answers that raters flagged for something that is not in the picture"
    rows: list[Row] = [
        [plain(arm), share_cell(share), str(share["n"])] for arm, share in rated["hallucination"].items()
    ]
    return [Table(caption, ["arm", "flagged", "n"], rows)]


def _differences(rated: dict[str, Any]) -> list[Part]:
    """Differences of the arms, item by item."""
    tables = []
    for name, items in rated["pairs"].items():
        first, _, second = name.partition("_minus_")
        rows: list[Row] = [
            [
                ITEMS[item],
                points_cell(pair["agree"]),
                signed_cell(pair["mean"]),
                signed_cell(pair["mixed_model"]) if pair["mixed_model"] else "no fit",
                p_value(pair["p"]),
                p_value(pair["p_holm"]),
            ]
            for item, pair in items.items()
        ]
        caption = f"{plain(first)} minus {plain(second)}, the same cases and raters"
        tables.append(Table(caption, ["item", "agree", "mean score", "mixed model", "p", "p, Holm"], rows))
    return [Heading("Differences of the arms"), *tables, Text(DIFFERENCES, "soft")] if tables else []


def agreement_parts(rated: dict[str, Any]) -> list[Part]:
    """How far raters agree, item by item and arm by arm."""
    if not rated or rated["raters"] < 2:
        return [Text("Agreement needs two raters or more who rated the same cases." if rated else NO_RATINGS)]
    parts: list[Part] = []
    for arm, items in rated["arms"].items():
        names = list(next((summary["agreement"] for summary in items.values() if summary["agreement"]), {}))
        if not names:
            parts.append(Text(f"{plain(arm)}: no two raters rated the same case."))
            continue
        rows: list[Row] = []
        for item, summary in items.items():
            cells = [number_cell(summary["agreement"].get(name), "not defined") for name in names]
            rows.append([ITEMS[item], *cells, str(summary["num_cases"])])
        caption = f"{plain(arm)}: agreement of the raters, with 95 % intervals"
        parts.append(Table(caption, ["item", *names, "n"], rows))
    how = (
        f"Intervals of kappa, alpha and AC2 draw cases ({COEFFICIENT_RESAMPLES} times); that of ICC(2,k) "
        "is based on F. n is the number of cases."
    )
    return [*parts, Text(KAPPAS), Details("How they are computed", [Text(how)])]
