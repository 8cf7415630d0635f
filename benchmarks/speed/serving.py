"""Several users at once, decoded together against one after the other: python -m benchmarks serving.

Every user shows an image of their own and asks two of the published questions, the second when the first is answered.
Both ways have the same decoder, caches and weights; the baseline decodes one answer at a time while the others wait.
Times to the first token include the wait. A pass reads all weights once, for any number of users, so the bytes read
per second are counted by passes, reading prompts included; with random weights nothing is read ahead, see `chat`.

Research software, not a medical device.
"""

from __future__ import annotations

import statistics
import sys
import threading
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from benchmarks.harness import counts, hardware, options, pairs, shapes, workload
from benchmarks.speed import chat
from skingpt4.chat.session import ChatSession
from skingpt4.config.schema import Config
from skingpt4.generation.answer import Timing
from skingpt4.generation.decoder import Decoder
from skingpt4.generation.questions import CLINICAL_PROMPTS
from skingpt4.generation.sampling import ChatError, Generation
from skingpt4.model.network import SkinGPT4
from skingpt4.support.errors import reported

NUM_TURNS = 2


class Crowd:
    """Users who ask at the same time."""

    def __init__(
        self, model: SkinGPT4, config: Config, num_users: int, max_new_tokens: int, max_guessed: int = 8
    ) -> None:
        self.model, self.config, self.max_guessed = model, config, max_guessed
        self.generation = Generation(max_new_tokens=max_new_tokens)
        session = ChatSession(model, config)
        for number in range(num_users):
            session.add_image(workload.drawn_image(number, "test", seed=7))
        self.queries = session.queries  # encoding the images is the same work either way
        # By rows decoded together; passes of each run, as they depend on who comes when.
        self.answers: dict[int, list[list[str]]] = {}
        self.num_tokens: dict[int, int] = {}
        self.passes: dict[int, list[int]] = {}

    def serve(self, max_rows: int) -> dict[str, float]:
        """Answer all; returns seconds to the first token."""
        decoder = Decoder(self.model, max_rows=max_rows, max_guessed=self.max_guessed)
        answers: list[list[str]] = [[] for _ in self.queries]
        timings: list[Timing] = []
        failures: list[BaseException] = []

        def talk(number: int, queries: Tensor) -> None:
            session = ChatSession(self.model, self.config, decoder)
            session.queries, session.waiting = [queries], 1
            try:
                for question in CLINICAL_PROMPTS[:NUM_TURNS]:
                    answers[number].append(session.ask(question, self.generation))
                    assert session.last_timing is not None
                    timings.append(session.last_timing)
            except BaseException as error:
                failures.append(error)
            finally:
                session.close()

        threads = [threading.Thread(target=talk, args=pair) for pair in enumerate(self.queries)]
        with chat.Passes(self.model.language_model) as passes:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        if failures:
            raise failures[0]
        self.answers[max_rows] = answers
        self.passes.setdefault(max_rows, []).append(passes.number)
        firsts = [timing.seconds_to_first_token for timing in timings]
        self.num_tokens[max_rows] = sum(timing.num_tokens for timing in timings)
        return {
            "mean seconds to first token": sum(firsts) / len(firsts),
            "longest seconds to first token": max(firsts),
        }


def measure_crowd(
    setting: options.Setting, crowd: Crowd, max_rows: int, top: hardware.Ceiling, read_bytes: int
) -> dict[str, Any]:
    """Pairs for one number of users, printed; `read_bytes` are those of one pass."""
    users = len(crowd.queries)
    comparison = pairs.compare(
        lambda: crowd.serve(max_rows), lambda: crowd.serve(1), setting.pairs, warm_up=0,
        device=setting.device, what=f"{users} users",
    )  # fmt: skip
    print(f"{users} users")
    sides: dict[str, Any] = {}
    for key, rows, side in (("ours", max_rows, comparison.ours), (pairs.BASELINE, 1, comparison.baseline)):
        tokens, passes = crowd.num_tokens[rows], statistics.median(crowd.passes[rows])
        line = hardware.roofline(top, side.median(), read_bytes=read_bytes * passes)
        rate = tokens / side.median()
        sides[key] = {
            "num_tokens": tokens, "tokens_per_second": rate, "passes": passes, "roofline": line
        }  # fmt: skip
        print(f"  {key}: {rate:.1f} tokens/s, {tokens} in {passes:g} passes; {line['line']}")
    same = sum(a == b for a, b in zip(crowd.answers[max_rows], crowd.answers[1], strict=True))
    for text in (*map(comparison.line, comparison.ours.figures), comparison.peak_line()):
        print(f"  {text}")
    print(f"  same answers: {same} of {users} users", flush=True)
    return {"num_users": users, "users_with_same_answers": same, **sides, "measured": comparison.to_dict()}


def measure(
    setting: options.Setting,
    users: Sequence[int],
    max_rows: int,
    max_new_tokens: int,
    checkpoint: str | None,
    max_guessed: int,
) -> dict[str, Any]:
    """Each number of users in pairs."""
    config = shapes.configuration(setting.shape)
    tokens = max(users) * chat.conversation_tokens(config, [max_new_tokens] * NUM_TURNS)
    model = chat.network(setting, config, tokens, checkpoint)
    top, read = setting.ceiling(), counts.decode_bytes(model.language_model)
    Crowd(model, config, 1, 2, max_guessed).serve(max_rows)  # a first run loads kernels
    rows = [
        measure_crowd(setting, Crowd(model, config, count, max_new_tokens, max_guessed), max_rows, top, read)
        for count in users
    ]
    return {
        "what": f"{NUM_TURNS} answers of up to {max_new_tokens} tokens to each user",
        "checkpoint": checkpoint, "max_guessed": max_guessed, "max_rows": max_rows,
        "weights_read_a_pass_bytes": read, "ceiling": top.to_dict(), "users": rows,
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    made = chat.parser("serving", __doc__, pairs=3)
    made.add_argument("--users", type=int, nargs="+", default=(1, 4, 16), help="(default: 1 4 16)")
    made.add_argument("--max-rows", type=int, default=16, help="decoded together (default: %(default)s)")
    made.add_argument("--max-new-tokens", type=int, default=48, help="of an answer (default: %(default)s)")
    with reported() as status:
        setting, args = chat.settle("serving", made, argv)
        if setting.small:
            args.users, args.max_new_tokens = (1, 2), 4
        if min(setting.pairs, args.max_new_tokens, *args.users) < 1 or args.max_rows < 2:
            raise ChatError("--pairs, --users and --max-new-tokens must be at least 1, --max-rows at least 2")
        setting.save(
            measure(
                setting, args.users, args.max_rows, args.max_new_tokens, args.checkpoint, args.max_guessed
            )
        )
    return status.code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
