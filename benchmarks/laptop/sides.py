"""The sides of the comparison, the own decoder and an engine in a process of its own, and how they are compared."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from benchmarks.harness import pairs, workload
from benchmarks.laptop.external import ExternalEngine
from skingpt4.generation.decoder import Decoder
from skingpt4.generation.sampling import Generation
from skingpt4.model.network import SkinGPT4
from skingpt4.model.prompts import Turn, encode_turns, get_template

FIRST = "seconds to first token"
QUESTION = (
    "Could you describe the skin disease in this image for me? It began on the left forearm about six weeks ago, "
    "itches at night, was treated with a cream against fungi without any effect, and a second place like it has come "
    "up behind the knee since. Nobody else at home has anything like it, and no other disease is known."
)


class Written(NamedTuple):
    """Greedy answers of a fixed length, and the longest wait for a first token."""

    ids: list[list[int]]
    first_token_seconds: float


class Read(NamedTuple):
    """Given answers (users, tokens): the likeliest token at each place, and the given ones' log-probabilities."""

    ids: np.ndarray
    scores: np.ndarray


class Side(Protocol):
    """What answers the users' questions, all at once."""

    def write(self, users: int) -> Written:
        """Greedy answers to the questions of so many users."""

    def read(self, answers: list[list[int]]) -> Read:
        """How it reads answers to the first users' questions."""


class Own:
    """The product's decoder. Each user asks the same question about a picture of their own.

    Args:
        model: a network whose projection changes nothing; image vectors are embeddings of words.
        template: of the prompt.
        num_queries: vectors of a picture.
        users: how many there are at most.
        tokens: of an answer; what would end it earlier is ignored.
        max_guessed: see `Decoder`.
    """

    def __init__(
        self, model: SkinGPT4, template: str, num_queries: int, users: int, tokens: int, max_guessed: int
    ) -> None:
        model.end_tokens = lambda stop: {}  # type: ignore[method-assign]
        self.model, self.tokens = model, tokens
        self.decoder = Decoder(model, max_rows=users, max_guessed=max_guessed)
        style, question = get_template(template), Turn(QUESTION, None, 1)
        self.prompt = encode_turns(style, [question], model.tokenizer, num_queries)
        table = model.language_model.get_input_embeddings()
        self.queries = []
        for user in range(users):
            note = workload.answer_of(model.tokenizer, style, num_queries + 8, user)
            ids = model.tokenizer(note, add_special_tokens=False)["input_ids"][:num_queries]
            self.queries.append(table(torch.tensor([ids])).detach())

    def write(self, users: int) -> Written:
        """All together, in the decoder's thread."""
        generation = Generation(max_new_tokens=self.tokens)
        answers = [self.decoder.submit(self.prompt, each, generation) for each in self.queries[:users]]
        for answer in answers:
            answer.result()
        first = max(answer.timing.seconds_to_first_token for answer in answers if answer.timing)
        return Written([list(answer.ids) for answer in answers], first)

    def read(self, answers: list[list[int]]) -> Read:
        """In one pass for each answer."""
        return self.decoder.run(lambda: self._read(answers))

    @torch.no_grad()
    def _read(self, answers: list[list[int]]) -> Read:
        given = torch.tensor(answers)
        embeds = self._embeds(answers)
        rows = [self.model.language_model.logits(row[None])[0, -len(given[0]) - 1 : -1] for row in embeds]
        scores = torch.stack(rows).float().log_softmax(-1)
        return Read(scores.argmax(-1).numpy(), scores.gather(2, given[:, :, None])[:, :, 0].numpy())

    def _embeds(self, answers: list[list[int]]) -> torch.Tensor:
        """(users, t, width) of the prompts with what follows them."""
        prompts = [torch.tensor([[*self.prompt.input_ids, *ids]]) for ids in answers]
        pairs_of = zip(prompts, self.queries, strict=False)
        return torch.cat([self.model.embed(ids, queries) for ids, queries in pairs_of]).detach()

    def save_prompts(self, users: int, path: Path) -> None:
        """Write the prompts (users, t, width) in fp32."""
        np.save(path, self.decoder.run(lambda: self._embeds([[]] * users)).float().numpy())


class External:
    """An engine that gets the own decoder's prompts as embeddings."""

    def __init__(self, engine: ExternalEngine, own: Own, folder: Path) -> None:
        self.engine, self.own, self.path = engine, own, (folder / "prompts.npy").resolve()
        self.saved = 0  # for how many users

    def write(self, users: int) -> Written:
        """All in one batch."""
        answer = self.engine.ask(embeds=self._prompts(users), tokens=self.own.tokens)
        return Written(answer["ids"], answer["first"])

    def read(self, answers: list[list[int]]) -> Read:
        """Token by token, as it would write them."""
        answer = self.engine.ask(embeds=self._prompts(len(answers)), answers=answers)
        return Read(np.array(answer["ids"]), np.array(answer["scores"]))

    def _prompts(self, users: int) -> str:
        if self.saved != users:
            self.own.save_prompts(users, self.path)
            self.saved = users
        return str(self.path)


def agreement(
    theirs: Side, written: Sequence[Sequence[int]], own: Own, ours: list[list[int]]
) -> dict[str, Any]:
    """How far a side writes what the own decoder writes, and reads it as that does.

    Args:
        theirs: the side.
        written: its answers.
        own: the own decoder in fp32.
        ours: its answers.

    Returns:
        Equal answers; the fraction of tokens before the first that differs; given the own decoder's answers, the
        fraction of places whose likeliest token is the same, and the mean difference of log-probabilities in nats.
    """
    before = 0
    for a, b in zip(written, ours, strict=True):
        before += next((place for place, (x, y) in enumerate(zip(a, b, strict=True)) if x != y), len(b))
    there, here = theirs.read(ours), own.read(ours)
    return {
        "answers": len(ours), "equal_answers": sum(list(a) == b for a, b in zip(written, ours, strict=True)),
        "tokens_before_a_difference": before / sum(map(len, ours)),
        "same_likeliest_token": float((there.ids == here.ids).mean()),
        "mean_difference_nats": float(np.abs(there.scores - here.scores).mean()),
    }  # fmt: skip


def measure(side: Side, own: Own, users: int, rounds: int, name: str) -> dict[str, Any]:
    """One side against the own decoder in fp32, in turns; a ratio above 1 says that the side is faster."""
    written: dict[str, list[list[int]]] = {}

    def work(who: str, which: Side) -> dict[str, float]:
        answers = which.write(users)
        written[who] = answers.ids
        return {FIRST: answers.first_token_seconds}

    found = pairs.compare(
        lambda: work("theirs", side), lambda: work("ours", own), rounds, what=f"{name}, {users} at once"
    )
    tokens = users * own.tokens
    rates = {
        who: [tokens / seconds for seconds in which.figures[pairs.SECONDS]]
        for who, which in ((name, found.ours), ("in_process", found.baseline))
    }
    result = {
        "users": users, "tokens": tokens, "tokens_per_second": rates,
        "ratios": found.ratios(), "median_ratio": found.ratio(),
        "first_token_seconds": {name: found.ours.median(FIRST), "in_process": found.baseline.median(FIRST)},
        "agreement": agreement(side, written["theirs"], own, written["ours"]),
    }  # fmt: skip
    medians = {who: statistics.median(values) for who, values in rates.items()}
    print(f"{name}, {users} at once: {medians[name]:.1f} tokens/s, in process {medians['in_process']:.1f}; "
          f"{found.ratio():.2f} x (median of {rounds} pairs); {result['agreement']}", flush=True)  # fmt: skip
    return result
