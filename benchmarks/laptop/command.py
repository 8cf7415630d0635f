"""The own decoder on a CPU against OpenVINO and llama.cpp, on the same weights: python -m benchmarks laptop.

Each engine runs in an environment of its own, whose Python `--openvino` or `--llama-cpp` names. It gets the prompts
as embeddings and writes greedy answers of a fixed length, in turns with the own decoder in fp32. What it writes is
compared with the own decoder's answers, and so is how likely each finds these. Image vectors are embeddings of words
here. The weights of `--shape llama1b` are random, so with it only the speed means something. The engines' files (up
to 20 bytes a parameter) and each measured row stay in `--folder`; the same command continues where it was stopped.

    python -m venv .venv-openvino && .venv-openvino/bin/pip install openvino nncf optimum-intel
    python -m venv .venv-llama && .venv-llama/bin/pip install llama-cpp-python
    python -m benchmarks laptop --openvino .venv-openvino/bin/python --llama-cpp .venv-llama/bin/python

Research software, not a medical device.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import options, shapes
from benchmarks.laptop.external import ExternalEngine
from benchmarks.laptop.files import model_folder, network, write_files
from benchmarks.laptop.sides import External, Own, Side, measure
from skingpt4.checkpoints.checkpoint import git_revision
from skingpt4.support.errors import UserError, reported
from skingpt4.support.files import write_text

OWN = "in_process"
PRECISIONS = {
    OWN: ("bfloat16",),
    "openvino": ("f32", "int8", "int4"),
    "llama_cpp": ("f32", "f16", "q8_0", "q4_k_m"),
}


class Comparison:
    """All rows of one shape: each side that was asked for, at each number of users."""

    def __init__(self, setting: options.Setting, args: Any) -> None:
        self.setting, self.args = setting, args
        self.users = (1, 2) if setting.small else tuple(args.users)
        self.tokens = 4 if setting.small else args.tokens
        self.folder: Path = args.folder / setting.shape.name
        self.pythons = {"openvino": args.openvino, "llama_cpp": args.llama_cpp}
        self.config = shapes.configuration(setting.shape)
        # Random weights repeat one word.
        self.max_guessed = 0 if setting.shape.language else args.max_guessed
        self.conditions = {
            "commit": git_revision(), "threads": torch.get_num_threads(), "pairs": setting.pairs,
            "new_tokens": self.tokens, "users": list(self.users), "max_guessed": self.max_guessed,
        }  # fmt: skip

    def sides(self) -> list[tuple[str, str]]:
        """(engine, precision) of those whose environments were named.

        Raises:
            UserError: `--only` names something else.
        """
        named = [
            (engine, precision)
            for engine, precisions in PRECISIONS.items()
            for precision in precisions
            if engine == OWN or self.pythons[engine]
        ]
        wanted = self.args.only or [" ".join(side) for side in named]
        if unknown := set(wanted) - {" ".join(side) for side in named}:
            raise UserError(
                f"--only {', '.join(sorted(unknown))}: choose of {', '.join(map(' '.join, named))}"
            )
        return [side for side in named if " ".join(side) in wanted]

    def run(self) -> dict[str, Any]:
        """Measure what is not measured yet."""
        sides = self.sides()
        self.folder.mkdir(parents=True, exist_ok=True)
        model = model_folder(self.setting.shape, self.folder, self.config.seed)
        own = self._own(model, torch.float32)
        write_files(own.model.language_model.model, self.folder)
        rows = [self._row(*side, model, own) for side in sides]
        return {**self.conditions, "prompt_positions": len(own.prompt.input_ids), "rows": rows}

    def _own(self, model: Path, dtype: torch.dtype) -> Own:
        num_queries, template = self.config.qformer.num_query_tokens, self.config.prompt.template
        return Own(
            network(model, dtype), template, num_queries, max(self.users), self.tokens, self.max_guessed
        )

    def _row(self, engine: str, precision: str, model: Path, own: Own) -> dict[str, Any]:
        """One side at each number of users; taken from the folder if it was measured under the same conditions."""
        done = self.folder / f"row-{engine}-{precision}.json"
        if done.is_file():
            earlier: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
            if earlier["conditions"] == self.conditions:
                print(f"{engine} {precision}: measured before ({done})", flush=True)
                return dict(earlier["row"])
        name = f"{engine} {precision}"
        row: dict[str, Any] = {"engine": engine, "precision": precision}
        with self._side(engine, precision, model, own) as (side, facts):
            rates = [measure(side, own, users, self.setting.pairs, name) for users in self.users]
        row |= {**facts, "rates": rates}
        write_text(done, json.dumps({"conditions": self.conditions, "row": row}))
        return row

    @contextmanager
    def _side(
        self, engine: str, precision: str, model: Path, own: Own
    ) -> Iterator[tuple[Side, dict[str, Any]]]:
        if engine == OWN:
            other = self._own(model, getattr(torch, precision))
            weights = {id(each): each.nbytes for each in other.model.language_model.parameters()}
            yield other, {"bytes": sum(weights.values())}
            other.decoder.close()
            return
        print(f"{engine} {precision}: making and loading its files ...", file=sys.stderr, flush=True)
        arguments = [
            engine,
            str(self.folder),
            str(model),
            precision,
            "--threads",
            str(torch.get_num_threads()),
        ]
        with ExternalEngine(self.pythons[engine], arguments, self.folder / f"{engine}.log") as process:
            yield External(process, own, self.folder), process.facts


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    made = options.parser("laptop", __doc__, pairs=3)
    made.add_argument("--openvino", type=Path, metavar="PYTHON", help="of the environment that has OpenVINO")
    made.add_argument("--llama-cpp", type=Path, metavar="PYTHON", help="of the one that has llama-cpp-python")
    made.add_argument(
        "--only", action="append", metavar="'ENGINE PRECISION'", help="e.g. 'openvino int8'; may be repeated"
    )
    made.add_argument("--users", type=int, nargs="+", default=[1, 8], help="at once (default: 1 8)")
    made.add_argument("--tokens", type=int, default=64, help="of an answer (default: %(default)s)")
    made.add_argument("--max-guessed", type=int, default=8, help="of the own decoder; 0 reads nothing ahead")
    made.add_argument(
        "--folder",
        type=Path,
        default=Path("runs/laptop"),
        help="of the engines' files (default: %(default)s)",
    )
    with reported() as status:
        setting, args = options.settle("laptop", made, argv)
        setting.save(Comparison(setting, args).run())
    return status.code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
