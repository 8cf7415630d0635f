"""Answers all cases with all arms and writes every answer at once: what `python -m eval.run` does.

All arms share the encoder, the language model, the prompts and the way of decoding; they differ only in their
projection and in what they are shown.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from PIL import Image
from tqdm import tqdm

from eval.asking import answers, perturbations
from eval.asking.answers import Answer, Key, spread_places
from eval.asking.arms import Arm, check_overlap, hardware, meta_of, peak_memory
from eval.asking.cases import Case, check_labels, read_cases
from eval.asking.claims import ArmError, add_to_meta, check_folder, claim, forget, write_cases
from eval.asking.classes import options_of
from eval.asking.conversation import Asker, Setting
from eval.asking.perturbations import BLANK
from eval.asking.pictures import Pictures, Shown
from eval.tasks import Task, load_task, write_task
from skingpt4.chat.differential import Rule
from skingpt4.checkpoints import checkpoint
from skingpt4.checkpoints.load import load_model, load_projection
from skingpt4.config.placement import default_device
from skingpt4.config.schema import Config, ConfigError
from skingpt4.generation.questions import CLINICAL_PROMPTS
from skingpt4.generation.sampling import Generation
from skingpt4.model import lora
from skingpt4.model.build import build_encoder
from skingpt4.model.network import SkinGPT4
from skingpt4.records.manifest import read_manifest
from skingpt4.support.threads import in_own_thread
from skingpt4.training.distributed.launchers import require_launched, require_started
from skingpt4.training.distributed.team import Team
from skingpt4.training.distributed.watch import watched
from skingpt4.training.features import cached_queries
from skingpt4.training.resuming.run_folder import locked


@dataclass(frozen=True)
class RunSettings:
    """Who answers which cases, and how; docs and defaults are those of the options of `python -m eval.run`."""

    config: Config
    cases_path: Path
    run_dir: Path
    arms: tuple[Arm, ...]
    batch_size: int = 50
    max_new_tokens: int | None = None
    num_prompts: int = 4
    num_conversations: int | None = None
    repeats: int = 1
    temperature: float = 0.0
    seed: int = 0
    perturbations: tuple[str, ...] = ()
    concept_scores: bool = False
    with_history: bool = False
    allow_overlap: bool = False
    replace_old: bool = False
    task: Task = field(default_factory=load_task)

    def setting(self, cases: Sequence[Case]) -> Setting:
        """What is asked about these cases, and how answers are drawn."""
        length = self.config.data.max_text_tokens if self.max_new_tokens is None else self.max_new_tokens
        generation = Generation(max_new_tokens=length, temperature=self.temperature, seed=self.seed)
        generation.options()  # refuses what cannot be drawn, before anything heavy is loaded
        conversing = None
        if self.num_conversations is not None:
            conversing = frozenset(cases[i].id for i in spread_places(len(cases), self.num_conversations))
        return Setting(
            options_of(self.task, (case.known for case in cases)),
            (self.task.prompts or CLINICAL_PROMPTS)[: self.num_prompts],
            generation,
            self.batch_size,
            self.concept_scores or self.task.needs_concept_scores,
            self.with_history or self.task.with_history,
            self.task,
            conversing,
        )


def answer_cases(settings: RunSettings) -> None:
    """Answer all cases with all arms; what an earlier run answered is not asked again.

    Raises:
        ArmError, CasesError, CheckpointError, PerturbationError: settings, cases or checkpoints that cannot be used;
            the message says why.
        RunDirError: another run is in progress in the folder, or it cannot be written.
    """
    check_settings(settings)
    config, run_dir = settings.config, settings.run_dir
    cases = read_cases(settings.cases_path, settings.task)
    check_labels(cases, settings.cases_path, settings.task)
    records = read_manifest(settings.cases_path)
    overlaps = {arm.name: check_overlap(records, arm, settings.allow_overlap) for arm in settings.arms}
    num_asked = num_processes(config)
    state = PartialState(cpu=default_device() == "cpu")
    require_started(num_asked, state.num_processes)
    team = Team.of(state)
    names = [arm.name for arm in settings.arms]
    with ExitStack() as stack:
        stack.enter_context(watched(team))
        team.by_first(lambda: stack.enter_context(locked(run_dir)))
        stale = check_folder(run_dir, names, settings.cases_path, settings.replace_old)
        setting = settings.setting(cases)
        features = in_own_thread(lambda: cached_queries(
            settings.cases_path, records, config, config.data.feature_cache or "runs/features",
            lambda: build_encoder(config, state.device), team=team,
        ))  # fmt: skip
        shown = Shown(cases, features, config, state.device)
        model = load_model(config, None, state.device, with_encoder=False)
        initial = in_own_thread(lambda: copy.deepcopy(model.projection.state_dict()))
        for name in stale if state.is_main_process else ():
            forget(run_dir, name)
        for arm in settings.arms:
            card = in_own_thread(partial(_put_in, model, config, initial, arm.checkpoint))
            made_by = {
                "checkpoint_sha256": card.get("tensors_sha256"),
                "template": config.prompt.template,
                "device": hardware(state.device)["device"],
            }
            asker = Asker(model, config, setting, arm.name, made_by, Rule.of(arm.checkpoint))
            if state.is_main_process:
                precision = str(model.language_model.dtype).removeprefix("torch.")
                meta = meta_of(config, arm, card, setting, precision, settings.cases_path) | asker.own_meta
                extra = {
                    "cases": str(settings.cases_path), "num_cases": len(cases), "repeats": settings.repeats,
                    "perturbations": list(settings.perturbations),
                    "num_conversations": settings.num_conversations,
                    "num_processes": state.num_processes, "hardware": hardware(state.device),
                    "git_revision": checkpoint.git_revision(), **overlaps[arm.name], **asker.prior,
                }  # fmt: skip
                claim(run_dir, arm.name, meta, extra, settings.replace_old)
                write_cases(cases, settings.cases_path, run_dir)
                write_task(run_dir, settings.task)
            team.wait()
            if run_arm(asker, arm, cases, shown, team, settings) and state.is_main_process:
                add_to_meta(run_dir, arm.name, {"usage": {"peak_memory_bytes": peak_memory(state.device)}})
            team.wait()


def num_processes(config: Config) -> int:
    """How many processes the launcher was asked for; each of them loads the complete language model.

    Raises:
        ConfigError: they would not be started, or the model is to be spread over several devices or processes.
    """
    count = require_launched(torch.cuda.device_count())
    if config.language.device_map is not None and count > 1:
        raise ConfigError("language.device_map: spreads one process over devices; start a single one")
    return count


def check_settings(settings: RunSettings) -> None:
    """Refuse what is known to fail before anything is read.

    Raises:
        ArmError, CheckpointError, PerturbationError: what cannot be.
    """
    names = [arm.name for arm in settings.arms]
    for name in names:
        if names.count(name) > 1:
            raise ArmError(f"arm {name!r} is named twice; each arm needs a name of its own")
    for change in settings.perturbations:
        perturbations.perturb(Image.new("RGB", (8, 8)), change)
    if settings.repeats < 1 or settings.batch_size < 1:
        raise ArmError("--repeats and --batch-size must be 1 or more")
    if settings.num_conversations is not None and settings.num_conversations < 0:
        raise ArmError("--num-conversations must be 0 or more")
    for arm in settings.arms:
        if arm.checkpoint:
            checkpoint.find(arm.checkpoint)


def _put_in(
    model: SkinGPT4, config: Config, initial: dict[str, torch.Tensor], checkpoint_path: str | None
) -> dict[str, Any]:
    """Give the model an arm's projection, and LoRA if it has any; returns the checkpoint's card."""
    model.projection.load_state_dict(initial)
    lora.remove(model.language_model)
    card = load_projection(model, config, checkpoint_path) if checkpoint_path else {}
    model.eval()
    return card


def run_arm(
    asker: Asker, arm: Arm, cases: Sequence[Case], shown: Shown, team: Team, settings: RunSettings
) -> int:
    """Answer what is not answered yet, of the cases that fall to this process; returns how many answers that were."""
    done = answers.by_key(answers.read_lines(answers.arm_files(settings.run_dir, arm.name)))
    if settings.concept_scores:  # lines that an earlier command wrote without them are replaced
        done = {k: a for k, a in done.items() if k.kind != "scores" or a.fields["concept_scores"]}
    team.wait()  # nobody writes before all have read
    rank = team.rank
    name = f"{arm.name}.jsonl" if team.leads else f"{arm.name}.rank{rank}.jsonl"
    numbers = list(range(rank, len(cases), team.world))
    own = [cases[number] for number in numbers]
    rounds = [
        (repeat, change)
        for change in (None, *settings.perturbations)
        for repeat in range(1 if change else settings.repeats)
    ]
    num_texts = sum(asker.setting.num_prompts(case) + len(asker.setting.probes) for case in own)
    total = sum(num_texts + len(own) * (repeat == 0 and asker.setting.scores) for repeat, _ in rounds)
    num_answered = 0
    before = sum(key.case_id in {case.id for case in own} for key in done)
    with (
        (settings.run_dir / answers.FOLDER / name).open("a", encoding="utf-8") as file,
        tqdm(total=total, initial=min(before, total), desc=arm.name, unit="answer", disable=rank > 0) as bar,
    ):
        for repeat, change in rounds:
            pictures = shown.pictures(arm.control, change, numbers, settings.seed)
            ask = asker.answers
            if arm.control == BLANK and asker.setting.generation.temperature == 0:
                ask = once(asker.answers, asker.setting.num_prompts)
            for answer in ask(own, pictures, done, repeat, change):
                file.write(answers.to_line(answer))
                file.flush()
                bar.update()
                num_answered += 1
    return num_answered


def once(
    ask: Callable[..., Iterator[Answer]], num_prompts: Callable[[Case], int]
) -> Callable[..., Iterator[Answer]]:
    """Ask only the first of cases that are shown and asked the same, and give its answers for all of them."""

    def ask_first(
        cases: Sequence[Case], pictures: Pictures, done: dict[Key, Answer], repeat: int, change: str | None
    ) -> Iterator[Answer]:
        alike: dict[Any, list[int]] = {}
        for place, case in enumerate(cases):
            alike.setdefault((len(case.records), case.history, num_prompts(case)), []).append(place)
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
                    twin = replace(answer, key=replace(key, case_id=cases[place].id))
                    if twin.key not in done:
                        done[twin.key] = twin
                        yield twin

    return ask_first
