"""What the page does in the browser itself, beside what Gradio does there."""

from __future__ import annotations

import json

from skingpt4.chat.texts import Texts

TO_TOP = "(accepted) => { window.scrollTo(0, 0); return [accepted]; }"
SAVE = """(file) => { if (!file) return; const [name, url] = file;
  const link = Object.assign(document.createElement("a"), {href: url, download: name});
  document.body.append(link); link.click(); link.remove(); }"""
# A picture that is pasted anywhere takes the way of one that is chosen; Gradio alone reads the clipboard on a click
# only. The upload's input is there while that source is open. Office programs put a picture beside copied text; the
# text goes into a text box.
_PASTE = """const paste = async event => {
    const file = [...event.clipboardData.files].find(one => one.type.startsWith("image/"));
    const text = event.clipboardData.types.includes("text/plain") && event.target.closest("input, textarea");
    if (!file || text || !document.querySelector("#picture")) return;
    event.preventDefault();
    const find = () => document.querySelector("#picture input[type=file]");
    if (!find()) document.querySelector("#picture .source-selection button").click();
    for (let tries = 0; !find() && tries < 40; tries++) await new Promise(done => setTimeout(done, 50));
    const sent = new DataTransfer();
    sent.items.add(file);
    if (find()) { find().files = sent.files; find().dispatchEvent(new Event("change", {bubbles: true})); }
  };"""


def start(texts: Texts) -> str:
    """The language and title of the page, and pictures from the clipboard; once, when it is loaded."""
    title = json.dumps(f"{texts['title']}: {texts['not_a_diagnosis']}", ensure_ascii=False)
    return (
        f"() => {{ {_PASTE}\n  document.addEventListener('paste', paste);\n"
        f"  document.documentElement.lang = {json.dumps(texts.code)}; document.title = {title}; }}"
    )
