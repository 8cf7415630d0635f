"""Every file that a person or another machine brings, damaged in any way: a result or one sentence, and soon.

The suite takes a few examples, the same in every run. `pytest tests/fuzz -m soak` takes 10,000 new ones.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import struct
import time
from dataclasses import asdict

import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from safetensors.torch import save

from data import phi, split, stats, validate
from data.prepare import main as prepare
from eval.asking.answers import read_run
from eval.rating import ratings
from skingpt4.chat import calibration
from skingpt4.chat.exporting import record
from skingpt4.checkpoints import checkpoint, repository
from skingpt4.checkpoints.identity import model_identity
from skingpt4.checkpoints.load import model_source
from skingpt4.cli import consultation_export, weights
from skingpt4.cli.access import audit
from skingpt4.cli.deploy import share
from skingpt4.config.load import load_config, to_dict, to_yaml
from skingpt4.doctor.findings import Facts
from skingpt4.doctor.language_model import language_model, tokenizer
from skingpt4.records.manifest import read_manifest
from skingpt4.support.errors import UserError
from tests.support.fuzzing import Watch, mutated, within
from tests.support.tiny import make_picture, save_language_model, tiny_config

SECONDS = 60  # of one file on a busy machine
watch = Watch()


def ran(main, *arguments):
    """Run a command; argparse's own exit is fine too."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), contextlib.suppress(SystemExit):
        status = main([str(argument) for argument in arguments])
        assert "Traceback" not in err.getvalue()
        assert status in (0, 1, 3)
        assert status != 1 or err.getvalue() or out.getvalue(), "a failure says why"


RECORD = {
    "image": "p.png", "concepts": ["Plaque"], "disease": "psoriasis", "class": "eczema", "note": "Itches; «überall».",
    "fitzpatrick": 3, "patient_id": "a1", "case_id": "c1", "source": "own", "sha256": "0" * 64, "phash": "0" * 16,
    "width": 64, "height": 48, "turns": [{"question": "What is it?", "answer": "Eczema."}],
}  # fmt: skip
TABLE = b'image_path,description,label\r\np.png,"a, b",eczema\r\np.png,c,psoriasis\r\n'
YAML = (
    b"extends: base.yaml\nstep: step1\noutput_dir: runs/a\nlanguage: {model: m}\nprompt: {questions: [a, b]}\n"
    b"vision: &v {model_args: {depth: 2}}\noptim:\n  batch_size: 2\n  init_lr: 1e-4\n"
)
HEADER = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
CALIBRATION = calibration.Calibration(
    temperature=1.5,
    diseases={},
    concepts={},
    threshold=0.5,
    target_accuracy=0.8,
    n=9,
    data={"manifest": "m"},
    tensors_sha256="0",
)
RATING = {"arm": "two_step", "case_id": "c1", "rater": "anna", "item": "correct", "value": "4"}


class Places:
    """Files made once: a shared folder of a checkpoint, and what surrounds the damaged file."""

    def __init__(self, folder):
        self.folder = folder
        make_picture(1).save(folder / "p.png")
        self.config = tiny_config(folder / "model")
        (folder / "base.yaml").write_text("seed: 3\n")
        card = {
            "step": "step1", "iteration": 4, "num_trainable": 9, "encoder": "e", "template": "vicuna", "lora": None,
            "language_model": {"name": "m", "family": "llama", "width": 32, "num_layers": 2, "vocabulary": "v"},
            "data_sha256": "0", "git_revision": "a", "versions": {"torch": "2"}, "config": to_dict(self.config),
            "parent": {"step": "step1", "iteration": 1, "tensors_sha256": "0"},
            "known_answer": {"question": "?", "answer": "!", "mean_log_probability": -1.0, "queries": [1.0, 2.0],
                             "dtype": "float32", "tolerance": 0.1, "num_tokens": 3, "device": "cpu"},
        }  # fmt: skip
        tensors = {"weight": torch.ones(2, 3), "bias": torch.ones(2)}
        seen = {"sha256": torch.arange(3), "phash": torch.arange(3)}
        self.saved = checkpoint.save(folder / "saved", tensors, card, None, None, seen)
        self.shared = repository.write_folder(self.saved, folder / "shared", "x")
        self.model = folder / "lm"
        save_language_model(self.model)
        self.run = folder / "run"
        (self.run / "answers").mkdir(parents=True)
        meta = {"arm": "two_step", "prompts": ["a"], "probes": ["b"], "cases_sha256": "0"}
        (self.run / "answers" / "two_step.meta.json").write_text(json.dumps(meta))
        case = {"id": "c1", "images": ["p.png"], "sha256": ["0"], "class": "eczema", "disease": None}
        (self.run / "cases.jsonl").write_text(json.dumps(case) + "\n")
        self.scratch = folder / "scratch"
        self.scratch.mkdir()


@pytest.fixture(scope="module")
def places(tmp_path_factory, request):
    return Places(tmp_path_factory.mktemp("fuzz"))


def manifest(places, path):
    with contextlib.suppress(UserError):
        list(read_manifest(path))
    ran(validate.main, path)
    ran(validate.main, path, "--json")


def split_manifest(places, path):
    ran(split.main, path, "--out-dir", places.scratch / "split", "--dry-run")
    ran(stats.main, path, "--out-dir", places.scratch / "stats")


def table(places, path):
    ran(
        prepare,
        "notes",
        path,
        "--images",
        places.folder,
        "--out-dir",
        places.scratch / "notes",
        "--workers",
        1,
    )


def config(places, path):
    with contextlib.suppress(UserError):
        read = load_config(path)
        (places.folder / "copy.yaml").write_text(to_yaml(read))
        assert load_config(places.folder / "copy.yaml") == read
    for line in path.read_bytes().decode("latin-1").splitlines()[:3]:
        with contextlib.suppress(UserError):
            load_config(places.folder / "good.yaml", [line])


def card(places, path):
    with contextlib.suppress(UserError):
        _, read = checkpoint.load(path.parent)
        checkpoint.load_seen(path.parent, read)
        checkpoint.load_lora(path.parent, read)
    with contextlib.suppress(UserError):
        model_identity(places.config, path.parent)
    with contextlib.suppress(UserError):
        _ = model_source(None, str(path.parent)).loadable
    ran(weights.main, "inspect", path.parent, "--json")
    ran(share.main, "--checkpoint", path.parent, "--out", places.scratch / "shared")


def description(places, path):
    with contextlib.suppress(UserError):
        _ = model_source(None, str(path.parent)).loadable
    with contextlib.suppress(UserError):
        repository.config_of(path.parent, "other/model")


def header(places, path):
    ran(weights.main, "inspect", path, "--tensors", "--json")
    ran(weights.main, "inspect", path, "--tensors")


def language_config(places, path):
    facts = Facts(places.config)
    facts.config.language.model = str(path.parent)
    list(language_model(facts))
    list(tokenizer(facts))
    ran(weights.main, "inspect", path.parent)


def rating_table(places, path):
    with contextlib.suppress(UserError):
        rows = ratings.read_ratings(path)
        ratings.write_csv(rows, places.folder / "copy.csv")
        assert ratings.read_ratings(places.folder / "copy.csv") == rows


def answers(places, path):
    with contextlib.suppress(UserError):
        read_run(places.run)


def consultation(places, path):
    with contextlib.suppress(UserError):
        record.from_json(path.read_bytes().decode("utf-8", "replace"))
    ran(consultation_export.main, path, "--html", places.scratch / "c.html")


def fitted(places, path):
    with contextlib.suppress(UserError):
        calibration.load(places.saved)


def notes(places, path):
    ran(phi.main, "scan", path)
    ran(phi.main, "measure", path)
    ran(audit.main, path)


def safetensors_of(header_text):
    return struct.pack("<Q", len(header_text)) + header_text + b"\0" * 64


def corpus_of(name, places):
    """(good files, the place of the damaged one)."""
    lines = b"\n".join(json.dumps({**RECORD, "case_id": f"c{n}"}).encode() for n in range(3)) + b"\n"
    tensors = save(
        {"projection.weight": torch.ones(2, 3), "b": torch.ones(2, dtype=torch.float16)}, {"a": "b"}
    )
    out = io.StringIO()
    writer = csv.DictWriter(out, ratings.COLUMNS, restval="")
    writer.writeheader()
    writer.writerows([RATING, {**RATING, "case_id": "c2", "value": "5"}])
    torch_file = io.BytesIO()
    torch.save({"model": {"w": torch.ones(3)}}, torch_file)
    saved_calibration = json.dumps({"format": calibration.FORMAT, **asdict(CALIBRATION)})
    answer = {
        "arm": "two_step",
        "case_id": "c1",
        "repeat": 0,
        "perturbation": None,
        "kind": "turn",
        "turn": 0,
        "text": "x",
    }
    talk = {"format": record.FORMAT, "model": {}, "id": "i", "created": "2026", "software": "s", "language": "en",
            "pictures": [], "history": None, "turns": [], "differential": None, "disclaimer": "d"}  # fmt: skip
    return {
        "manifest": ((lines,), places.folder / "m.jsonl"),
        "split_manifest": ((lines,), places.folder / "s.jsonl"),
        "table": ((TABLE, TABLE.replace(b",", b";"), TABLE.decode().encode("utf-16")), places.folder / "t.csv"),
        "config": ((YAML, (places.folder / "good.yaml").read_bytes()), places.folder / "c.yaml"),
        "card": (((places.saved / checkpoint.CARD).read_bytes(),), places.saved / checkpoint.CARD),
        "description": (((places.shared / "config.json").read_bytes(),), places.shared / "config.json"),
        "header": ((tensors, torch_file.getvalue(), safetensors_of(HEADER)),
                   places.folder / "w.safetensors"),
        "language_config": (((places.model / "config.json").read_bytes(),), places.model / "config.json"),
        "rating_table": ((out.getvalue().encode(),), places.folder / "r.csv"),
        "answers": ((json.dumps(answer).encode() + b"\n",), places.run / "answers" / "two_step.jsonl"),
        "consultation": ((json.dumps(talk).encode(),), places.folder / "talk.json"),
        "fitted": ((saved_calibration.encode(),), places.saved / calibration.NAME),
        "notes": ((b"Anna Example, born 1.2.1970\n[NAME:Anna] came.\n",), places.folder / "notes.txt"),
    }[name]  # fmt: skip


TARGETS = (
    manifest, split_manifest, table, config, card, description, header, language_config, rating_table, answers,
    consultation, fitted, notes,
)  # fmt: skip


def fuzz(target, places, monkeypatch, own_settings):
    """The property of a target; its good files were read before, so that what this imports is no finding."""
    monkeypatch.chdir(places.folder)
    (places.folder / "good.yaml").write_text(to_yaml(places.config))
    corpus, path = corpus_of(target.__name__, places)
    before = path.read_bytes() if path.exists() else None
    for content in corpus:
        path.write_bytes(content)
        target(places, path)

    @own_settings
    @given(mutated(corpus))
    def damaged(content):
        path.write_bytes(content)
        try:
            with within(SECONDS), watch.only_inside(places.folder):
                target(places, path)
        finally:
            path.unlink() if before is None else path.write_bytes(before)

    return damaged


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.__name__)
def test_a_damaged_file_is_a_result_or_a_sentence(target, places, monkeypatch):
    few = settings(max_examples=25, suppress_health_check=list(HealthCheck))
    fuzz(target, places, monkeypatch, few)()


@pytest.mark.soak
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.__name__)
def test_soak(target, places, monkeypatch, soak_run):
    own_seed, num_examples, record_run = soak_run
    many = settings(
        max_examples=num_examples, derandomize=False, database=None, deadline=None, print_blob=True,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    times = []

    def timed(places, path):
        started = time.monotonic()
        target(places, path)
        times.append(time.monotonic() - started)

    timed.__name__ = target.__name__
    seed(own_seed)(fuzz(timed, places, monkeypatch, many))()
    record_run(target.__name__, examples=len(times), slowest_seconds=round(max(times), 2), failures=0)
