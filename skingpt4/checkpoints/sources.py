"""Where the pictures of a checkpoint's training come from, and under which terms, as its card has them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from skingpt4.records.manifest import Manifest

# Every picture of the ISIC archive names whom to attribute: of more terms than this the commonest stand in a card.
MAX_SOURCES = 200


def card_sources(records: Manifest, parent: Mapping[str, Any]) -> dict[str, Any]:
    """What a card says: `sources`, each with `source`, `licence` and `records`, of this run and of those before it.

    Terms that a manifest does not name are null. The list stays on this machine; a shared card does not have it.

    Args:
        records: of the training manifests.
        parent: the card of the checkpoint that the run begins from; empty without one.
    """
    counts: Counter[tuple[str | None, str | None]] = Counter(
        zip(*(records.column(key).to_pylist() for key in ("source", "licence")), strict=True)
    )
    for row in parent.get("sources", ()):
        counts[row["source"], row["licence"]] += row["records"]
    ordered = sorted(counts.items(), key=lambda item: (-item[1], *map(str, item[0])))
    return {
        "sources": [
            {"source": source, "licence": licence, "records": count}
            for (source, licence), count in ordered[:MAX_SOURCES]
        ]
    }
