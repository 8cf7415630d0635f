"""Write what a checkpoint sees into a manifest's captions.

    skingpt4 describe --checkpoint runs/quickstart/step1 --manifest runs/phantoms/step2/manifest.jsonl \\
        --output runs/quickstart/step2_described.jsonl

Sources of diagnoses rarely say what their pictures show, so a model that learns diagnoses from them forgets to
describe. Here step 1's model describes those pictures itself, and step 2 (`prompt.use_caption: true`) teaches the
diagnosis and the description in one answer: learning without forgetting (Li and Hoiem 2016, arXiv 1606.09282).

A record whose concepts are known is described by these. Of what the model says, only the concepts are used, in the
sentence that it was trained with, so no disease, no advice and no repetition gets into a caption. A record that has
a caption keeps it. The model's own words are in OUTPUT.answers.jsonl, from which a stopped run goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skingpt4.support.cli import make_parser, require_writable, setup_logging
from skingpt4.support.errors import UserError, reported

if TYPE_CHECKING:
    from skingpt4.checkpoints.load import ModelSource
    from skingpt4.records.manifest import Manifest


class DescribeError(UserError):
    """A manifest or an output that cannot be used; the message says why."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = make_parser(str(__doc__))
    add = result.add_argument
    add("--checkpoint", required=True, help="a checkpoint or a run's folder, of step 1")
    add("--config", help="where the checkpoint does not know its own, or files are elsewhere")
    add("--manifest", required=True, type=Path, metavar="JSONL", help="the records to describe, of step 2")
    add("--output", required=True, type=Path, metavar="JSONL", help="the same records with captions")
    add("--question", help="default: the first of prompt.questions in the checkpoint's configuration")
    add(
        "--sentence",
        help="form of a caption, with {concepts} or {morphology} (default: the checkpoint's own)",
    )
    add("--max-new-tokens", type=int, default=48, help="of an answer (default: %(default)s)")
    add("--batch-size", type=int, default=32, help="pictures at once (default: %(default)s)")
    add("--replace", action="store_true", help="delete answers of another checkpoint, question or setting")
    add("--dry-run", action="store_true", help="only say how many records would be described")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Describe, and write the manifest; returns the exit status."""
    args = parser().parse_args(argv)
    with reported() as status:
        from skingpt4.checkpoints.load import model_source
        from skingpt4.config.rules import sentence_with
        from skingpt4.records.manifest import read_manifest

        setup_logging()
        if args.output.resolve() == args.manifest.resolve():
            raise DescribeError(
                f"{args.output}: would overwrite the manifest that is read; name another --output"
            )
        if min(args.max_new_tokens, args.batch_size) < 1:
            raise DescribeError("--max-new-tokens and --batch-size must be at least 1")
        source, records = model_source(args.config, args.checkpoint), read_manifest(args.manifest)
        form = source.config.prompt.concepts_sentence if args.sentence is None else args.sentence
        if wrong := sentence_with("concepts", "morphology")(form):
            raise DescribeError(f"--sentence: {wrong}")
        if "{" not in form:
            raise DescribeError("--sentence: needs {concepts} or {morphology}, such as 'I see {morphology}.'")
        asked = [n for n, record in enumerate(records) if record.concepts is None and not record.caption]
        counts = f"{len(records)} records, {len(asked)} of them described by the model"
        if args.dry_run:
            print(f"{counts}; nothing was written")
            return 0
        require_writable(args.output, "--output")
        answers = _answers(args, source, records, asked)
        described = _write(args.manifest, args.output, form, answers)
        print(f"{args.output}: {counts}; {described} have a caption")
    return status.code


def caption(form: str, concepts: Sequence[str] | None, answer: str) -> str | None:
    """What a picture shows, in one sentence; None if nothing is known of it.

    Args:
        form: `prompt.concepts_sentence`.
        concepts: those that the record has; None if nobody has looked.
        answer: the model's, read where they are None.
    """
    from skingpt4.taxonomy.free_text import find_concepts
    from skingpt4.taxonomy.morphology import say_concepts

    visible = find_concepts(answer) if concepts is None else concepts
    return say_concepts(form, visible) if visible else None


def _answers(
    args: argparse.Namespace, source: ModelSource, records: Manifest, asked: Sequence[int]
) -> dict[int, str]:
    """The model's answer for each of these records, those of an earlier run included.

    Raises:
        DescribeError: the file of answers is in use, of another checkpoint or question, or not one of this command's.
    """
    from skingpt4.chat.calibration import weights_sha256
    from skingpt4.checkpoints.identity import encoder_identity
    from skingpt4.support.files import file_sha256
    from skingpt4.support.locks import lock

    question = args.question or source.config.prompt.questions[0]
    made_by = {
        "checkpoint_sha256": weights_sha256(args.checkpoint), "encoder": encoder_identity(source.config),
        "language_model": source.identity["language_model"], "manifest_sha256": file_sha256(args.manifest),
        "question": question, "max_new_tokens": args.max_new_tokens,
    }  # fmt: skip
    path = args.output.with_name(f"{args.output.name}.answers.jsonl")
    require_writable(path, "--output")
    try:
        with path.open("a+", encoding="utf-8") as file:
            lock(file, str(path))
            answers = _earlier_answers(path, made_by, args.replace)
            if not answers:
                file.truncate(0)
                file.write(json.dumps(made_by) + "\n")
            todo = [row for row in asked if row not in answers]
            for row, answer in _ask(args, source, records, todo, question) if todo else ():
                answers[row] = answer
                file.write(json.dumps({"record": row, "answer": answer}, ensure_ascii=False) + "\n")
                file.flush()
    except BlockingIOError:
        raise DescribeError(f"{path}: another run is writing it; wait for that one") from None
    return answers


def _earlier_answers(path: Path, made_by: dict[str, Any], replace: bool) -> dict[int, str]:
    """What a stopped run of the same checkpoint, question and manifest has written, without a truncated last line."""
    from skingpt4.support.files import drop_truncated_line

    content = path.read_bytes()
    if (
        (json.dumps(made_by) + "\n").encode().startswith(content)
    ):  # nothing yet, or no more than the first line
        return {}
    try:
        first, *lines = [json.loads(line) for line in content.decode().split("\n")[:-1]]
        answers = {line["record"]: line["answer"] for line in lines}
        same = [key for key in made_by if first[key] == made_by[key]]
    except (ValueError, KeyError, TypeError):
        raise DescribeError(f"{path}: was not written by this command; move it away") from None
    if len(same) == len(made_by):
        drop_truncated_line(path)
        return answers
    if not replace:
        other = ", ".join(key for key in made_by if key not in same)
        raise DescribeError(
            f"{path}: has answers of another run ({other} differ); add --replace to delete them, or name another "
            "--output"
        )
    return {}


def _ask(
    args: argparse.Namespace, source: ModelSource, records: Manifest, rows: Sequence[int], question: str
) -> Iterator[tuple[int, str]]:
    """(row, greedy answer) of each of these records."""
    import torch
    from tqdm import tqdm

    from skingpt4.checkpoints.load import load_model
    from skingpt4.model.build import build_encoder
    from skingpt4.model.prompts import Turn, encode_turns, get_template, stop_strings
    from skingpt4.training.features import cached_queries

    config = source.config
    cache = config.data.feature_cache or "runs/features"
    store = cached_queries(args.manifest, records, config, cache, lambda: build_encoder(config))
    model = load_model(source.loadable, args.checkpoint, with_encoder=False)
    template = get_template(config.prompt.template)
    asked = [Turn(question, None, num_images=1)]
    prompt = encode_turns(template, asked, model.tokenizer, store.shape.num_queries)
    stop = stop_strings(template, model.tokenizer)
    with tqdm(total=len(rows), unit="picture", desc="describe") as bar:
        for start in range(0, len(rows), args.batch_size):
            batch = list(rows[start : start + args.batch_size])
            with torch.inference_mode():
                answers = model.generate(
                    [prompt] * len(batch),
                    store[batch],
                    stop,
                    max_new_tokens=args.max_new_tokens,
                    do_sample=False,
                )
            yield from zip(batch, answers, strict=True)
            bar.update(len(batch))


def _write(manifest: Path, output: Path, form: str, answers: dict[int, str]) -> int:
    """The manifest with captions, complete or not at all; returns how many records have one."""
    from skingpt4.records.blanks import text_or_none
    from skingpt4.records.manifest import manifest_lines
    from skingpt4.records.naming import Relative
    from skingpt4.support.files import write_text

    relative, lines, described = Relative(output.parent), [], 0
    for number, (_, line, _) in enumerate(manifest_lines(manifest)):
        row: dict[str, Any] = json.loads(line)
        row["image"] = relative.renamed(row["image"], manifest.parent)
        own = text_or_none(row.get("caption"))
        row["caption"] = own or caption(form, row.get("concepts"), answers.get(number, ""))
        described += row["caption"] is not None
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    write_text(output, "".join(lines))
    return described
