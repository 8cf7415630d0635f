"""A small run folder with made-up answers and generated pictures, and a rater without a browser."""

from __future__ import annotations

import http.cookiejar
import json
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from PIL import Image

from eval.rating.questionnaire import FLAG, ITEMS
from skingpt4.generation.questions import CLINICAL_PROMPTS

MARK = "sharply bordered plaque"  # stands in every answer
FORM = {**dict.fromkeys(ITEMS, "4"), FLAG: "0", "comment": ""}


def make_run(folder: Path, arms: tuple[str, ...] = ("two_step", "untrained"), num_cases: int = 3) -> Path:
    """Write a run of `eval.run`'s shape; the last case has two pictures and a history."""
    (folder / "answers").mkdir(parents=True)
    cases = []
    for number in range(num_cases):
        names = [f"melanoma_{number}.png"] + [f"more_{number}.png"] * (number == num_cases - 1)
        for name in names:
            Image.new("RGB", (40, 30), (200, 150 + number, 120)).save(folder / name)
        history = "for three months" if len(names) > 1 else None
        cases.append({"id": f"melanoma_{number}", "images": names, "history": history})
    (folder / "cases.jsonl").write_text("".join(json.dumps(case) + "\n" for case in cases))
    for arm in arms:
        meta = {"arm": arm, "prompts": CLINICAL_PROMPTS, "language_model": "weights/smollm2-135m-instruct"}
        (folder / f"answers/{arm}.meta.json").write_text(json.dumps(meta))
        with (folder / f"answers/{arm}.jsonl").open("w") as file:
            for case in cases:
                for turn, prompt in enumerate(CLINICAL_PROMPTS, 1):
                    said = f"SkinGPT-4 ({arm}) sees a {MARK} {{value}} <b>in {case['id'][-1]}</b>"
                    row = {
                        "kind": "turn",
                        "arm": arm,
                        "case_id": case["id"],
                        "repeat": 0,
                        "perturbation": None,
                    }
                    file.write(json.dumps({**row, "turn": turn, "prompt": prompt, "answer": said}) + "\n")
    return folder


class Browser:
    """Speaks to the served form as its page does: logs in, then calls what the page's controls call."""

    def __init__(self, url: str, name: str, password: str, session: str) -> None:
        """Log in and read the page's configuration."""
        self.url, self.session = url, session
        self.opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        )
        fields = urllib.parse.urlencode({"username": name, "password": password}).encode()
        self._open(urllib.request.Request(f"{url}/login", fields)).read()
        self.page = self._open(url).read().decode()
        self.config = json.load(self._open(f"{url}/config"))
        backend = [d for d in self.config["dependencies"] if d["backend_fn"]]
        self.calls = {
            "open": self._one(backend, 0),
            "go_on": self._one(backend, 2),
            "back": self._one(backend, 1),
        }
        self.serial = ""

    def _open(self, what: str | urllib.request.Request) -> Any:
        return self.opener.open(what, timeout=300)  # a server that hangs fails its test

    @staticmethod
    def _one(dependencies: list[dict], num_inputs: int) -> int:
        (found,) = [d["id"] for d in dependencies if len(d["inputs"]) == num_inputs]
        return found

    def call(self, what: str, *data: Any) -> list[Any]:
        """The components' new values; `raw` keeps all that was sent to the browser."""
        body = {"data": data, "fn_index": self.calls[what], "session_hash": self.session}
        headers = {"Content-Type": "application/json"}
        join = urllib.request.Request(f"{self.url}/gradio_api/queue/join", json.dumps(body).encode(), headers)
        self._open(join).read()
        self.raw = ""
        with self._open(f"{self.url}/gradio_api/queue/data?session_hash={self.session}") as stream:
            for line in stream:
                self.raw += line.decode()
                message = json.loads(line[6:]) if line.startswith(b"data: ") else {}
                if message.get("msg") == "process_completed":
                    assert message["success"], message
                    return message["output"]["data"]
        raise ConnectionError("the stream ended before an answer")

    def open(self) -> list[Any]:
        """Load the page; a rater who was not asked yet agrees to take part."""
        shown = self._seen(self.call("open"))
        return self.rate({}) if "-consent-" in self.serial else shown

    def diagnose(self, text: str) -> list[Any]:
        """Send the own diagnosis."""
        return self.rate({"own_diagnosis": text})

    def rate(self, values: dict[str, str]) -> list[Any]:
        """Send a form."""
        sent = json.dumps({"serial": self.serial, "values": values})
        return self._seen(self.call("go_on", None, sent))

    def _seen(self, shown: list[Any]) -> list[Any]:
        if isinstance(shown[1], str) and "data-view" in shown[1]:
            self.serial = shown[1].split('data-view="')[1].split('"')[0]
        return shown
