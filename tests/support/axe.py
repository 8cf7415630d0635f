"""axe-core's checks (WCAG 2.2 A and AA, and its best practices) on what a browser shows."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

from tests.support.page_driver import AT_REST

# Runs on everything that is visible; what axe cannot decide by itself ("incomplete") is left to people.
RUN = """async () => {
  const {violations} = await axe.run(document, {resultTypes: ["violations"]});
  return violations.flatMap(({id, nodes}) => nodes.map(node => [id, node.target.flat().join(" "),
    node.failureSummary.split("\\n").slice(1).join(" ").trim()]));
}"""


def script() -> Path | None:
    """axe.min.js: of $AXE, or of the package axe-playwright-python; None where there is neither."""
    spec = importlib.util.find_spec("axe_playwright_python")
    given = os.environ.get("AXE")
    path = (
        Path(given) if given else Path(spec.origin).with_name("axe.min.js") if spec and spec.origin else None
    )
    return path if path is not None and path.is_file() else None


def violations(page: Any) -> list[tuple[str, str, str]]:
    """(rule, selector, what to fix) of every violation."""
    path = script()
    assert path is not None
    if not page.evaluate("() => typeof window.axe === 'object'"):
        page.evaluate(path.read_text(encoding="utf-8"))
    page.evaluate(AT_REST)
    return [tuple(row) for row in page.evaluate(RUN)]
