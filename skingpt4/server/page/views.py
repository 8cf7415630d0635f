"""The parts of the consultation page that are read, as HTML: banner, guidance, pictures, differential."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from skingpt4.chat.texts import Texts, languages
from skingpt4.records.images import MAX_PIXELS
from skingpt4.server.page.visit import VIEWS, View, Visit
from skingpt4.taxonomy import taxonomy

NUM_BARS = 5  # classes that are open to view; the others follow on request
CONCEPT_SHOWN = 0.5  # a concept less likely is not shown


def text(value: object) -> str:
    """Text as HTML; also what Gradio's templates would take for theirs is only text."""
    escaped = html.escape(str(value))
    return escaped.replace("{", "&#123;").replace("}", "&#125;").replace("$", "&#36;").replace("`", "&#96;")


def _list(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{text(line)}</li>" for line in lines) + "</ul>"


def strip(texts: Texts, local: bool, shared: bool) -> str:
    """What stands on every screen: not a diagnosis, and where pictures go."""
    return f'<p role="note"><strong>{text(texts["not_a_diagnosis"])}</strong> {text(where(texts, local, shared))}</p>'


def where(texts: Texts, local: bool, shared: bool) -> str:
    """Where pictures go."""
    return texts["leave" if shared else "stay_here" if local else "stay_there"]


def banner(model: dict[str, Any], texts: Texts) -> str:
    """What is loaded, at which step, trained on what; and that it is a demonstration where it is one."""
    step, caution = texts["banner.not_trained"], "untrained"
    trained = ", ".join(model["trained_on"])
    if model["step"] is not None:
        key = f"banner.{model['step']}"
        key, caution = (key if texts.has(key) else "banner.step_other"), ""
        step = texts(key, step=model["step"], iteration=model["iteration"])
    elif model["checkpoint"] != "no checkpoint":
        step, caution = texts["banner.not_known"], "unknown"
    if model["demonstration"]:
        trained, caution = f"{texts['banner.phantoms']}: {trained}", "demonstration"
    path = model["checkpoint"]
    facts = {
        "checkpoint": texts["banner.no_checkpoint"] if path == "no checkpoint" else path,
        "step": step,
        "trained_on": trained,
        "language_model": model["language_model"],
    }
    items = "".join(
        f"<div><dt>{text(texts[f'banner.{key}'])}</dt><dd>{text(value)}</dd></div>"
        for key, value in facts.items()
        if value
    )
    title = f"<h1>{text(texts['title'])} <span>{text(texts['subtitle'])}</span></h1>"
    below = f'<p class="caution" role="note">{text(texts[f"banner.{caution}"])}</p>' if caution else ""
    return f'<header>{title}<dl aria-label="{text(texts["banner.label"])}">{items}</dl></header>{below}'


def switch(texts: Texts, paths: dict[str, str]) -> str:
    """Links to the page in the other languages."""
    names = languages()
    links = " ".join(
        f'<a href="{paths[code]}" lang="{code}" hreflang="{code}" target="_self">{text(names[code])}</a>'
        for code in paths
        if code != texts.code
    )
    return f'<nav class="languages" aria-label="{text(texts["switch_language"])}">{links}</nav>'


def welcome(texts: Texts, local: bool, shared: bool) -> str:
    """What the page is, what it is not, and where pictures go; to be read before it is accepted."""
    goes = where(texts, local, shared)
    privacy = [
        line.format(where=goes)
        for line in texts.lines("welcome.privacy_shared" if shared else "welcome.privacy")
    ]
    parts = (
        ("is", texts.lines("welcome.is")),
        ("is_not", texts.lines("welcome.is_not")),
        ("privacy", privacy),
    )
    cards = "".join(
        f'<section class="card {name}"><h3>{text(texts[f"welcome.{name}_heading"])}</h3>{_list(lines)}</section>'
        for name, lines in parts
    )
    return f'<h2>{text(texts["welcome.heading"])}</h2><div class="cards">{cards}</div>'


_FIGURES = {  # an arm from far, a patch of skin, a lesion that fills the frame; drawn in currentColor
    "far": '<path d="M8 44 C24 30 34 34 46 24 S70 12 82 16 M8 56 C28 48 40 50 52 40 S74 30 86 32" '
    'fill="none" stroke="currentColor" stroke-width="2.5" stroke-linecap="round"/><circle cx="47" cy="33" r="3.2"/>',
    "middle": '<path d="M2 14 C30 6 60 8 88 16 M2 56 C30 62 60 60 88 52" fill="none" stroke="currentColor" '
    'stroke-width="2.5" stroke-linecap="round"/><path d="M38 28 c8 -6 18 -1 17 7 s-12 12 -18 6 s-5 -9 1 -13z"/>',
    "close": '<path d="M22 14 c18 -13 48 -4 47 17 s-26 34 -45 22 s-21 -27 -2 -39z"/>',
}  # fmt: skip


def guidance(texts: Texts, megabytes: int, opened: bool = True) -> str:
    """Distance, focus, light and background, and the three views; open to read before the first picture."""
    figures = "".join(
        f'<li><svg viewBox="0 0 90 66" aria-hidden="true"><rect x="1" y="1" width="88" height="64" rx="5"/>'
        f"{_FIGURES[view]}</svg><span><strong>{text(texts[f'guidance.{view}'])}</strong> "
        f"{text(texts[f'guidance.{view}_words'])}</span></li>"
        for view in VIEWS
    )
    lines = [texts[f"guidance.{key}"] for key in ("distance", "focus", "light", "background")]
    limits = texts("guidance.limits", megabytes=megabytes, megapixels=MAX_PIXELS // 10**6)
    heads = (line.partition(":") for line in lines)
    items = "".join(f"<li><strong>{text(head)}:</strong>{text(rest)}</li>" for head, _, rest in heads)
    return (
        f'<details class="guidance"{" open" if opened else ""}><summary>{text(texts["guidance.heading"])}</summary>'
        f'<ol class="figures">{figures}</ol><ul>{items}</ul><p class="hint">{text(limits)}</p></details>'
    )


def gallery(visit: Visit | None, texts: Texts) -> str:
    """The pictures of the case, each with its quality and how to retake it."""
    views = visit.views if visit is not None else []
    if not views:
        return f'<p class="hint">{text(texts["pictures.none"])}</p>'
    return (
        '<ol class="views">' + "".join(_figure(n, view, texts) for n, view in enumerate(views, 1)) + "</ol>"
    )


def _figure(number: int, view: View, texts: Texts) -> str:
    shown = view.shown
    name = texts("pictures.alt", number=number, view=texts[f"pictures.{shown.view}"])
    facts = [texts("pictures.size", width=shown.width, height=shown.height)]
    if view.score is not None:
        verdict = texts["pictures.poor" if view.problems else "pictures.good"]
        facts.append(f"{texts('pictures.quality', score=round(100 * view.score))}: {verdict}")
    if shown.overridden:
        facts.append(texts["pictures.overridden"])
    if view.held or view.sent:
        facts.append(texts["pictures.waiting" if view.held else "pictures.shown"])
    problems = "".join(
        f"<li><strong>{text(sentence(texts, kind, 'problem'))}</strong> {text(sentence(texts, kind, 'retake'))}</li>"
        for kind in view.problems
    )
    problems = f'<ul class="problems">{problems}</ul>' if problems else ""
    kind = "held" if view.held else "fine"
    return (
        f'<li class="{kind}"><img src="{view.url}" alt="{text(name)}"><div><strong>{text(name)}</strong>'
        f"<p>{text('; '.join(facts))}</p>{problems}</div></li>"
    )


def sentence(texts: Texts, kind: str, which: str) -> str:
    """What is wrong with a picture, or how to retake it."""
    known = kind if texts.has(f"quality.{kind}") else "other"
    return texts(f"quality.{known}.{which}", kind=kind)


def named(texts: Texts, group: str, name: str, otherwise: str) -> str:
    """A class or concept in the page's language."""
    key = f"{group}.{name}"
    return texts[key] if texts.has(key) else otherwise


def percent(value: float) -> str:
    """A probability for people."""
    return "< 1 %" if 0 < value < 0.01 else f"{100 * value:.0f} %"


def differential(visit: Visit | None, texts: Texts) -> str:
    """The ranked classes as bars, how sure, concepts, warning signs, next steps and heat maps."""
    scored = visit.scored if visit is not None else None
    if visit is None or scored is None:
        return f'<p class="hint">{text(texts["differential.none"])}</p>'
    rows = [_bar(texts, entry) for entry in scored.ranked]
    head = f'<p class="hint">{text(texts["differential.caption"])}</p>'
    rest = texts("differential.more", count=len(rows) - NUM_BARS)
    bars = f'{head}<ol class="bars">{"".join(rows[:NUM_BARS])}</ol>'
    if rows[NUM_BARS:]:
        bars += (
            f"<details><summary>{text(rest)}</summary>"
            f'<ol class="bars" start="{NUM_BARS + 1}">{"".join(rows[NUM_BARS:])}</ol></details>'
        )
    best, threshold = percent(scored.ranked[0].probability), percent(scored.threshold)
    sure = "confident" if scored.confident else "not_confident"
    why = (
        "never_confident" if scored.threshold >= 1 else sure
    )  # no calibration, or none that kept its promise
    verdict = texts(f"differential.{why}", probability=best, threshold=threshold)
    calibrated = texts["differential.not_calibrated"]
    if scored.calibration not in ("", "none", None):
        calibrated = texts("differential.calibrated", what=scored.calibration)
    left = (
        f'<p class="verdict {sure}" role="note">{text(verdict)}</p>{bars}'
        f'<p class="hint">{text(calibrated)}</p><p class="hint">{text(texts["differential.meaning"])}</p>'
    )
    right = _concepts(scored, texts)
    for key, lines in (("red_flags", scored.red_flags), ("next_steps", scored.next_steps)):
        if lines:
            right += f'<section class="{key}"><h3>{text(texts[f"differential.{key}"])}</h3>{_list(lines)}</section>'
    return f'<div class="scores"><div>{left}</div><div>{right}{_maps(visit, texts)}</div></div>'


def _bar(texts: Texts, entry: Any) -> str:
    name = named(texts, "classes", entry.class_name, taxonomy.class_title(entry.class_name))
    width = max(0.0, min(1.0, entry.probability)) * 100
    return (
        f'<li><span class="name">{text(name)}</span><span class="number">{text(percent(entry.probability))}</span>'
        f'<span class="track" aria-hidden="true"><span style="width:{width:.1f}%"></span></span></li>'
    )


def _concepts(scored: Any, texts: Texts) -> str:
    seen = [entry for entry in scored.concepts if entry.probability >= CONCEPT_SHOWN]
    pairs = [(named(texts, "concepts", e.name, e.name), percent(e.probability)) for e in seen]
    items = "".join(f"<li>{text(name)} <span>{text(number)}</span></li>" for name, number in pairs)
    body = f'<ul class="chips">{items}</ul>' if seen else f"<p>{text(texts['differential.no_concepts'])}</p>"
    return f"<section><h3>{text(texts['differential.concepts'])}</h3>{body}</section>"


def _maps(visit: Visit, texts: Texts) -> str:
    if not visit.maps:
        return ""
    heatmap_note = texts["differential.heatmap_note"]
    figures = "".join(
        f'<img src="{url}" alt="{text(texts("differential.heatmap_alt", number=number, note=heatmap_note))}">'
        for number, url in enumerate(visit.maps, 1)
    )
    heading, below = text(texts["differential.heatmap"]), text(heatmap_note)
    return (
        f'<section class="maps"><h3>{heading}</h3><div>{figures}</div><p class="hint">{below}</p></section>'
    )
