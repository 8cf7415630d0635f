"""Cases and made-up respondents for tests of foreign arms."""

import hashlib
import json
import threading

from eval.arms.respondent import LOGPROBS, Reply, RespondentError
from tests.support.tiny import write_manifest

CLASSES_OF = {"psoriasis": "psoriasis_and_lichen_planus", "acne": "acne_and_rosacea",
              "melanoma": "melanoma_nevi_moles", "eczema": "dermatitis"}  # fmt: skip


def write_cases(path, count=6):
    """A manifest of cases of four classes, one picture each; returns its path."""
    write_manifest(path, count)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for number, row in enumerate(rows):
        row |= {"class": CLASSES_OF[row["disease"]], "case_id": f"case-{number}"}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class Echo:
    """Answers with a hash of all that it was shown and asked, and notes it; fails where `fails(question)`."""

    def __init__(self, turns=True, scores=True, fails=lambda question: False, closed_set=LOGPROBS):
        self.card = {"kind": "echo", "model": "echo", "closed_set": closed_set, "device": "here"}
        self.turns, self.scores, self.fails = turns, scores, fails
        self.asked, self.lock = [], threading.Lock()

    def _key(self, images, *rest):
        pixels = [image.tobytes() for image in images]
        return hashlib.sha256(repr((pixels, rest)).encode()).hexdigest()[:12]

    def reply(self, images, conversation, question, seed):
        with self.lock:
            self.asked.append((len(images), list(conversation), question, seed))
        if self.fails(question):
            raise RespondentError("the echo failed")
        return Reply(f"This could be eczema. {self._key(images, conversation, question, seed)}", 3, 0.1, 0.2)

    def score(self, images, question, options):
        with self.lock:
            self.asked.append((len(images), [], question, list(options)))
        return {name: -float(number) for number, name in enumerate(options)}
