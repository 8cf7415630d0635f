"""A run in the layout that lmms-eval 0.7 writes: a results file and one samples file for each task.

Every question of a run is a task: `skingpt4_turn_1` and so on (the conversation), `skingpt4_concepts` and
`skingpt4_diagnosis` (the questions with fresh state), `skingpt4_class` (likelihoods of the closed set).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from eval.asking.answers import Answer, ArmAnswers, Run
from eval.measures.intervals import best_class
from skingpt4.support.files import write_text

Sample = dict[str, Any]


def _hash(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()  # as JSON has names of files


def _f1(true: set[str], named: set[str]) -> float:
    return 2 * len(true & named) / (len(true) + len(named)) if true or named else 1.0


def _tasks(arm: ArmAnswers) -> Iterator[tuple[str, list[Answer]]]:
    """(task, its answers about unchanged pictures: the first repeat, one a case)."""
    for number, _ in enumerate(arm.meta.get("prompts", ()), 1):
        yield f"skingpt4_turn_{number}", [a for a in arm.of("turn") if a.key.number == number]
    probes = arm.of("probe")
    yield "skingpt4_concepts", [a for a in probes if "predicted_concepts" in a.fields]
    yield "skingpt4_diagnosis", [a for a in probes if "text_class" in a.fields]
    yield "skingpt4_class", [a for a in arm.of("scores") if a.fields["class_scores"]]


def _judged(answer: Answer, case: dict[str, Any]) -> tuple[Any, dict[str, float]]:
    """(target, metrics of one sample)."""
    fields = answer.fields
    if "predicted_concepts" in fields:
        known = case["concepts"]
        if known is None:
            return None, {}
        return ", ".join(known), {"concept_f1": _f1(set(known), set(fields["predicted_concepts"]))}
    if "text_class" in fields:
        return case["class"], {"acc": float(fields["text_class"] == case["class"])}
    if "class_scores" in fields:
        choices = list(fields["class_scores"])
        return choices.index(case["class"]), {"acc": float(best_class(fields) == case["class"])}
    reference = (
        case.get("reference") or case.get("references", ())[:1]
    )  # all of a task's are of the first prompt
    return reference[answer.key.number - 1] if len(reference) >= answer.key.number else "", {}


def _sample(run: Run, arm: ArmAnswers, number: int, answer: Answer) -> Sample:
    case, key = run.cases[answer.key.case_id], answer.key
    doc = {
        name: case.get(name)
        for name in ("id", "images", "class", "disease", "concepts", "fitzpatrick", "source")
    }
    target, metrics = _judged(answer, case)
    if key.kind == "scores":
        prompt = (arm.meta.get("probes") or [""])[-1]
        scores = answer.fields["class_scores"]
        doc["choices"] = list(scores)
        arguments = [part for name in scores for part in (prompt, name)]
        filtered: Any = [[score, None] for score in scores.values()]  # whether greedy is not known
        responses: Any = [[each] for each in filtered]
        counts: list[Any] = [None] * len(scores)
    else:
        prompt = answer.fields.get("prompt") or answer.fields.get("question")
        if key.kind == "turn":
            doc["conversation"] = [
                {"question": a.fields["prompt"], "answer": a.text}
                for a in arm.of("turn")
                if a.key.case_id == key.case_id and a.key.number < key.number
            ]
        again = [a for a in arm.of(key.kind, repeat=None)
                 if a.key.case_id == key.case_id and a.key.number == key.number]  # fmt: skip
        arguments = [prompt, {"until": [], **arm.meta.get("decoding", {})}]
        responses = [a.text for a in sorted(again, key=lambda a: a.key.repeat)]
        filtered = responses[0]
        counts = [{"output_tokens": answer.fields.get("num_tokens")}]
    return {
        "doc_id": number,
        "doc": doc,
        "input": prompt,
        "target": str(target),
        "arguments": arguments,
        "resps": responses,
        "filtered_resps": filtered,
        "token_counts": counts,
        "doc_hash": _hash(doc),
        **metrics,
    }


def samples(run: Run, arm: ArmAnswers) -> dict[str, list[Sample]]:
    """The samples of each task that has answers; `doc_id` is the case's place in the run's list."""
    places = {name: place for place, name in enumerate(run.cases)}
    by_task = {}
    for task, answers in _tasks(arm):
        rows = [_sample(run, arm, places[a.key.case_id], a) for a in answers]
        rows = [row for row in rows if row["target"] != "None"]
        if rows:
            by_task[task] = sorted(rows, key=lambda row: row["doc_id"])
    return by_task


def results(run: Run, arm: ArmAnswers, tasks: dict[str, list[Sample]]) -> dict[str, Any]:
    """What lmms-eval writes beside the samples: means, standard errors and settings."""
    table: dict[str, dict[str, Any]] = {}
    for task, rows in tasks.items():
        table[task] = {"alias": task, "samples": len(rows)}
        for metric in ("acc", "concept_f1"):
            values = [row[metric] for row in rows if metric in row]
            if values:
                error = float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else None
                table[task] |= {f"{metric},none": float(np.mean(values)), f"{metric}_stderr,none": error}
    meta = arm.meta
    keep = (
        "checkpoint",
        "checkpoint_sha256",
        "template",
        "language_model",
        "encoder",
        "precision",
        "taxonomy",
    )
    return {
        "results": table,
        "group_subtasks": {task: [] for task in tasks},
        "configs": {
            task: {
                "task": task,
                "output_type": "loglikelihood" if task == "skingpt4_class" else "generate_until",
                "generation_kwargs": meta.get("decoding"),
                "repeats": meta.get("repeats", 1),
            }
            for task in tasks
        },
        "versions": dict.fromkeys(tasks, 0),
        "n-shot": dict.fromkeys(tasks, 0),
        "higher_is_better": {task: {"acc": True, "concept_f1": True} for task in tasks},
        "n-samples": {
            task: {"original": len(run.cases), "effective": len(rows)} for task, rows in tasks.items()
        },
        "config": {
            "model": "skingpt4",
            "model_args": {key: meta.get(key) for key in keep},
            "batch_size": meta.get("batch_size"),
            "random_seed": meta.get("seed"),
        },
        "git_hash": meta.get("git_revision"),
        "task_hashes": {
            task: _hash("".join(f"sample_{i}{row['doc_hash']}" for i, row in enumerate(rows)))
            for task, rows in tasks.items()
        },
        "model_source": "skingpt4",
        "model_name": arm.name,
        "model_name_sanitized": arm.name,
    }


def write(run: Run, out: Path, arms: list[ArmAnswers]) -> list[Path]:
    """Write OUT/ARM/run_results.json and OUT/ARM/run_samples_TASK.jsonl; returns the files."""
    written = []
    for arm in arms:
        tasks = samples(run, arm)
        folder = out / arm.name
        folder.mkdir(parents=True, exist_ok=True)
        for task, rows in tasks.items():
            path = folder / f"run_samples_{task}.jsonl"
            write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
            written.append(path)
        path = folder / "run_results.json"
        write_text(path, json.dumps(results(run, arm, tasks), indent=2, ensure_ascii=False) + "\n")
        written.append(path)
    return written
