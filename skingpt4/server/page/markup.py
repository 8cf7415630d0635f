"""The parts of the consultation page that are only read, as HTML: banner, guidance, images, differential."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from skingpt4.chat.differential import ClassProbability, Differential
from skingpt4.chat.exporting.sections import alarm_sentences
from skingpt4.chat.texts import Texts, languages
from skingpt4.records.images import MAX_JPEG_PIXELS, MAX_PIXELS
from skingpt4.server.address import Address
from skingpt4.server.cover import covered
from skingpt4.server.gradio_app import escape
from skingpt4.server.page.state import VIEWS, CaseImage, PageState
from skingpt4.taxonomy import taxonomy

NUM_DISEASES = 5
NUM_BARS = 5  # classes that are visible at once; a click shows the others
MIN_CONCEPT = 0.5  # the probability from which a concept is shown


def _list(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def disclaimer(texts: Texts, address: Address) -> str:
    """What every screen shows: not a diagnosis, and where images go."""
    destination = escape(_destination(texts, address))
    return f'<p role="note"><strong>{escape(texts["not_a_diagnosis"])}</strong> {destination}</p>'


def _destination(texts: Texts, address: Address) -> str:
    """Where images go."""
    return texts["leave" if address.share else "stay_here" if address.local else "stay_there"]


def banner(model: dict[str, Any], texts: Texts) -> str:
    """What is loaded, at which step, trained on what, with a caution where one applies."""
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
        f"<div><dt>{escape(texts[f'banner.{key}'])}</dt><dd>{escape(value)}</dd></div>"
        for key, value in facts.items()
        if value
    )
    title = f"<h1>{escape(texts['title'])} <span>{escape(texts['subtitle'])}</span></h1>"
    below = f'<p class="caution" role="note">{escape(texts[f"banner.{caution}"])}</p>' if caution else ""
    return f'<header>{title}<dl aria-label="{escape(texts["banner.label"])}">{items}</dl></header>{below}'


def user(name: str, texts: Texts) -> str:
    """Who is logged in, and the button that logs out."""
    who, log_out = escape(texts("server.logged_in_as", user=name)), escape(texts["server.log_out"])
    return f'<form class="user" method="post" action="./logout">{who} <button>{log_out}</button></form>'


def language_links(texts: Texts, paths: dict[str, str]) -> str:
    """Links to the page in the other languages."""
    names = languages()
    links = " ".join(
        f'<a href="{paths[code]}" lang="{code}" hreflang="{code}" target="_self">{escape(names[code])}</a>'
        for code in paths
        if code != texts.code
    )
    return f'<nav class="languages" aria-label="{escape(texts["switch_language"])}">{links}</nav>'


def welcome(texts: Texts, address: Address) -> str:
    """What the page is, what it is not, and where images go; the user accepts it before anything else."""
    destination = _destination(texts, address)
    privacy = [
        line.format(where=destination)
        for line in texts.lines("welcome.privacy_shared" if address.share else "welcome.privacy")
    ]
    parts = (
        ("is", texts.lines("welcome.is")),
        ("is_not", texts.lines("welcome.is_not")),
        ("privacy", privacy),
    )
    cards = "".join(
        f'<section class="card {name}"><h3>{escape(texts[f"welcome.{name}_heading"])}</h3>{_list(lines)}</section>'
        for name, lines in parts
    )
    return f'<h2>{escape(texts["welcome.heading"])}</h2><div class="cards">{cards}</div>'


_DRAWINGS = {  # an arm from far, a patch of skin, a lesion that fills the frame; drawn in currentColor
    "far": '<path d="M8 44 C24 30 34 34 46 24 S70 12 82 16 M8 56 C28 48 40 50 52 40 S74 30 86 32" '
    'fill="none" stroke="currentColor" stroke-width="2.5" stroke-linecap="round"/><circle cx="47" cy="33" r="3.2"/>',
    "middle": '<path d="M2 14 C30 6 60 8 88 16 M2 56 C30 62 60 60 88 52" fill="none" stroke="currentColor" '
    'stroke-width="2.5" stroke-linecap="round"/><path d="M38 28 c8 -6 18 -1 17 7 s-12 12 -18 6 s-5 -9 1 -13z"/>',
    "close": '<path d="M22 14 c18 -13 48 -4 47 17 s-26 34 -45 22 s-21 -27 -2 -39z"/>',
}  # fmt: skip


def guidance(texts: Texts, address: Address, opened: bool = True) -> str:
    """How to take the images: distance, focus, light and background, and the three views."""
    figures = "".join(
        f'<li><svg viewBox="0 0 90 66" aria-hidden="true"><rect x="1" y="1" width="88" height="64" rx="5"/>'
        f"{_DRAWINGS[view]}</svg><span><strong>{escape(texts[f'guidance.{view}'])}</strong> "
        f"{escape(texts[f'guidance.{view}_words'])}</span></li>"
        for view in VIEWS
    )
    lines = [texts[f"guidance.{key}"] for key in ("distance", "focus", "light", "background")]
    limits = texts("guidance.limits", megabytes=address.max_upload_mb, **megapixels())
    heads = (line.partition(":") for line in lines)
    items = "".join(f"<li><strong>{escape(head)}:</strong>{escape(rest)}</li>" for head, _, rest in heads)
    return (
        f'<details class="guidance"{" open" if opened else ""}><summary>{escape(texts["guidance.heading"])}</summary>'
        f'<ol class="figures">{figures}</ol><ul>{items}</ul><p class="hint">{escape(limits)}</p></details>'
    )


def megapixels() -> dict[str, int]:
    """How many million pixels an image may have, for the texts that name it."""
    return {"megapixels": MAX_PIXELS // 10**6, "jpeg_megapixels": MAX_JPEG_PIXELS // 10**6}


def gallery(state: PageState | None, texts: Texts, cover: bool = False) -> str:
    """The images of the case, covered or not, each with its quality and how to retake it."""
    if state is None or not state.images:
        return f'<p class="hint">{escape(texts["pictures.none"])}</p>'
    items = (_case_image(number, image, texts, cover) for number, image in enumerate(state.images, 1))
    return f'<ol class="views">{"".join(items)}</ol>'


def _image(url: str, alt: str, texts: Texts, cover: bool) -> str:
    image = f'<img src="{url}" alt="{escape(alt)}">'
    return covered(image, texts["pictures.uncover"], texts["pictures.cover"]) if cover else image


def _case_image(number: int, image: CaseImage, texts: Texts, cover: bool) -> str:
    shown = image.shown
    name = texts("pictures.alt", number=number, view=texts[f"pictures.{shown.view}"])
    facts = [texts("pictures.size", width=shown.width, height=shown.height)]
    if image.score is not None:
        verdict = texts["pictures.poor" if image.problems else "pictures.good"]
        facts.append(f"{texts('pictures.quality', score=round(100 * image.score))}: {verdict}")
    facts += [texts[f"pictures.remarks.{known}"].rstrip(".") for known in shown.remarks]
    if shown.overridden:
        facts.append(texts["pictures.overridden"])
    if image.held or image.sent:
        facts.append(texts["pictures.waiting" if image.held else "pictures.shown"])
    advice = ((_advice(texts, kind, "problem"), _advice(texts, kind, "retake")) for kind in image.problems)
    items = "".join(f"<li><strong>{escape(what)}</strong> {escape(retake)}</li>" for what, retake in advice)
    problems = f'<ul class="problems">{items}</ul>' if items else ""
    css_class = "held" if image.held else "fine"
    return (
        f'<li class="{css_class}">{_image(image.url, name, texts, cover)}<div><strong>{escape(name)}</strong>'
        f"<p>{escape('; '.join(facts))}</p>{problems}</div></li>"
    )


def _advice(texts: Texts, kind: str, which: str) -> str:
    """What is wrong with an image (`problem`), or how to retake it (`retake`)."""
    known = kind if texts.has(f"quality.{kind}") else "other"
    return texts(f"quality.{known}.{which}", kind=kind)


def localised(texts: Texts, group: str, name: str, default: str) -> str:
    """The name of a class, concept, site or symptom in the page's language."""
    key = f"{group}.{name}"
    return texts[key] if texts.has(key) else default


def _percent(value: float) -> str:
    """A probability for people."""
    return "< 1 %" if 0 < value < 0.01 else f"{100 * value:.0f} %"


def differential(state: PageState | None, texts: Texts, cover: bool = False) -> str:
    """The ranked classes as bars, the confidence, concepts, warning signs, next steps and heat maps."""
    scored = state.differential if state is not None else None
    if state is None or scored is None:
        return f'<p class="hint">{escape(texts["differential.none"])}</p>'
    rows = [_bar(texts, entry) for entry in scored.ranked]
    head = f'<p class="hint">{escape(texts["differential.caption"])}</p>'
    rest = texts("differential.more", count=len(rows) - NUM_BARS)
    bars = f'{head}<ol class="bars">{"".join(rows[:NUM_BARS])}</ol>'
    if rows[NUM_BARS:]:
        bars += (
            f"<details><summary>{escape(rest)}</summary>"
            f'<ol class="bars" start="{NUM_BARS + 1}">{"".join(rows[NUM_BARS:])}</ol></details>'
        )
    best, threshold = _percent(scored.ranked[0].probability), _percent(scored.threshold)
    sure = "confident" if scored.confident else "not_confident"
    # A threshold of 1: there is no calibration, or it did not pass its own check.
    why = "never_confident" if scored.threshold >= 1 else sure
    verdict = texts(f"differential.{why}", probability=best, threshold=threshold)
    calibrated = texts["differential.not_calibrated"]
    if scored.calibration not in ("", "none", None):
        calibrated = texts("differential.calibrated", what=scored.calibration)
    left = (
        f'<p class="verdict {sure}" role="note">{escape(verdict)}</p>{bars}'
        f'<p class="hint">{escape(calibrated)}</p><p class="hint">{escape(texts["differential.meaning"])}</p>'
    )
    right = _diseases(scored, texts) + _concepts(scored, texts)
    for key, lines in (("red_flags", scored.red_flags), ("next_steps", scored.next_steps)):
        if lines:
            right += f'<section class="{key}"><h3>{escape(texts[f"differential.{key}"])}</h3>{_list(lines)}</section>'
        if key == "red_flags" and scored.alarms:
            sentences = alarm_sentences([alarm.to_dict() for alarm in scored.alarms], texts)
            right += "".join(f'<p class="hint alarm">{escape(sentence)}</p>' for sentence in sentences)
    return f'<div class="scores"><div>{left}</div><div>{right}{_heatmaps(state.heatmaps, texts, cover)}</div></div>'


def _bar(texts: Texts, entry: ClassProbability) -> str:
    name = localised(texts, "classes", entry.class_name, taxonomy.class_title(entry.class_name))
    width, percent = max(0.0, min(1.0, entry.probability)) * 100, escape(_percent(entry.probability))
    return (
        f'<li><span class="name">{escape(name)}</span><span class="number">{percent}</span>'
        f'<span class="track" aria-hidden="true"><span style="width:{width:.1f}%"></span></span></li>'
    )


def _diseases(scored: Differential, texts: Texts) -> str:
    rows = scored.diseases[:NUM_DISEASES]
    if not rows:
        return ""
    items = "".join(
        f"<li>{escape(row.name)} <span>{escape(_percent(row.probability))}</span></li>" for row in rows
    )
    heading, note = (escape(texts[f"differential.{key}"]) for key in ("diseases", "diseases_note"))
    return f'<section><h3>{heading}</h3><ol class="chips">{items}</ol><p class="hint">{note}</p></section>'


def _concepts(scored: Differential, texts: Texts) -> str:
    likely = [entry for entry in scored.concepts if entry.probability >= MIN_CONCEPT]
    pairs = [(localised(texts, "concepts", e.name, e.name), _percent(e.probability)) for e in likely]
    items = "".join(f"<li>{escape(name)} <span>{escape(number)}</span></li>" for name, number in pairs)
    body = (
        f'<ul class="chips">{items}</ul>' if likely else f"<p>{escape(texts['differential.no_concepts'])}</p>"
    )
    return f"<section><h3>{escape(texts['differential.concepts'])}</h3>{body}</section>"


def _heatmaps(urls: Sequence[str], texts: Texts, cover: bool) -> str:
    if not urls:
        return ""
    heatmap_note = texts["differential.heatmap_note"]
    figures = "".join(
        _image(url, texts("differential.heatmap_alt", number=number, note=heatmap_note), texts, cover)
        for number, url in enumerate(urls, 1)
    )
    heading, below = escape(texts["differential.heatmap"]), escape(heatmap_note)
    return (
        f'<section class="maps"><h3>{heading}</h3><div>{figures}</div><p class="hint">{below}</p></section>'
    )
