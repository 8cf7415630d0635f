"""The page as a browser's script sees it: Gradio's own protocol over HTTP, controls found by their elem_id."""

from __future__ import annotations

import io
import json
import secrets
from collections.abc import Iterator
from typing import Any

import httpx
from PIL import Image


class Page:
    """One open page with a session of its own."""

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=url, timeout=60, trust_env=False, verify=False)
        self.session = secrets.token_hex(8)
        self.read_config()

    def read_config(self) -> None:
        """Read what the page consists of."""
        self.sent = ""  # where the server put the last upload
        self.config = self.http.get("/config").json()
        self.parts = {part["id"]: part["props"] for part in self.config["components"]}
        self.ids = {props.get("elem_id"): number for number, props in self.parts.items()}

    def upload(self, data: bytes, name: str) -> httpx.Response:
        """Send a file as the browser does."""
        return self.http.post("/gradio_api/upload", files={"files": (name, data, "image/jpeg")})

    def call(self, control: str, event: str, **values: Any) -> dict[str, Any]:
        """Do what a control does; `values` replace those of controls, by elem_id.

        Returns:
            The last outputs by elem_id.
        """
        body, outputs = self.body(control, event, **values)
        return self._run(body, outputs)

    def body(self, control: str, event: str, **values: Any) -> tuple[dict[str, Any], list[int]]:
        """What the browser's script would send for this, and the parts that the answer changes."""
        target = [self.ids[control], event]
        number, event_config = next(
            (place, d)
            for place, d in enumerate(self.config["dependencies"])
            if target in map(list, d["targets"])
        )
        given = {self.ids[name.replace("_", "-")]: value for name, value in values.items()}
        data = [given.get(part, self.parts[part].get("value")) for part in event_config["inputs"]]
        return self._body(event_config.get("id", number), data), event_config["outputs"]

    def every_input(self, value: Any) -> Iterator[dict[str, Any]]:
        """For each input of each function that the page can call, a request with this value there."""
        for place, event_config in enumerate(self.config["dependencies"]):
            for position in range(len(event_config["inputs"])) if event_config["backend_fn"] else ():
                data = [self.parts[part].get("value") for part in event_config["inputs"]]
                data[position] = value
                yield self._body(event_config.get("id", place), data)

    def _body(self, number: int, data: list[Any]) -> dict[str, Any]:
        return {"data": data, "fn_index": number, "session_hash": self.session, "trigger_id": None}

    def send(self, body: Any, route: str = "queue/join") -> httpx.Response:
        """Send a request to a route of Gradio's that runs a function."""
        return self.http.post(f"/gradio_api/{route}", json=body)

    def _run(self, body: dict[str, Any], outputs: list[int]) -> dict[str, Any]:
        self.send(body).raise_for_status()
        last: Any = None
        with self.http.stream(
            "GET", "/gradio_api/queue/data", params={"session_hash": self.session}
        ) as events:
            for line in events.iter_lines():
                message = json.loads(line.removeprefix("data:")) if line.startswith("data:") else {}
                if message.get("msg") == "process_completed":
                    assert message["success"], message
                    last = message["output"]["data"]
                if message.get("msg") in ("process_completed", "close_stream"):
                    break
        names = [self.parts[part].get("elem_id") or str(part) for part in outputs]
        return dict(zip(names, last, strict=False))

    def begin(self) -> None:
        """Accept the disclaimer and open a case."""
        self.call("begin", "click", accept=True)

    def add(self, data: bytes, name: str = "photo.jpg") -> dict[str, Any]:
        """Upload a picture and put it into the case; one that does not pass the gate is used anyway."""
        self.sent = self.upload(data, name).raise_for_status().json()[0]
        file = {"path": self.sent, "orig_name": name, "meta": {"_type": "gradio.FileData"}}
        shown = self.call("picture", "input", picture=file)
        self.call("anyway", "click")
        return shown

    def ask(self, question: str) -> str:
        """Ask; everything that the page then shows, as text."""
        return json.dumps(self.call("ask", "click", question=question), ensure_ascii=False)


def png(colour: str = "tan") -> bytes:
    """A small picture of one colour."""
    out = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(out, "PNG")
    return out.getvalue()


def open_page(page: Page) -> tuple[Any, Any]:
    """What the browser holds for as long as a page is open."""
    stream = page.http.stream("GET", f"/gradio_api/heartbeat/{page.session}")
    lines = stream.__enter__().iter_lines()
    next(lines)
    return stream, lines


def client(url: str) -> httpx.Client:
    """A browser that has loaded the page."""
    opened = httpx.Client(base_url=url, trust_env=False, timeout=60)
    opened.get("/")
    return opened
