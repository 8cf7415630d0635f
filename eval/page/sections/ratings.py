"""The sections about what people said: the items by role (figure 4a), urgency, and how far raters agree."""

from __future__ import annotations

from typing import Any

from eval.asking.urgency import URGENCY
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
from eval.rating.questionnaire import DERMATOLOGIST, ITEMS, LAY, ROLES, UNKNOWN, statement
from eval.rating.study import NO_APPROVAL
from eval.rating.summary import COEFFICIENT_RESAMPLES

ROLE_WORDS = {**ROLES, UNKNOWN: "rater"}

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
SHORT_LAY = {**SHORT, "suggestions": "advice useful", "helps_patients": "helps to\nunderstand"}
FEW_ARMS = 3  # that stand unfolded
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


def by_role(rated: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What raters of each role said: role -> of `eval.rating.summary.summary`; empty without ratings."""
    if not rated.get("arms"):
        return {}
    roles = list(rated.get("roles", {})) or [UNKNOWN]
    return rated.get("by_role") or {roles[0]: rated}


def _several(role: str, number: int) -> str:
    return f"{number} {ROLE_WORDS[role]}{'s' if number > 1 else ''}"


def ratings_parts(rated: dict[str, Any], printed: dict[str, Any]) -> list[Part]:
    """Figure 4a for each role and arm, its numbers beside the published ones, hallucinations and differences.

    Roles stand separately, because an item that both dermatologists and lay users rate is not one opinion.

    Args:
        rated: of `eval.rating.summary.summary`; empty without ratings.
        printed: the paper's figures, of `skingpt4.taxonomy.published`.
    """
    roles = by_role(rated)
    if not roles:
        return [Text(NO_RATINGS)]
    who = ", ".join(_several(role, summary["raters"]) for role, summary in roles.items())
    parts: list[Part] = [Text(f"Ratings: {rated['num_ratings']}, cases: {rated['cases']}, by {who}.")]
    parts += _participation(rated.get("study") or {})
    for role, summary in roles.items():
        if len(roles) > 1:
            parts.append(Heading(_several(role, summary["raters"]).capitalize()))
        parts += _role_parts(role, summary, printed_shares(printed), alone=len(roles) == 1)
    if any(_beside_published(role, alone=len(roles) == 1) for role in roles):
        parts.append(Text(PUBLISHED, "soft"))
    if any(summary["raters"] > 1 for summary in roles.values()):
        parts.append(Text(OVER_RATERS, "soft"))
    return [*parts, *_urgency(rated.get("urgency") or {})]


def _participation(study: dict[str, Any]) -> list[Part]:
    """Under which approval people rated, and to what they agreed; of `eval.rating.study.participation`."""
    if not study:
        return [
            Text("The ratings come from a table alone: approval and consent are not recorded here.", "soft")
        ]
    approvals = ", ".join(study["approvals"])
    approved = f"Approval number: {approvals}." if approvals else NO_APPROVAL
    agreed = f"Agreed to take part: {study['num_agreed']} of {study['num_raters']} raters."
    texts: list[Part] = [Text(paragraph) for text in study["texts"] for paragraph in text.split("\n\n")]
    return [Text(f"{approved} {agreed}"), *([Details("What raters agreed to", texts)] if texts else [])]


def _beside_published(role: str, alone: bool) -> bool:
    """Whether the paper's shares, which are dermatologists', stand beside those of a role."""
    return role == DERMATOLOGIST or (alone and role == UNKNOWN)


def _role_parts(
    role: str, rated: dict[str, Any], shares: dict[str, dict[str, float]], alone: bool
) -> list[Part]:
    """What raters of one role said; the published figures are dermatologists'. Further arms are folded if many.

    Args:
        role: of the raters.
        rated: what they said.
        shares: the published ones, of `printed_shares`.
        alone: whether no other role has rated.
    """
    short = SHORT_LAY if role == LAY else SHORT
    head = ["item", "agree", "also over raters", "published: article", "preprint", "ratings", "cases"]
    by_arm: list[list[Part]] = []
    for arm, items in rated["arms"].items():
        by_words = {short[item]: summary for item, summary in items.items()}
        printed = shares if _beside_published(role, alone) else {}
        points = {short[item]: sorted(set(printed[item].values())) for item in items if item in printed}
        caption = (
            f"{plain(arm)}: the five-point scale by item, n ratings each. Dot and line: agree or strongly "
            "agree with its 95 % interval (cases drawn with all their ratings)."
        ) + (" Diamonds: published." if points else "")
        rows: list[Row] = [
            [statement(item, role), *_item_cells(summary, printed.get(item, {}))]
            for item, summary in items.items()
        ]
        by_arm.append(
            [
                Heading(plain(arm), 3 if alone else 4),
                Figure(scale_figure(by_words, points, f"scale-{role}-{arm}"), caption),
                Table(f"{plain(arm)}: agree or strongly agree, with 95 % intervals", head, rows),
            ]
        )
    opened = len(by_arm) if len(by_arm) <= FEW_ARMS and alone else 1
    parts = [part for arm_parts in by_arm[:opened] for part in arm_parts]
    if by_arm[opened:]:
        folded = [part for arm_parts in by_arm[opened:] for part in arm_parts]
        number = len(by_arm) - opened
        parts.append(Details(f"The other {f'{number} arms' if number > 1 else 'arm'}", folded))
    return [*parts, *_hallucinations(rated), *_differences(role, rated)]


def _urgency(urgency: dict[str, Any]) -> list[Part]:
    """How far raters' urgencies agree with the reference, before a text and after each arm's."""
    if not urgency:
        return []
    rows: list[Row] = []
    whose = {
        "own, before any text": urgency["own"],
        **{plain(arm): roles for arm, roles in urgency["arms"].items()},
    }
    for words, roles in whose.items():
        for role, figures in roles.items():
            shares = (share_cell(figures[key]) for key in ("exact", "less_urgent", "more_urgent"))
            rows.append(
                [words, _several(role, figures["raters"]), number_cell(figures["kappa"], "not defined"), *shares,
                 str(figures["num_ratings"]), str(figures["kappa"]["n"])]
            )  # fmt: skip
    head = [
        "after the text of",
        "who",
        "weighted kappa",
        "the same",
        "less urgent",
        "more urgent",
        "ratings",
        "cases",
    ]
    how = (
        f"Urgency has four steps ({', '.join(URGENCY)}). Reference: {urgency['reference']}, "
        f"{urgency['num_cases']} cases. Kappa is quadratic-weighted, the mean over raters; less urgent: "
        "the rating is below the reference."
    )
    return [
        Heading("How soon somebody should be seen"),
        Table("Urgency against the reference", head, rows),
        Text(how, "soft"),
    ]


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


def _differences(role: str, rated: dict[str, Any]) -> list[Part]:
    """Differences of the arms, item by item."""
    tables = []
    for name, items in rated["pairs"].items():
        first, _, second = name.partition("_minus_")
        rows: list[Row] = [
            [
                statement(item, role),
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
    """How far raters of one role agree, item by item and arm by arm."""
    roles = {role: summary for role, summary in by_role(rated).items() if summary["raters"] > 1}
    if not roles:
        return [Text("Agreement needs two raters or more who rated the same cases." if rated else NO_RATINGS)]
    parts: list[Part] = []
    for role, summary in roles.items():
        if len(by_role(rated)) > 1:
            parts.append(Heading(_several(role, summary["raters"]).capitalize()))
        parts += _coefficients(role, summary)
    how = (
        f"Intervals of kappa, alpha and AC2 draw cases ({COEFFICIENT_RESAMPLES} times); that of ICC(2,k) "
        "is based on F. n is the number of cases."
    )
    return [*parts, Text(KAPPAS), Details("How they are computed", [Text(how)])]


def _coefficients(role: str, rated: dict[str, Any]) -> list[Part]:
    parts: list[Part] = []
    for arm, items in rated["arms"].items():
        names = list(next((summary["agreement"] for summary in items.values() if summary["agreement"]), {}))
        if not names:
            parts.append(Text(f"{plain(arm)}: no two raters rated the same case."))
            continue
        rows: list[Row] = []
        for item, summary in items.items():
            cells = [number_cell(summary["agreement"].get(name), "not defined") for name in names]
            rows.append([statement(item, role), *cells, str(summary["num_cases"])])
        caption = f"{plain(arm)}: agreement of the raters, with 95 % intervals"
        parts.append(Table(caption, ["item", *names, "n"], rows))
    return parts
