"""Answer the cases with several arms: python -m eval.run --config ... --cases ... --arm two_step=CHECKPOINT.

An arm is a projection (a checkpoint, or the untouched initial one) and what it is shown: each case's own picture, or,
as a control, a blank one, noise, or another case's. All arms share the encoder, the language model, the prompts and
the way of decoding, so they differ in nothing else.

First the likelihood of each class is computed for all cases. Then each case is one conversation through the four
published prompts, and two questions with fresh state from which concepts and a class are read; several cases are
under way at once, and one that ends makes room for the next. Every answer is written at once; the same command goes
on where a stopped run was. `accelerate launch -m eval.run ...` spreads the cases over processes and machines (on
CPUs `python -m torch.distributed.run --nproc-per-node 2 -m eval.run ...`).
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from PIL import Image
from tqdm import tqdm

from eval.asking import answers, perturbations
from eval.asking.answers import Answer, Key
from eval.asking.arms import (
    Arm,
    ArmError,
    check_folder,
    check_overlap,
    claim,
    forget,
    hardware,
    meta_of,
    parse_arm,
)
from eval.asking.cases import Case, CasesError, read_cases
from eval.asking.conversation import PROBES, Asker, Pictures, Setting
from eval.asking.perturbations import BLANK
from eval.asking.pictures import Shown
from skingpt4.chat.session import CLINICAL_PROMPTS
from skingpt4.checkpoints import checkpoint
from skingpt4.checkpoints.load import load_model, load_projection
from skingpt4.config.load import load_config
from skingpt4.config.schema import Config
from skingpt4.generation.sampling import Generation
from skingpt4.generation.scoring import scored_diseases
from skingpt4.model import lora
from skingpt4.model.build import build_encoder
from skingpt4.model.network import SkinGPT4
from skingpt4.records.manifest import read_manifest
from skingpt4.support.errors import reported
from skingpt4.support.files import write_text
from skingpt4.support.threads import in_own_thread
from skingpt4.taxonomy.taxonomy import CLASSES
from skingpt4.training.features import cached_queries


def case_line(case: Case, folder: Path) -> dict[str, Any]:
    """What a report needs of a case; paths are relative to the list of cases."""
    known = case.known
    return {
        "id": case.id,
        "images": [record.image_path.relative_to(folder).as_posix() for record in case.records],
        "sha256": [record.sha256 for record in case.records],
        "class": known.class_name,
        "disease": known.disease,
        "concepts": None if known.concepts is None else list(known.concepts),
        "fitzpatrick": known.fitzpatrick,
        "source": known.source,
        "history": case.history,
        "reference": list(case.reference),
    }


def run_arm(
    asker: Asker,
    arm: Arm,
    cases: Sequence[Case],
    shown: Shown,
    state: PartialState,
    args: argparse.Namespace,
) -> None:
    """Answer what is not answered yet, this process's share of the cases."""
    done = answers.by_key(answers.read_lines(answers.arm_files(args.run_dir, arm.name)))
    if args.concept_scores:  # asked for now, and not by an earlier command: those lines are made anew
        done = {k: a for k, a in done.items() if k.kind != "scores" or a.said["concept_scores"]}
    state.wait_for_everyone()  # nobody writes before all have read
    rank = state.process_index
    name = f"{arm.name}.jsonl" if rank == 0 else f"{arm.name}.rank{rank}.jsonl"
    numbers = list(range(rank, len(cases), state.num_processes))
    own = [cases[number] for number in numbers]
    asked = [
        (repeat, change)
        for change in (None, *args.perturb)
        for repeat in range(1 if change else args.repeats)
    ]
    a_case = len(asker.setting.prompts) + len(PROBES)
    total = sum(len(own) * (a_case + (repeat == 0)) for repeat, _ in asked)
    before = sum(key.case_id in {case.id for case in own} for key in done)
    with (
        (args.run_dir / answers.FOLDER / name).open("a", encoding="utf-8") as file,
        tqdm(total=total, initial=min(before, total), desc=arm.name, unit="answer", disable=rank > 0) as bar,
    ):
        for repeat, change in asked:
            pictures = shown.pictures(arm.control, change, numbers, args.seed)
            ask = asker.answers
            if arm.control == BLANK and asker.setting.generation.temperature == 0:
                ask = once(asker.answers)
            for answer in ask(own, pictures, done, repeat, change):
                file.write(answers.to_line(answer))
                file.flush()
                bar.update()


def once(ask: Callable[..., Iterator[Answer]]) -> Callable[..., Iterator[Answer]]:
    """Ask only the first of cases that are shown the same, and give its answers for all of them."""

    def asked(
        cases: Sequence[Case], pictures: Pictures, done: dict[Key, Answer], repeat: int, change: str | None
    ) -> Iterator[Answer]:
        alike: dict[Any, list[int]] = {}
        for place, case in enumerate(cases):
            alike.setdefault((len(case.records), case.history), []).append(place)
        firsts = [places[0] for places in alike.values()]
        yield from ask(
            [cases[place] for place in firsts],
            lambda which: pictures([firsts[w] for w in which]),
            done,
            repeat,
            change,
        )
        for places in alike.values():
            first = cases[places[0]].id
            for key, answer in list(done.items()):
                if (key.case_id, key.repeat, key.perturbation) != (first, repeat, change):
                    continue
                for place in places[1:]:
                    copy = replace(answer, key=replace(key, case_id=cases[place].id))
                    if copy.key not in done:
                        done[copy.key] = copy
                        yield copy

    return asked


def check(cases: Sequence[Case], where: str) -> None:
    """Refuse cases that no closed set can judge.

    Raises:
        CasesError: a case has none of the 15 classes.
    """
    for case in cases:
        if case.known.class_name not in CLASSES:
            raise CasesError(
                f"{where}: case {case.id!r} needs one of the 15 classes as 'class', found {case.known.class_name!r}"
            )


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m eval.run",
        description=f"{__doc__}\nResearch software, not a medical device.",
        epilog="example:\n  python -m eval.run --config configs/tiny/step2.yaml --run-dir runs/quickstart \\\n"
        "    --cases runs/phantoms/cases/manifest.jsonl --arm two_step=runs/quickstart/step2 --arm untrained",
        formatter_class=raw,
    )
    add, controls = parser.add_argument, ", ".join(perturbations.CONTROLS)
    add("--config", required=True, help="its encoder, language model and template are used")
    add("--cases", required=True, type=Path, help="a manifest (JSONL) with classes, see eval.cases")
    add("--run-dir", required=True, type=Path, help="answers go to its folder answers/")
    add("--arm", action="append", required=True, metavar="NAME=CHECKPOINT",
        help=f"or 'untrained'; arms that are called {controls} are shown such pictures")  # fmt: skip
    add("--batch-size", type=int, default=50, help="cases under way at once (default: %(default)s)")
    add("--max-new-tokens", type=int, default=48, help="of one answer (default: %(default)s)")
    add(
        "--num-prompts", type=int, default=4, choices=range(5), help="only the first of the published prompts"
    )
    add("--repeats", type=int, default=1, help="of every conversation, for consistency")
    add("--temperature", type=float, default=0.0, help="0 (default) is greedy")
    add("--seed", type=int, default=0, help="of sampling, noise and exchanged pictures")
    add("--perturb", action="append", default=[], metavar="KIND:STRENGTH",
        help=f"also ask about changed pictures; 'all': {', '.join(perturbations.STANDARD)}")  # fmt: skip
    add("--concept-scores", action="store_true", help="also score each of the 48 concepts")
    add("--with-history", action="store_true",
        help="put a case's history before the first prompt; the model was not trained for it")  # fmt: skip
    add("--allow-overlap", action="store_true", help="answer cases that a checkpoint was trained on too")
    add("--replace", action="store_true", help="delete answers that were made otherwise")
    add("overrides", nargs="*", metavar="key=value", help="changes to the configuration")
    return parser


def _put_in(
    model: SkinGPT4, config: Config, initial: dict[str, torch.Tensor], checkpoint_path: str | None
) -> dict[str, Any]:
    """Give the model an arm's projection, and LoRA if it has any; returns the checkpoint's card."""
    model.projection.load_state_dict(initial)
    lora.remove(model.language_model)
    card = load_projection(model, config, checkpoint_path) if checkpoint_path else {}
    model.eval()
    return card


def _checked_arms(args: argparse.Namespace) -> list[Arm]:
    """The arms; refuses what is known to fail before anything is read. `--perturb all` is written out.

    Raises:
        ArmError, CheckpointError, PerturbationError: what is wrong on the command line.
    """
    arms = [parse_arm(text) for text in args.arm]
    names = [arm.name for arm in arms]
    for name in names:
        if names.count(name) > 1:
            raise ArmError(f"arm {name!r} is named twice; each arm needs a name of its own")
    args.perturb = list(perturbations.STANDARD) if "all" in args.perturb else args.perturb
    for change in args.perturb:
        perturbations.perturb(Image.new("RGB", (8, 8)), change)
    if args.repeats < 1 or args.batch_size < 1:
        raise ArmError("--repeats and --batch-size must be 1 or more")
    for arm in arms:
        if arm.checkpoint:
            checkpoint.find(arm.checkpoint)
    return arms


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and answer all cases with all arms; returns the exit status."""
    args = _parser().parse_intermixed_args(argv)
    with reported() as status:
        config = load_config(args.config, args.overrides)
        arms = _checked_arms(args)
        cases = read_cases(args.cases)
        check(cases, str(args.cases))
        records = read_manifest(args.cases)
        overlaps = {arm.name: check_overlap(records, arm, args.allow_overlap) for arm in arms}
        state = PartialState(cpu=not torch.cuda.is_available())
        stale = check_folder(args.run_dir, [arm.name for arm in arms], args.cases, args.replace)
        generation = Generation(
            max_new_tokens=args.max_new_tokens, temperature=args.temperature, seed=args.seed
        )
        generation.options()
        setting = Setting(
            scored_diseases(case.known for case in cases),
            CLINICAL_PROMPTS[: args.num_prompts],
            generation,
            args.batch_size,
            args.concept_scores,
            args.with_history,
        )
        with state.main_process_first():  # the others find the features that it keeps
            kept = in_own_thread(lambda: cached_queries(
                args.cases, records, config, config.data.feature_cache or "runs/features",
                lambda: build_encoder(config, state.device),
            ))  # fmt: skip
        shown = Shown(cases, kept, config, state.device)
        model = load_model(config, None, state.device, with_encoder=False)
        initial = in_own_thread(lambda: copy.deepcopy(model.projection.state_dict()))
        precision = str(model.language_model.dtype).removeprefix("torch.")
        for name in stale if state.is_main_process else ():
            forget(args.run_dir, name)
        for arm in arms:
            card = in_own_thread(partial(_put_in, model, config, initial, arm.checkpoint))
            if state.is_main_process:
                meta = meta_of(config, arm, card, setting, precision, args)
                extra = {
                    "cases": str(args.cases), "num_cases": len(cases), "repeats": args.repeats,
                    "perturbations": args.perturb,
                    "num_processes": state.num_processes, "hardware": hardware(state.device),
                    "git_revision": checkpoint.git_revision(), "overlap_with_training": overlaps[arm.name],
                }  # fmt: skip
                claim(args.run_dir, arm, meta, extra, args.replace)
                lines = [json.dumps(case_line(case, args.cases.parent), ensure_ascii=False) for case in cases]
                write_text(args.run_dir / answers.CASES, "".join(line + "\n" for line in lines))
            state.wait_for_everyone()
            made_by = {
                "checkpoint_sha256": card.get("tensors_sha256"),
                "template": config.prompt.template,
                "device": hardware(state.device)["device"],
            }
            run_arm(Asker(model, config, setting, arm.name, made_by), arm, cases, shown, state, args)
            state.wait_for_everyone()
    return status.code


if __name__ == "__main__":
    sys.exit(main())
