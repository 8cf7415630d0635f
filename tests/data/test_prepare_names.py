"""Preparation and names: any file name, links, other slashes and suffixes; nothing is lost without a line."""

import json
import os
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import prepare
from data.preparing import engine, images
from skingpt4.records import folders
from skingpt4.records.manifest import read_manifest
from skingpt4.records.naming import LETTERS, SLASHES, SUFFIX
from tests.support.downloads import image_bytes, write_csv
from tests.support.locking import without_locks
from tests.support.names import file_names, make_files


def pictures(folder, names):
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(image_bytes(number))


def run(out, *arguments, status=0):
    assert prepare.main([*map(str, arguments), "--out-dir", str(out), "--workers", "1"]) == status
    return [
        [json.loads(line) for line in (out / name).read_text(encoding="utf-8").splitlines()]
        for name in (engine.MANIFEST, engine.REJECTED)
    ]


@given(st.sets(file_names().filter(lambda name: not name.startswith(".")), min_size=1, max_size=5))
@settings(max_examples=15, deadline=None)
def test_any_name_becomes_a_record_that_training_reads(tmp_path_factory, names):
    root = tmp_path_factory.mktemp("any")
    names = {
        name for name in names if name.lower() not in ("thumbs.db", "desktop.ini", "__macosx", "ehthumbs.db")
    }
    pictures(root / "in", [f"psoriasis/{name}" for name in [*sorted(names), "a.jpg"]])
    for _ in range(2):  # the second time from the cache
        records, refused = run(root / "out", "folders", root / "in")
        assert (len(records), refused) == (len(names | {"a.jpg"}), [])
    paths = [record.image_path for record in read_manifest(root / "out/all.jsonl")]
    assert {path.name for path in paths} == names | {"a.jpg"}
    assert all(path.is_file() for path in paths)
    shutil.rmtree(root)


def test_a_class_folder_that_is_a_link_is_read(tmp_path, capsys):
    pictures(tmp_path, ["store/1.jpg", "store/2.jpg", "in/melanoma/1.jpg"])
    (tmp_path / "in/psoriasis").symlink_to(tmp_path / "store")
    records, refused = run(tmp_path / "out", "folders", tmp_path / "in")
    assert [record["disease"] for record in records] == ["melanoma", "psoriasis", "psoriasis"]
    assert not refused
    kaggle = tmp_path / "dermnet/train/Acne and Rosacea Photos"
    kaggle.parent.mkdir(parents=True)
    kaggle.symlink_to(tmp_path / "store")
    records, _ = run(tmp_path / "out2", "dermnet", tmp_path / "dermnet")
    assert [record["class"] for record in records] == ["acne_and_rosacea"] * 2


@pytest.mark.parametrize("loss", ["away", "empty", "damaged", "link to another", "only a Mac's files"])
def test_a_class_folder_that_is_lost_as_a_whole_is_a_failure(tmp_path, capsys, loss):
    pictures(tmp_path / "in", ["melanoma/1.jpg"])
    lost = tmp_path / "in/psoriasis"
    if loss == "away":
        lost.symlink_to(tmp_path / "unmounted")
    elif loss == "link to another":
        lost.symlink_to(tmp_path / "in/melanoma")
    elif loss == "empty":
        lost.mkdir()
    else:
        make_files(lost, ["damaged.jpg" if loss == "damaged" else "._1.jpg"])
    records, _ = run(tmp_path / "out", "folders", tmp_path / "in", status=1)
    assert len(records) == 1
    shown = capsys.readouterr()
    assert "no picture of the class folder 'psoriasis' became a record" in shown.err
    assert shown.err.count("error:") == 1
    assert ("lists those that were refused" in shown.err) == (loss == "damaged")
    assert ("it is empty, or a link to another one" in shown.err) == (loss != "damaged")
    run(tmp_path / "out", "folders", tmp_path / "in", "--limit", "1")  # asks for less


def test_a_lost_part_or_folder_of_dermnet_is_a_failure(tmp_path, capsys):
    root = tmp_path / "in"
    pictures(root, ["train/Acne and Rosacea Photos/1.jpg", "test/Acne and Rosacea Photos/2.jpg"])
    make_files(root, ["test/Eczema Photos/damaged.jpg"])
    run(tmp_path / "out", "dermnet", root, status=1)
    assert "'test/Eczema Photos' became a record" in capsys.readouterr().err
    shutil.rmtree(root / "test")
    (root / "test").symlink_to(tmp_path / "unmounted")
    assert prepare.main(["dermnet", str(root), "--out-dir", str(tmp_path / "out")]) == 1
    assert f"{root / 'test'}: is not there" in capsys.readouterr().err


def test_a_class_map_names_folders_in_either_form_of_accents(tmp_path):
    pictures(tmp_path / "in", ["Flechte rotgelbe\u0308r/1.jpg", "\u00d6kzem/2.jpg"])
    (tmp_path / "map.yaml").write_text(
        "Flechte rotgelb\u00ebr: herpes\nO\u0308kzem: dermatitis\n", encoding="utf-8"
    )
    records, _ = run(tmp_path / "out", "folders", tmp_path / "in", "--class-map", tmp_path / "map.yaml")
    assert [record["class"] for record in records] == ["herpes", "dermatitis"]


def test_what_is_left_out_has_a_line(tmp_path, capsys):
    root = tmp_path / "in/psoriasis"
    pictures(root, ["a.jpg", "saved.jfif", "scan.jpe", "IMG_0001"])
    make_files(root, ["._a.jpg", "__MACOSX/._a.jpg", "Thumbs.db", ".hidden.jpg", "x.dcm", "notes.txt"])
    (root / "again").symlink_to(root)
    os.mkfifo(root / "pipe.jpg")
    records, refused = run(tmp_path / "out", "folders", tmp_path / "in")
    assert {record["image"].split("/")[-1] for record in records} == {
        "a.jpg",
        "saved.jfif",
        "scan.jpe",
        "IMG_0001",
    }
    assert {row["image"].split("/")[-1] for row in refused} == {"x.dcm", "notes.txt"}
    assert {row["reason"] for row in refused} == {"not_an_image"}
    lines = capsys.readouterr().out.splitlines()
    for number, reason in (
        (3, folders.SYSTEM),
        (1, folders.HIDDEN),
        (1, folders.LISTED),
        (1, folders.SPECIAL),
    ):
        assert f"left out {number:>9}  {reason}" in lines


@pytest.mark.parametrize("source", ["notes", "cases"])
def test_names_in_a_table_as_people_write_them(tmp_path, capsys, source):
    pictures(tmp_path, ["images/a.jpg", "ISIC_1.jpg", "Upper.JPG", "two.jpg", "two.png"])
    written = [
        "images\\a.jpg",
        "ISIC_1",
        "upper.jpg",
        str(tmp_path / "two.png"),
        "two",
        "C:\\Users\\me\\a.jpg",
    ]
    rows = [[f"c{number}", name, "psoriasis"] for number, name in enumerate(written)]
    table = write_csv(
        tmp_path / "t.csv", ["id" if source == "cases" else "case_id", "image", "disease"], rows
    )
    column = [] if source == "cases" else ["--column", "diagnosis=disease"]
    records, refused = run(tmp_path / "out", source, table, *column)
    assert [record["image"] for record in records] == [
        "../images/a.jpg", "../ISIC_1.jpg", "../Upper.JPG", "../two.png",
    ]  # fmt: skip
    assert [(row["row"], row["reason"]) for row in refused] == [(6, "missing"), (7, "missing")]
    assert "there is 'two.jpg' and 'two.png'" in refused[0]["detail"]
    assert "a path of a Windows computer" in refused[1]["detail"]
    shown = capsys.readouterr().out
    assert all(f"1  {remark}" in shown for remark in (SLASHES, SUFFIX, LETTERS))


def test_what_can_be_no_name_of_a_file_is_a_refused_row(tmp_path):
    pictures(tmp_path, ["a.jpg"])
    names = ["a\0.jpg", "\ud83d.jpg", "x" * 300, "x/" * 3000, ".", "..", "/", "a.jpg/b", "a.jpg"]
    rows = [json.dumps({"image": name, "note": "Red."}) + "\n" for name in names]
    (tmp_path / "t.jsonl").write_text("".join(rows))
    records, refused = run(tmp_path / "out", "notes", tmp_path / "t.jsonl")
    assert [record["image"] for record in records] == ["../a.jpg"]
    assert [row["row"] for row in refused] == list(range(1, len(names)))
    assert {row["reason"] for row in refused} <= {"missing", "unreadable", "bad_row"}


# ---- a second run


def test_a_picture_that_could_not_be_read_is_tried_again_and_a_damaged_one_is_not(tmp_path, monkeypatch):
    pictures(tmp_path / "in", [f"psoriasis/{number}.jpg" for number in range(3)])
    make_files(tmp_path / "in", ["psoriasis/damaged.jpg"])
    real, asked = images.open_image, []

    def slow(path, name):
        asked.append(name)
        if name == "1.jpg":
            raise images.ImageError(f"{name}: cannot be read (Connection timed out)", "unreadable")
        return real(path, name)

    monkeypatch.setattr(images, "open_image", slow)
    _, refused = run(tmp_path / "out", "folders", tmp_path / "in")
    assert [row["reason"] for row in refused] == ["unreadable", "not_an_image"]
    asked.clear()
    _, again = run(tmp_path / "out", "folders", tmp_path / "in")
    assert again == refused
    assert asked == ["1.jpg"]
    monkeypatch.setattr(images, "open_image", lambda path, name: asked.append(name) or real(path, name))
    asked.clear()
    records, refused = run(tmp_path / "out", "folders", tmp_path / "in")
    assert (len(records), [row["reason"] for row in refused], asked) == (3, ["not_an_image"], ["1.jpg"])


def test_a_failure_that_an_earlier_version_saved_is_tried_again(tmp_path):
    pictures(tmp_path / "in", ["psoriasis/1.jpg"])
    run(tmp_path / "out", "folders", tmp_path / "in")
    cache = images.MeasureCache(tmp_path / "out" / engine.CACHE)
    cache._base.execute("UPDATE pictures SET reason = 'unreadable', detail = 'timed out'")
    cache.close()
    records, _ = run(tmp_path / "out", "folders", tmp_path / "in")
    assert len(records) == 1


def test_without_file_locks_preparation_warns_and_goes_on(tmp_path, monkeypatch, caplog, capsys):
    pictures(tmp_path / "in", ["psoriasis/1.jpg"])
    out = tmp_path / "50% L\udce4sion"
    without_locks(monkeypatch)
    run(out, "folders", tmp_path / "in")
    assert "this file system has no locks; start no second run there" in caplog.text
    capsys.readouterr()
    monkeypatch.undo()
    run(out, "folders", tmp_path / "in")
    assert "0 pictures were read" in capsys.readouterr().out
