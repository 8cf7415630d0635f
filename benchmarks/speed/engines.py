"""The vLLM engine against this program's own decoder, on a CPU: python -m benchmarks engines --checkpoint RUN.

Builds vLLM's environment (about 3.5 GB), exports the checkpoint's language model, serves it on loopback, and checks
greedy tokens of eight users over four turns against the own decoder, thirty-two users at once, a listener that
leaves, and an engine that is killed and comes back. Between them it measures tokens per second of both, in turns.
Exits with 1 where a check fails, and with a sentence where vLLM cannot run.

Research software, not a medical device.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import options, vllm_server, workload
from skingpt4.chat.session import ChatSession, context_limit
from skingpt4.checkpoints import merged
from skingpt4.checkpoints.load import ModelSource, model_source
from skingpt4.config.schema import Config, EngineConfig
from skingpt4.generation.answer import Answer
from skingpt4.generation.decoder import Decoder
from skingpt4.generation.engine.decoder import EngineDecoder, decoder_of, require_engine
from skingpt4.generation.questions import CLINICAL_PROMPTS
from skingpt4.generation.sampling import Generation
from skingpt4.model.network import SkinGPT4
from skingpt4.model.prompts import Encoded, Turn, get_template, stop_strings
from skingpt4.support.errors import UserError, reported
from skingpt4.support.remote.http import RemoteError

USERS, TURNS, CROWD = 8, 4, 32
QUICKSTART = "runs/quickstart/step2"
ENDED = 1e9  # in place of nats, where one answer is the beginning of the other
TIE = 0.01  # nats between two tokens, below which rounding may decide
Source = Decoder | EngineDecoder


class Bench:
    """Users with a picture each, who ask the published questions of either source."""

    def __init__(self, model: SkinGPT4, config: Config, num_users: int, max_new_tokens: int) -> None:
        self.model, self.config = model, config
        self.long = min(1200, (context_limit(model) or 2048) // 2)  # tokens of an answer that is not awaited
        self.generation = Generation(max_new_tokens=max_new_tokens)
        self.stop = stop_strings(get_template(config.prompt.template), model.tokenizer)
        session = ChatSession(model, config)
        for number in range(num_users):
            session.add_image(workload.drawn_image(number, "test", seed=7))
        self.queries: list[Tensor] = session.queries

    def consult(self, source: Source, user: int, num_turns: int) -> list[tuple[Encoded, list[int]]]:
        """(prompt, the answer's tokens) of each turn."""
        session, cache = ChatSession(self.model, self.config, source), source.new_cache()
        session.queries, session.waiting = [self.queries[user]], 1
        result = []
        for question in CLINICAL_PROMPTS[:num_turns]:
            prompt = session.prompt(question, self.generation)
            answer = source.submit(prompt, self.queries[user], self.generation, self.stop, cache)
            session.turns.append(Turn(question, answer.result(), session.waiting))
            session.waiting = 0
            result.append((prompt, list(answer.ids)))
        cache.close()
        return result

    def together(self, source: Source, users: int, num_turns: int) -> list[list[tuple[Encoded, list[int]]]]:
        """`consult` of all at once."""
        with ThreadPoolExecutor(users) as pool:
            return list(pool.map(lambda user: self.consult(source, user, num_turns), range(users)))

    def compare(self, there: Source, here: Source, users: int, num_turns: int) -> dict[str, Any]:
        """How many answers have the same tokens; what differs after a tie is no longer the same question."""
        equal = left_out = 0
        ties: list[dict[str, float]] = []
        differing: list[dict[str, float]] = []
        pairs = zip(
            self.together(there, users, num_turns), self.together(here, users, num_turns), strict=True
        )
        for user, (theirs, ours) in enumerate(pairs):
            for turn, ((_, a), (prompt, b)) in enumerate(zip(theirs, ours, strict=True)):
                if a == b:
                    equal += 1
                    continue
                margin = here.run(partial(self._margin, prompt, user, a, b))
                (ties if abs(margin) < TIE else differing).append(
                    {"user": user, "turn": turn, "margin": margin}
                )
                left_out += num_turns - turn - 1
                break
        return {"answers": users * num_turns, "equal": equal, "ties": ties, "differing": differing,
                "after_a_difference": left_out}  # fmt: skip

    @torch.no_grad()
    def _margin(self, prompt: Encoded, user: int, theirs: Sequence[int], ours: Sequence[int]) -> float:
        """Nats by which the own model prefers its own token where the two first differ."""
        place = next(i for i, (a, b) in enumerate(zip([*theirs, -1], [*ours, -1], strict=False)) if a != b)
        ids = torch.tensor([[*prompt.input_ids, *ours[:place]]])
        logits = self.model.language_model.logits(self.model.embed(ids, self.queries[user]))[0, -1]
        scores = logits.float().log_softmax(-1)
        if place >= min(len(theirs), len(ours)):
            return ENDED
        return float(scores[ours[place]] - scores[theirs[place]])

    def rate(self, source: Source, users: int) -> tuple[float, int]:
        """(tokens per second, tokens) of one question by so many users at once."""
        began = time.perf_counter()
        answers = self.together(source, users, 1)
        tokens = sum(len(ids) for turns in answers for _, ids in turns)
        return tokens / (time.perf_counter() - began), tokens


def check_cancelled(bench: Bench, there: EngineDecoder, server: vllm_server.Server) -> dict[str, Any]:
    """Whether the server stops an answer that nobody wants any more."""
    answer = _long(bench, there, 0)
    _until(lambda: len(answer.ids) >= 3, 120)
    seen = server.running()
    answer.stop()
    answer.result()
    began = time.monotonic()
    _until(lambda: server.running() == 0, 30)
    return {"running_before": seen, "tokens": len(answer.ids), "seconds_until_none": time.monotonic() - began,
            "ok": seen == 1 and server.running() == 0}  # fmt: skip


def check_killed(
    bench: Bench, there: EngineDecoder, server: vllm_server.Server, users: int
) -> dict[str, Any]:
    """Whether each user of a killed engine gets a sentence, and an answer when it is back."""
    answers = [_long(bench, there, user) for user in range(users)]
    _until(lambda: all(answer.ids for answer in answers), 240)
    server.stop(kill=True)
    sentences = []
    for answer in answers:
        try:
            answer.result()
        except RemoteError as error:
            sentences.append(str(error))
    seconds = server.start()
    back = bench.together(there, users, 1)
    complete = sum(bool(ids) for turns in back for _, ids in turns)
    return {"users": users, "sentences": len(sentences), "sentence": sentences[:1], "seconds_to_start": seconds,
            "answers_afterwards": complete, "ok": len(sentences) == complete == users}  # fmt: skip


def _long(bench: Bench, there: EngineDecoder, user: int) -> Answer:
    """An answer that does not end soon: it is drawn at random."""
    session = ChatSession(bench.model, bench.config, there)
    session.queries, session.waiting = [bench.queries[user]], 1
    generation = Generation(max_new_tokens=bench.long, temperature=2.0, top_k=0, top_p=1.0, seed=user)
    prompt = session.prompt(CLINICAL_PROMPTS[0], generation)
    return there.submit(prompt, bench.queries[user], generation)


def _until(condition: Callable[[], bool], seconds: float) -> None:
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            raise UserError(f"waited {seconds:g} s in vain; see the server's log")
        time.sleep(0.05)


def measure_rates(
    bench: Bench, there: EngineDecoder, here: Decoder, users: Sequence[int], pairs: int
) -> list[dict[str, Any]]:
    """Tokens per second of both sides in turns."""
    rows = []
    for count in users:
        rates: dict[str, list[float]] = {"vllm": [], "in_process": []}
        tokens = {}
        for number in range(pairs):
            sides: list[tuple[str, Source]] = [("vllm", there), ("in_process", here)]
            for name, source in sides if number % 2 == 0 else reversed(sides):
                rate, tokens[name] = bench.rate(source, count)
                rates[name].append(rate)
        ratio = statistics.median(a / b for a, b in zip(rates["vllm"], rates["in_process"], strict=True))
        rows.append({"users": count, "tokens": tokens, "tokens_per_second": rates, "median_ratio": ratio})
        medians = {name: statistics.median(values) for name, values in rates.items()}
        print(f"{count} users: vLLM {medians['vllm']:.1f} tokens/s, in process {medians['in_process']:.1f}; "
              f"{ratio:.2f} x (median of {pairs} pairs)", flush=True)  # fmt: skip
    return rows


def _source(config: str | None, checkpoint: str | None) -> ModelSource:
    """What is compared; by default the quickstart's run, or its language model where that is not trained yet."""
    if config or checkpoint or Path(QUICKSTART).is_dir():
        return model_source(config, checkpoint or (None if config else QUICKSTART))
    return replace(model_source("configs/tiny/step2.yaml", None), checkpoint_path=None)


def run(setting: options.Setting, args: Any) -> bool:
    """Build, serve, check, measure; whether all checks passed."""
    versions = vllm_server.build(args.environment)
    cores = args.cores or sorted(os.sched_getaffinity(0))
    torch.set_num_threads(len(cores))
    source = _source(args.config, args.checkpoint)
    config = replace(source.config, language=replace(source.config.language, dtype="float32"))
    source = replace(source, config=config)
    folder = args.folder
    merged.write_folder(source, folder, overwrite=folder.exists())
    model = source.load()
    bench = Bench(model, config, 2 if setting.small else CROWD, 8 if setting.small else args.max_new_tokens)
    users, crowd = (2, 2) if setting.small else (USERS, CROWD)
    server = vllm_server.Server(args.environment, folder, cores, Path("runs/benchmarks/vllm.log"))
    with server:
        engine = EngineConfig("vllm", server.url, server.name, retries=0)
        require_engine(model, engine)
        there, here = decoder_of(model, engine), Decoder(model, max_guessed=args.max_guessed)
        assert isinstance(there, EngineDecoder)
        checks: dict[str, Any] = {"greedy": bench.compare(there, here, users, TURNS)}
        print(f"greedy: {checks['greedy']}", flush=True)
        rates = measure_rates(bench, there, here, (1, users), setting.pairs)
        checks["crowd"] = bench.compare(there, here, crowd, 1)
        print(f"crowd: {checks['crowd']}", flush=True)
        checks["cancelled"] = check_cancelled(bench, there, server)
        print(f"cancelled: {checks['cancelled']}", flush=True)
        checks["killed"] = check_killed(bench, there, server, users)
        print(f"killed: {checks['killed']}", flush=True)
    for name in ("greedy", "crowd"):
        checks[name]["ok"] = not checks[name]["differing"]
    setting.save({"engine_versions": versions, "cores": cores, "max_new_tokens": bench.generation.max_new_tokens,
                  "max_guessed": args.max_guessed, "checks": checks, "rates": rates})  # fmt: skip
    return all(check["ok"] for check in checks.values())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    made = options.parser("engines", __doc__, pairs=3)
    made.add_argument("--config", help="with --checkpoint, as of skingpt4 chat")
    made.add_argument(
        "--checkpoint", help=f"default: {QUICKSTART}, or no projection where that is not trained yet"
    )
    made.add_argument(
        "--environment", type=Path, default=Path(".venv-vllm"), help="vLLM's (default: %(default)s)"
    )
    made.add_argument("--folder", type=Path, default=Path("runs/engines/check"), help="of the exported model")
    made.add_argument("--cores", type=int, nargs="+", help="that both compute on (default: all)")
    made.add_argument("--max-new-tokens", type=int, default=64, help="of an answer (default: %(default)s)")
    made.add_argument("--max-guessed", type=int, default=8, help="of the own decoder; 0 reads nothing ahead")
    with reported() as status:
        setting, args = options.settle("engines", made, argv)
        if not run(setting, args):
            raise UserError("a check failed; the result says which")
    return status.code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
