"""Kills at random moments of what runs for hours: each command, given again, ends as if nothing had happened.

Minutes: `make soak` runs them; SKINGPT4_SOAK_SEED=N draws the same moments. Training's are in training/test_kills.py.
"""

import json
import random
import time
from itertools import count
from pathlib import Path

import pytest

from skingpt4.config.load import to_yaml
from skingpt4.training.loop import run
from tests.support import soak
from tests.support.tiny import make_picture, tiny_config, write_manifest

pytestmark = pytest.mark.soak
NUM_KILLS, NUM_PICTURES = soak.scaled(5), 120
KILLS: dict[str, int] = {}
TIMES = ("seconds", "began", "ended", "time", "started_at")  # of a line


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a trained run, its configuration, and pictures with a manifest."""
    folder = tmp_path_factory.mktemp("soak")
    config = tiny_config(folder, optim__max_epoch=1)
    (folder / "config.yaml").write_text(to_yaml(config))
    run(config)
    write_manifest(folder / "many" / "many.jsonl", NUM_PICTURES)
    return folder


def kill_until_done(launcher, argv, folder, takes):
    """Give a command again after each of NUM_KILLS kills; returns how many met it at work."""
    rng, num_killed = random.Random(f"{soak.SEED} {argv[0]}"), 0
    print(f"SKINGPT4_SOAK_SEED={soak.SEED}")
    for start in count():
        job = launcher.start(argv, folder / f"log_{start}")
        if num_killed < NUM_KILLS:
            time.sleep(rng.uniform(0.1, max(0.2, takes * 0.5)))
            job.kill()
        (status,) = job.wait(1200)
        if status == -9:
            num_killed += 1
            continue
        assert status == 0, job.text()
        assert "Traceback" not in job.text()
        return num_killed


def in_one_piece(launcher, argv, folder):
    """Run a command to its end; returns the seconds that it takes."""
    began = time.monotonic()
    job = launcher.start(argv, folder / "log")
    assert job.wait(1200) == [0], job.text()
    return time.monotonic() - began


def both(launcher, tmp_path, command):
    """Run `command(folder)` in one piece and with kills; returns the two folders."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
    takes = in_one_piece(launcher, command(whole), whole)
    num_kills = kill_until_done(launcher, command(cut), cut, takes)
    assert num_kills > 0
    return whole, cut, num_kills


def record(name, num_kills):
    """Write how many kills a command outlived without a difference; called when all was compared."""
    KILLS[name] = num_kills
    soak.write("kills_of_commands", sum(KILLS.values()), kills=KILLS)


def lines(path):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


def test_prepare(launcher, tmp_path):
    for number in range(NUM_PICTURES):
        path = tmp_path / "pictures" / ("psoriasis", "acne")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        make_picture(number).save(path)
    pictures = str(tmp_path / "pictures")
    (tmp_path / "pictures" / "acne" / "broken.png").write_bytes(b"no picture")
    whole, cut, num_kills = both(
        launcher, tmp_path,
        lambda out: ["data.prepare", "folders", pictures, "--out-dir", str(out / "out"), "--workers", "2"],
    )  # fmt: skip
    for name in ("all.jsonl", "rejected.jsonl"):
        assert (cut / "out" / name).read_bytes() == (whole / "out" / name).read_bytes()
    assert len(lines(cut / "out" / "all.jsonl")) == NUM_PICTURES
    hidden = [sorted(p.name for p in (folder / "out").iterdir()) for folder in (whole, cut)]
    assert hidden[0] == hidden[1]
    record("data.prepare", num_kills)


def test_features(launcher, trained, tmp_path):
    """Training on cached features: the store is killed while it is filled."""

    def command(out):
        config = tiny_config(
            trained, output_dir=str(out / "run"), data__train=[str(trained / "many" / "many.jsonl")],
            data__augment=False, data__feature_cache=str(out / "cache"), optim__max_epoch=1,
        )  # fmt: skip
        (out / "config.yaml").write_text(to_yaml(config))
        return ["train", "--config", str(out / "config.yaml"), "--resume"]

    whole, cut, num_kills = both(launcher, tmp_path, command)
    stores = [next((folder / "cache").glob("*-1x*/*")) for folder in (whole, cut)]
    for name in ("features.bin", "rows.bin", "card.json"):
        assert (stores[0] / name).read_bytes() == (stores[1] / name).read_bytes()
    record("cached features", num_kills)


def test_batch(launcher, trained, tmp_path):
    whole, cut, num_kills = both(
        launcher, tmp_path,
        lambda out: ["skingpt4.cli.batch", "--images", str(trained / "many"), "--output", str(out / "answers.jsonl"),
                     "--checkpoint", str(trained / "run"), "--max-new-tokens", "4"],
    )  # fmt: skip
    rows = [lines(folder / "answers.jsonl") for folder in (whole, cut)]
    assert [row["image"] for row in rows[1]] == [row["image"] for row in rows[0]]
    assert [row.get("text") for row in rows[1]] == [row.get("text") for row in rows[0]]
    assert len({row["image"] for row in rows[1]}) == len(rows[1]) == NUM_PICTURES
    record("skingpt4 batch", num_kills)


def test_eval_run(launcher, trained, tmp_path):
    classes = {"psoriasis": "psoriasis_and_lichen_planus", "acne": "acne_and_rosacea",
               "melanoma": "melanoma_nevi_moles", "eczema": "dermatitis"}  # fmt: skip
    rows = [json.loads(line) for line in (trained / "many" / "many.jsonl").read_text().splitlines()][:24]
    cases = trained / "many" / "cases.jsonl"
    cases.write_text(
        "".join(
            json.dumps(row | {"class": classes[row["disease"]], "case_id": f"c{number}"}) + "\n"
            for number, row in enumerate(rows)
        )
    )
    whole, cut, num_kills = both(
        launcher, tmp_path,
        lambda out: ["eval.run", "--config", str(trained / "config.yaml"), "--run-dir", str(out / "study"),
                     "--cases", str(cases), "--arm", "untrained", "--batch-size", "4", "--max-new-tokens", "4",
                     "data.augment=false", f"data.feature_cache={out / 'cache'}"],
    )  # fmt: skip

    def answered(folder):
        from eval.asking.answers import arm_files, read_lines

        answers = list(read_lines(arm_files(folder / "study", "untrained")))
        return {answer.key: answer.fields.get("answer") for answer in answers}, len(answers)

    assert answered(cut) == answered(whole)
    record("eval.run", num_kills)


def test_review(tmp_path):
    """The review form's store, eight writers of which are killed in each attempt."""
    from tests.eval.rating.test_store import (
        test_killed_writers_lose_nothing_and_leave_nothing_half_written as trial,
    )

    attempts = soak.scaled(5)
    for attempt in range(attempts):
        folder = Path(tmp_path / str(attempt))
        folder.mkdir()
        trial(folder, soak.SEED + attempt)
    record("review form", 8 * attempts)
