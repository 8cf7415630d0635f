"""Many images: fresh state and one line for each, nothing lost by a kill, nothing answered twice."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skingpt4.chat import batch as batch_module
from skingpt4.chat.batch import BatchError, ImageAnswerer, in_order, run
from skingpt4.chat.differential import Ranker
from skingpt4.chat.session import ChatSession
from skingpt4.cli import batch
from skingpt4.config.load import to_yaml
from skingpt4.generation.questions import CLINICAL_PROMPTS
from skingpt4.generation.sampling import Generation
from skingpt4.model.build import build, build_encoder
from skingpt4.records import folders
from skingpt4.records.folders import FolderError, NamedImage, find_images
from skingpt4.support.errors import UserError
from skingpt4.support.remote.http import RemoteError
from skingpt4.taxonomy.taxonomy import CLASSES
from tests.support.locking import without_locks
from tests.support.names import file_names, make_files
from tests.support.tiny import make_picture, tiny_config, write_manifest

META = {"question": "What?"}


@pytest.fixture
def folder(tmp_path):
    """Three pictures, one of them in a sub-folder, a damaged one and a file that is none."""
    pictures = tmp_path / "pictures"
    (pictures / "b").mkdir(parents=True)
    for number, name in enumerate(("a.png", "b/c.PNG", "d.jpg")):
        make_picture(number).save(pictures / name)
    (pictures / "broken.jpg").write_bytes((pictures / "d.jpg").read_bytes()[:200])
    (pictures / "notes.txt").write_text("no picture")
    return pictures


def size_of(image):
    return {"class": "acne_and_rosacea", "text": f"{image.size}"}


def lines_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_folder_is_answered_in_order_and_bad_images_have_their_reason(folder, tmp_path):
    images = find_images(folder)
    assert [image.name for image in images] == ["a.png", "b/c.PNG", "broken.jpg", "d.jpg"]
    images.append(NamedImage("gone.png", folder / "gone.png"))
    output = tmp_path / "out.jsonl"
    assert run(images, output, META, lambda: size_of) == (5, 2, 0)
    lines = lines_of(output)
    assert [line["image"] for line in lines] == ["a.png", "b/c.PNG", "broken.jpg", "d.jpg", "gone.png"]
    assert lines[0]["sha256"] == hashlib.sha256((folder / "a.png").read_bytes()).hexdigest()
    assert lines[0]["text"] == "(64, 48)"
    assert [line.get("error") for line in lines] == [None, None, "damaged", None, "missing"]
    assert str(tmp_path) not in output.read_text(), "no line tells where the pictures lie"
    assert json.loads(output.with_name("out.jsonl.meta.json").read_text()) == META


def test_a_stopped_run_goes_on_where_it_was(folder, tmp_path):
    images, output, seen = find_images(folder), tmp_path / "out.jsonl", []

    def stops(image):
        seen.append(1)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return size_of(image)

    with pytest.raises(KeyboardInterrupt):
        run(images, output, META, lambda: stops, jobs=1)
    before = output.read_bytes()
    assert len(before.splitlines()) >= 1
    output.write_bytes(before + b'{"image": "torn')
    run(images, output, META, lambda: size_of)
    assert output.read_bytes().startswith(before)
    complete = tmp_path / "complete.jsonl"
    run(images, complete, META, lambda: size_of)
    plain = [
        [{k: v for k, v in line.items() if k != "seconds"} for line in lines_of(p)]
        for p in (output, complete)
    ]
    assert plain[0] == plain[1]

    def never():
        raise AssertionError("the model is not loaded for nothing")

    assert run(images, output, META, never) == (0, 0, 1)


def test_lines_of_another_setting_do_not_mix(folder, tmp_path):
    images, output = find_images(folder), tmp_path / "out.jsonl"
    run(images, output, META, lambda: size_of)
    before = output.read_bytes()
    with pytest.raises(BatchError, match="by another model, question or setting"):
        run(images, output, {"question": "Why?"}, lambda: size_of)
    assert output.read_bytes() == before
    assert run(images, output, {"question": "Why?"}, lambda: size_of, replace=True)[0] == 4
    foreign = tmp_path / "foreign.jsonl"
    foreign.write_text("not ours\n")
    with pytest.raises(BatchError, match="line 1: was not written by this program"):
        run(images, foreign, META, lambda: size_of)
    assert foreign.read_text() == "not ours\n"
    with pytest.raises(BatchError, match="cannot be written"):
        run(images, tmp_path / "no" / "out.jsonl", META, lambda: size_of)


def test_two_runs_do_not_write_one_output(folder, tmp_path):
    images, output = find_images(folder), tmp_path / "out.jsonl"

    def second(image):
        with pytest.raises(BatchError, match="another run is writing"):
            run(images, output, META, lambda: size_of)
        return size_of(image)

    assert run(images[:1], output, META, lambda: second) == (1, 0, 0)


def test_several_are_under_way_at_once_and_come_in_order():
    together = threading.Barrier(3)

    def wait(image):
        together.wait(300)  # breaks unless three are under way
        return {"image": image.name}

    images = [NamedImage(str(number), None) for number in range(9)]
    assert [line["image"] for line in in_order(images, wait, 3)] == [str(number) for number in range(9)]


def test_a_failed_answer_is_a_line_and_the_others_go_on(folder, tmp_path):
    def fails(image):
        raise UserError("the conversation has 900 tokens")

    output = tmp_path / "out.jsonl"
    assert run(find_images(folder), output, META, lambda: fails) == (4, 4, 0)
    assert {line["error"] for line in lines_of(output)} == {"not_answered", "damaged"}


def test_a_picture_that_comes_back_is_asked_again_and_other_failures_stay(folder, tmp_path):
    images, output = find_images(folder), tmp_path / "out.jsonl"
    (folder / "a.png").rename(tmp_path / "away")
    assert run(images, output, META, lambda: size_of) == (4, 2, 0)
    before = output.read_bytes()
    assert run(images, output, META, lambda: pytest.fail("loaded for nothing")) == (0, 0, 2)
    assert output.read_bytes() == before
    (tmp_path / "away").rename(folder / "a.png")
    assert run(images, output, META, lambda: size_of) == (1, 0, 1)
    lines = lines_of(output)
    assert [line["image"] for line in lines] == ["b/c.PNG", "broken.jpg", "d.jpg", "a.png"]
    assert [line.get("error") for line in lines] == [None, "damaged", None, None]


def test_a_picture_that_times_out_is_asked_again(folder, tmp_path, monkeypatch):
    real = batch_module.read_bytes

    def slow(path, limit):
        if path.name == "d.jpg":
            raise TimeoutError(110, "Connection timed out")
        return real(path, limit)

    images, output = find_images(folder), tmp_path / "out.jsonl"
    monkeypatch.setattr(batch_module, "read_bytes", slow)
    assert run(images, output, META, lambda: size_of) == (4, 2, 0)
    assert lines_of(output)[-1]["message"] == "d.jpg: Connection timed out"
    monkeypatch.undo()
    assert run(images, output, META, lambda: size_of) == (1, 0, 1)


def test_an_engine_that_is_gone_stops_the_run_without_a_line_and_the_next_one_goes_on(folder, tmp_path):
    asked = []

    def answer(image):
        asked.append(image)
        if len(asked) == 2:
            raise RemoteError("the engine at 127.0.0.1 cannot be reached")
        return size_of(image)

    images, output = find_images(folder), tmp_path / "out.jsonl"
    with pytest.raises(RemoteError, match="cannot be reached"):
        run(images, output, META, lambda: answer, jobs=1)
    assert [line["image"] for line in lines_of(output)] == ["a.png"]
    assert run(images, output, META, lambda: size_of) == (3, 1, 0)
    assert [line["image"] for line in lines_of(output)] == ["a.png", "b/c.PNG", "broken.jpg", "d.jpg"]


def test_lines_of_another_setting_are_not_touched_by_a_picture_that_comes_back(folder, tmp_path):
    output, images = tmp_path / "out.jsonl", [NamedImage("late.png", folder / "late.png")]
    run(images, output, META, lambda: size_of)
    before = output.read_bytes()
    make_picture(5).save(folder / "late.png")
    with pytest.raises(BatchError, match="by another model, question or setting"):
        run(images, output, {"question": "Why?"}, lambda: size_of)
    assert output.read_bytes() == before


@pytest.mark.parametrize("damage", ["", "{", "[]"])
def test_lines_without_what_made_them_are_refused(folder, tmp_path, damage):
    output, images = tmp_path / "out.jsonl", find_images(folder)
    run(images, output, META, lambda: size_of)
    output.with_name("out.jsonl.meta.json").write_text(damage)
    with pytest.raises(BatchError, match="by another model, question or setting"):
        run(images, output, META, lambda: size_of)


def test_without_file_locks_a_run_warns_and_goes_on(folder, tmp_path, monkeypatch, caplog):
    without_locks(monkeypatch)
    output = tmp_path / "out.jsonl"
    assert run(find_images(folder), output, META, lambda: size_of) == (4, 1, 0)
    assert "this file system has no locks; start no second run there" in caplog.text


@given(st.sets(file_names(), min_size=1, max_size=6))
@settings(max_examples=25, deadline=None)
def test_no_name_ends_a_batch(tmp_path_factory, names):
    root = tmp_path_factory.mktemp("any")
    names = [name for name in make_files(root / "in", sorted(names)) if not name.startswith(".")]
    output = root / "out.jsonl"
    images = [NamedImage(name, root / "in" / name) for name in names]
    for image in images:
        make_picture(1).save(root / "picture.png")
        image.path.write_bytes((root / "picture.png").read_bytes())
    gone = NamedImage("L\udce4nger fort.jpg", root / "in" / "L\udce4nger fort.jpg")
    assert run([*images, gone], output, META, lambda: size_of) == (len(names) + 1, 1, 0)
    lines = lines_of(output)
    assert [line["image"] for line in lines] == [*names, gone.name]
    assert lines[-1]["message"].startswith("L\\xe4nger fort.jpg: no such picture")
    assert run([*images, gone], output, META, lambda: pytest.fail("answered twice")) == (0, 0, 1)
    assert {image.name for image in (find_images(root / "in") if names else [])} == set(names)


def test_what_is_left_out_of_a_folder_is_counted(folder):
    make_files(folder, ["._a.png", "__MACOSX/x.jpg", "scan.doc", "only/._a.jpg"])
    left_out = Counter()
    assert [image.name for image in find_images(folder, left_out)] == [
        "a.png",
        "b/c.PNG",
        "broken.jpg",
        "d.jpg",
    ]
    assert left_out == {folders.SYSTEM: 3, folders.OTHERS: 2}
    with pytest.raises(FolderError, match=r"holds no pictures; left out: files that macOS .*: 1$"):
        find_images(folder / "only")


def test_names_of_a_manifest_are_those_it_writes(tmp_path, monkeypatch):
    make_files(tmp_path, ["outside.png", "lists/some_0.png", "lists/some_1.png"])
    names = [
        "some_0.png",
        f"{tmp_path}/lists/some_1.png",
        "../outside.png",
        f"{tmp_path}/outside.png",
        "./some_0.png",
    ]
    manifest = tmp_path / "lists/some.jsonl"
    manifest.write_text("".join(json.dumps({"image": name}) + "\n" for name in names))
    expected = ["some_0.png", "some_1.png", "../outside.png", str(tmp_path / "outside.png")]
    assert [image.name for image in find_images(manifest)] == expected
    monkeypatch.chdir(tmp_path)
    assert [image.name for image in find_images("lists/some.jsonl")] == expected
    assert all(image.path.is_file() for image in find_images("lists/some.jsonl"))


def test_manifests_single_files_and_what_holds_no_images(tmp_path):
    manifest = write_manifest(tmp_path / "some.jsonl", 3)
    assert [p.name for p in find_images(manifest)] == ["some_0.png", "some_1.png", "some_2.png"]
    assert [p.name for p in find_images(tmp_path / "some_0.png")] == ["some_0.png"]
    (tmp_path / "empty").mkdir()
    for wrong in (tmp_path / "empty", tmp_path / "nowhere"):
        with pytest.raises(FolderError):
            find_images(wrong)


def test_an_image_gets_the_answers_of_a_fresh_session(tmp_path):
    config = tiny_config(tmp_path)
    model = build(config, torch.device("cpu"), build_encoder(config))
    generation = Generation(6)
    ask = ImageAnswerer(model, config, Ranker(model, config), ("What is it?", "Why?"), generation)
    first, again = ask(make_picture(1)), [ask(make_picture(seed)) for seed in (2, 1)][1]
    assert first == again, "no state of another picture"
    session = ChatSession(model, config)
    session.add_image(make_picture(1))
    answers = [session.ask(question, generation) for question in ("What is it?", "Why?")]
    assert first["text"] == "\n".join(answers)
    assert [turn["answer"] for turn in first["turns"]] == answers
    assert set(first["probabilities"]) == set(CLASSES)
    assert first["class"] == max(first["probabilities"], key=first["probabilities"].get)
    assert first["confident"] is False
    assert 0 <= first["quality"]["score"] <= 1
    json.dumps(first)


def test_command_line(tmp_path, folder, capsys):
    config = tiny_config(tmp_path / "model", step="none", initial_checkpoint=None)
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config))
    output = tmp_path / "out.jsonl"
    command = [
        "--images",
        str(folder),
        "--config",
        str(path),
        "--output",
        str(output),
        "--max-new-tokens",
        "4",
    ]
    assert batch.main(command) == 0, capsys.readouterr().err
    err = capsys.readouterr().err
    assert "4 lines written, 1 of them failures" in err
    assert "Untrained projection" in err
    lines = lines_of(output)
    assert len(lines[0]["probabilities"]) == 15
    meta = json.loads(output.with_name("out.jsonl.meta.json").read_text())
    assert meta["questions"] == [CLINICAL_PROMPTS[0]]
    assert "not a diagnosis" in meta["disclaimer"]
    assert batch.main(command) == 0
    assert "0 lines written" in capsys.readouterr().err
    (folder / "psoriasis").symlink_to(tmp_path / "unmounted")
    assert batch.main(command) == 1
    err = capsys.readouterr().err
    assert f"left out: {folders.BROKEN}: 1" in err
    assert "1 folders or links in it could not be read" in err
    assert batch.main([*command, "--no-text"]) == 1
    assert "--replace" in capsys.readouterr().err
    assert batch.main([*command[:1], str(tmp_path / "nowhere"), *command[2:]]) == 1
    assert batch.main([*command, "--jobs", "0"]) == 1
    assert batch.main([*command, "--temperature", "-1"]) == 1


def test_a_dicom_photograph_is_answered_with_what_its_file_says(tmp_path):
    from tests.support.dicom_files import PERSON, photograph

    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "IM0001").write_bytes(photograph(BurnedInAnnotation="YES"))
    (folder / "b.dcm").write_bytes(photograph(sop_class="1.2.840.10008.5.1.4.1.1.2"))
    (folder / "DICOMDIR").write_bytes(photograph())
    output = tmp_path / "out.jsonl"
    run(find_images(folder), output, META, lambda: lambda image: {"size": list(image.size)})
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["image"] for line in lines] == ["IM0001", "b.dcm"]
    assert (lines[0]["size"], lines[0]["remarks"]) == ([48, 32], ["burnt_in_text"])
    assert lines[1]["error"] == "not_a_photograph"
    assert PERSON not in output.read_text()
