"""What fewer bits change in answers about cases: python -m benchmarks laptop-cases --cases MANIFEST --checkpoint X.

The checkpoint's language model is exported for llama.cpp in each precision, and the own decoder and llama.cpp answer
the same two questions about every case: for its concepts, and for what is wrong. Closed sets are scored by the own
language model with either engine, so only texts can differ. For each precision: the share of equal answers, the class
and the concepts that are read from them. An interrupted run goes on; needs `pip install llama-cpp-python`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness.results import RESULTS, about, write
from eval.asking.answers import read_run
from eval.measures.intervals import proportion
from eval.measures.results import write_results
from skingpt4.support.cli import make_parser
from skingpt4.support.errors import UserError, reported

OWN = "in_process"
MEASURES = ("top1_text", "concept_micro_f1")


class CasesRunError(UserError):
    """A command did not end well; its own message is printed above."""


def _run(words: Sequence[str]) -> None:
    if subprocess.run([sys.executable, "-m", *words], check=False).returncode:
        raise CasesRunError(f"'python -m {' '.join(words)}' failed; the same command goes on from here")


def answer(config: str, cases: Path, checkpoint: str, folder: Path, engine: Path | None) -> None:
    """Have every case answered into `folder`; with llama.cpp where the exported file is named."""
    words = ["eval.run", "--config", config, "--cases", str(cases), "--run-dir", str(folder)]
    words += ["--arm", f"two_step={checkpoint}", "--num-prompts", "0", "--max-new-tokens", "48"]
    _run([*words, *([] if engine is None else ["engine=llama_cpp", f"engine.file={engine}"])])


def compare(own: Path, other: Path) -> dict[str, Any]:
    """The measures of the second run, and how many of its answers are those of the first."""
    texts = [
        {key: a.text for key, a in read_run(folder).arms["two_step"].lines.items() if key.kind == "probe"}
        for folder in (own, other)
    ]
    equal = sum(texts[0][key] == text for key, text in texts[1].items())
    arm = write_results(other)["arms"]["two_step"]
    return {
        "equal_answers": proportion(equal, len(texts[1])).to_dict(),
        **{name: arm[name] for name in MEASURES if name in arm},
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    words = list(argv or [])
    parser = make_parser(__doc__ or "", prog="python -m benchmarks laptop-cases")
    add = parser.add_argument
    add("--config", default="configs/tiny/step2.yaml")
    add("--checkpoint", default="runs/quickstart/step2", help="(default: %(default)s)")
    add(
        "--cases",
        type=Path,
        default=Path("runs/phantoms/cases/manifest.jsonl"),
        help="(default: %(default)s)",
    )
    add("--precisions", nargs="+", default=["q8_0", "q4_k_m"], help="of llama.cpp (default: %(default)s)")
    add("--folder", type=Path, default=Path("runs/laptop_cases"), help="of files and answers")
    add("--out", type=Path, default=RESULTS / "laptop_cases.json")
    args = parser.parse_args(words)
    with reported() as status:
        own = args.folder / OWN
        answer(args.config, args.cases, args.checkpoint, own, None)
        rows = {OWN: compare(own, own)}
        for precision in args.precisions:
            files = args.folder / f"files_{precision}"
            if not (files / "model.gguf").is_file():
                _run(["skingpt4", "export", "--checkpoint", args.checkpoint, "--llama-cpp", str(files),
                      "--precision", precision])  # fmt: skip
            run = args.folder / precision
            answer(args.config, args.cases, args.checkpoint, run, files / "model.gguf")
            rows[precision] = compare(own, run)
        meta = json.loads((own / "answers/two_step.meta.json").read_text(encoding="utf-8"))
        result = {
            "checkpoint_sha256": meta["checkpoint_sha256"],
            "num_cases": meta["num_cases"],
            "rows": rows,
        }
        write({**about(["laptop-cases", *words]), **result}, args.out)
    return status.code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
