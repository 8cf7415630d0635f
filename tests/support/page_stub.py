"""What stands behind the page in tests: a session that answers fixed words, a gate, a differential."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from skingpt4.chat.checks.alarm import AlarmReading
from skingpt4.model.prompts import Turn
from skingpt4.server.page.state import Settings
from skingpt4.server.page.tools import Tools

MODEL = {
    "checkpoint": "runs/x/checkpoints/1", "sha256": "0" * 64, "step": "step2", "iteration": 7,
    "trained_on": ["runs/phantoms/step2/manifest.jsonl"], "demonstration": True, "caution": "",
    "language_model": "tiny", "template": "vicuna",
}  # fmt: skip
QUESTIONS = ("What is wrong with my skin?",)
SETTINGS = Settings(0.0, 1, 160, 0)


class Stub:
    """What the page needs of a `ChatSession`."""

    def __init__(self, words=("it ", "is ", "<b>red</b> "), error=None):
        self.words, self.error, self.closed = words, error, False
        self.asked, self.images, self.stopping = [], [], threading.Event()
        self.turns, self.waiting, self.last_timing = [], 0, None

    def pixels(self, image):
        return torch.zeros(3, 8, 8)

    def add_image(self, image):
        self.images.append(image)
        self.waiting += 1

    def stream(self, question, generation):
        self.stopping.clear()
        self.asked.append((question, generation))
        answer = ""
        for word in self.words:
            if self.stopping.is_set():
                break
            answer += word
            yield word
        if self.error:
            raise self.error
        self.turns.append(Turn(question, answer.strip(), self.waiting))
        self.waiting = 0

    def undo(self):
        turn = self.turns.pop()
        self.waiting += turn.num_images
        return turn

    def condense(self):
        return "it is red"

    def stop(self):
        self.stopping.set()

    def reset(self):
        self.stop()
        self.turns, self.waiting = [], 0

    def close(self):
        self.closed = True


@dataclass
class Judged:
    score: float = 0.9
    problems: tuple[Any, ...] = ()

    @property
    def acceptable(self):
        return not self.problems

    def to_dict(self):
        return {"score": self.score, "acceptable": self.acceptable}


@dataclass
class Problem:
    kind: str


def poor(image: Image.Image) -> Judged:
    return Judged(0.2, (Problem("blurred"), Problem("new_kind")))


@dataclass
class Likely:
    class_name: str
    probability: float
    disease: str = "x"


@dataclass
class Concept:
    name: str
    probability: float


@dataclass
class Scored:
    ranked: tuple[Likely, ...]
    concepts: tuple[Concept, ...] = (Concept("Plaque", 0.83), Concept("Scale", 0.2))
    confident: bool = False
    threshold: float = 0.6
    red_flags: tuple[str, ...] = ("Grows <fast>",)
    next_steps: tuple[str, ...] = ("See a doctor.",)
    calibration: str = "none"
    diseases: tuple[Concept, ...] = ()
    alarms: tuple[AlarmReading, ...] = ()

    def to_dict(self):
        return {"confident": self.confident}


def tools(session=Stub, **more) -> Tools:
    return Tools(new_session=session, model=MODEL, questions=QUESTIONS, **more)


def upload(folder: Path, name: str = "John Doe.jpg", colour: str = "tan") -> dict[str, str]:
    picture = Image.new("RGB", (40, 30), colour)
    exif = picture.getexif()
    exif[0x0112], exif[0x010E] = 6, "taken at home"  # turned by 90 degrees; a description
    picture.save(folder / name, exif=exif)
    return {"path": str(folder / name)}
