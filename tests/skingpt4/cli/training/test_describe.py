"""`skingpt4 describe`: captions from what is known, and from what a checkpoint says."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from skingpt4.cli.training import describe
from skingpt4.model.network import SkinGPT4
from skingpt4.records.manifest import read_manifest
from skingpt4.support.locks import lock
from skingpt4.training.loop import run
from tests.support.tiny import tiny_config, write_manifest

FORM = "I see {morphology}."
SAID = "I see red, red plaques, so it must be psoriasis; take 5 mg of it."


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a run of step 1 and a manifest of six records."""
    folder = tmp_path_factory.mktemp("describe")
    train = write_manifest(folder / "train.jsonl", concepts=["Papule"])
    config = tiny_config(
        folder, output_dir=str(folder / "run"), data__train=[train], prompt__concepts_sentence=FORM
    )
    return folder, str(run(config))


@pytest.fixture
def manifest(trained, monkeypatch):
    """Records to describe: the first with concepts, the second with a caption; and a model that always says SAID."""
    path = Path(
        write_manifest(trained[0] / "step2" / "manifest.jsonl", first=100, disease="psoriasis", concepts=None)
    )
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0] |= {"concepts": ["Scale", "Nodule"], "x_own": 1}
    rows[1] |= {"caption": "As it was."}
    rows[2] |= {"caption": "nan"}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = []

    def generate(self, encoded, queries, stop, **options):
        assert len(encoded) == len(queries)
        asked.append(len(encoded))
        return [SAID] * (len(encoded) - 1) + [" nothing"]

    monkeypatch.setattr(SkinGPT4, "generate", generate)
    return path, asked


def command(trained, path, *more):
    out = trained[0] / "out" / "described.jsonl"
    words = ["--checkpoint", trained[1], "--manifest", str(path), "--output", str(out), *more]
    return out, describe.main(words)


def test_captions_and_everything_else_as_it_was(trained, manifest, capsys):
    path, asked = manifest
    out, status = command(trained, path, "--batch-size", "3")
    assert status == 0
    assert asked == [3, 1], "a record with concepts or a caption is not asked about"
    assert "6 records, 4 of them described by the model; 4 have a caption" in capsys.readouterr().out
    before, after = read_manifest(path), read_manifest(out)
    assert [record.caption for record in after] == [
        "I see scaly nodules.", "As it was.", "I see red plaques.", "I see red plaques.", None, None,
    ]  # fmt: skip
    assert [record.image_path.resolve() for record in after] == [
        record.image_path.resolve() for record in before
    ]
    assert [(r.disease, r.concepts) for r in after] == [(r.disease, r.concepts) for r in before]
    assert json.loads(out.read_text().splitlines()[0])["x_own"] == 1

    out.unlink()
    assert command(trained, path)[1] == 0
    assert asked == [3, 1], "answers of an earlier run are used"
    lines = out.with_name("described.jsonl.answers.jsonl").read_text().splitlines()
    out.with_name("described.jsonl.answers.jsonl").write_text("\n".join(lines[:3]) + '\n{"record": 4, "ans')
    assert command(trained, path)[1] == 0
    assert asked == [3, 1, 2], "a stopped run goes on"
    assert command(trained, path, "--question", "What do you see?")[1] == 1
    assert (
        "has answers of another run (question differ); add --replace to delete them"
        in capsys.readouterr().err
    )
    assert command(trained, path, "--question", "What do you see?", "--replace")[1] == 0
    assert asked == [3, 1, 2, 4], "other answers are not mixed with them"
    assert command(trained, path, "--sentence", "Visible: {concepts}.", "--replace")[1] == 0
    assert read_manifest(out)[0].caption == "Visible: Scale, Nodule."


def test_a_record_that_is_known_to_show_none_is_not_guessed_at(trained, manifest, tmp_path):
    path, asked = manifest
    row = json.loads(path.read_text().splitlines()[3]) | {"concepts": []}
    (path.parent / "none.jsonl").write_text(json.dumps(row) + "\n")
    out = tmp_path / "out.jsonl"
    words = ["--checkpoint", trained[1], "--manifest", str(path.parent / "none.jsonl"), "--output", str(out)]
    assert describe.main(words) == 0
    assert (asked, read_manifest(out)[0].caption) == ([], None)


@pytest.mark.skipif(sys.platform != "linux", reason="file names of any bytes")
def test_a_picture_whose_name_is_not_utf_8_keeps_it(trained, manifest, tmp_path):
    path, _ = manifest
    row = json.loads(path.read_text().splitlines()[0])
    name = os.fsdecode(b"caf\xe9.png")
    shutil.copy(path.parent / row["image"], path.parent / name)
    (path.parent / "latin.jsonl").write_text(json.dumps(row | {"image": name, "note": "caf\u00e9"}) + "\n")
    out = tmp_path / "out.jsonl"
    words = ["--checkpoint", trained[1], "--manifest", str(path.parent / "latin.jsonl"), "--output", str(out)]
    assert describe.main(words) == 0
    (record,) = read_manifest(out)
    assert (record.image_path.exists(), record.note, record.caption) == (
        True,
        "caf\u00e9",
        "I see scaly nodules.",
    )


def test_a_dry_run_writes_nothing(trained, manifest, tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    words = ["--checkpoint", trained[1], "--manifest", str(manifest[0]), "--output", str(out), "--dry-run"]
    assert describe.main(words) == 0
    assert "6 records, 4 of them described by the model; nothing was written" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda words: words[:-1] + words[3:4], "would overwrite the manifest"),
        (lambda words: [*words, "--batch-size", "0"], "must be at least 1"),
        (
            lambda words: [*words, "--sentence", "It is {disease}."],
            "--sentence: it may hold no placeholder but",
        ),
        (
            lambda words: [*words, "--sentence", "I see spots."],
            "--sentence: needs {concepts} or {morphology}",
        ),
        (lambda words: [*words[:3], "/nowhere.jsonl", *words[4:]], "no such manifest"),
        (lambda words: [words[0], "/nowhere", *words[2:]], "/nowhere"),
    ],
)
def test_bad_input_gets_a_sentence(trained, manifest, tmp_path, capsys, change, sentence):
    out = tmp_path / "out.jsonl"
    words = ["--checkpoint", trained[1], "--manifest", str(manifest[0]), "--output", str(out)]
    assert describe.main(change(words)) == 1
    assert sentence in capsys.readouterr().err
    assert not out.exists()


def test_an_output_that_cannot_be_written_and_one_in_use_get_a_sentence(trained, manifest, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    words = ["--checkpoint", trained[1], "--manifest", str(manifest[0]), "--output"]
    assert describe.main([*words, str(tmp_path / "file/out.jsonl")]) == 1
    assert "out.jsonl: cannot be written (File exists); name another file" in capsys.readouterr().err
    out = tmp_path / "out.jsonl"
    with out.with_name("out.jsonl.answers.jsonl").open("a") as file:
        lock(file, "it")
        assert describe.main([*words, str(out)]) == 1
    assert "another run is writing it" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("mine", ["mine", "mine\n", "a\nb", '{"a": 1}\n', "[1]\n2", "\n"])
def test_answers_that_are_not_its_own_are_left_alone(trained, manifest, tmp_path, capsys, mine):
    out = tmp_path / "out.jsonl"
    answers = out.with_name("out.jsonl.answers.jsonl")
    answers.write_text(mine)
    words = ["--checkpoint", trained[1], "--manifest", str(manifest[0]), "--output", str(out), "--replace"]
    assert describe.main(words) == 1
    assert "was not written by this command" in capsys.readouterr().err
    assert answers.read_text() == mine
