"""Everything the model has to say about one picture, with fresh state: quality, classes, concepts, answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PIL import Image

from skingpt4.chat.calibration import Calibration
from skingpt4.chat.differential import differential
from skingpt4.chat.quality import assess
from skingpt4.chat.session import ChatSession
from skingpt4.config.schema import Config
from skingpt4.generation.sampling import Generation
from skingpt4.model.network import SkinGPT4


@dataclass(frozen=True)
class AboutPicture:
    """Call it with an RGB picture; may be called from several threads, whose answers are decoded together."""

    model: SkinGPT4
    config: Config
    calibration: Calibration | None
    questions: tuple[str, ...]
    generation: Generation

    def __call__(self, picture: Image.Image) -> dict[str, Any]:
        """What is known of the picture, JSON-able.

        Returns:
            class (the likeliest of the 15), confident, probabilities, concepts (those with a probability), quality,
            and with questions: text, and turns where there are several.

        Raises:
            ChatError, DifferentialError: what they say.
        """
        session = ChatSession(self.model, self.config)
        try:
            session.add_image(picture)
            found = differential(self.model, self.config, session, self.calibration).to_dict()
            said: dict[str, Any] = {
                "class": found["ranked"][0]["class_name"],
                "confident": found["confident"],
                "probabilities": {row["class_name"]: row["probability"] for row in found["ranked"]},
                "concepts": {row["name"]: row["probability"] for row in found["concepts"]},
                "calibration": found["calibration"],
                "quality": assess(picture).to_dict(),
            }
            answers = [session.ask(question, self.generation) for question in self.questions]
            if answers:
                said["text"] = "\n".join(answers)
            if len(answers) > 1:
                pairs = zip(self.questions, answers, strict=True)
                said["turns"] = [{"question": question, "answer": answer} for question, answer in pairs]
            return said
        finally:
            session.close()
