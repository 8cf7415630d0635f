import hashlib
import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from data.phantoms import WARNING, splits
from data.phantoms.__main__ import main
from data.phantoms.notes import ADJECTIVES, EXTRAS, NOUNS
from data.phantoms.scene import EXCLUDES, NEEDS, choose_scene
from data.phantoms.sheet import DRAWN_CONCEPTS, contact_sheet
from data.phantoms.splits import DISEASES, render_phantom, write_split
from skingpt4.taxonomy.taxonomy import CLASSES, CONCEPTS

KEYS = {
    "image", "sha256", "source", "split", "concepts", "disease", "class", "fitzpatrick", "body_site", "note",
    "case_id", "licence",
}  # fmt: skip


def read(manifest):
    return [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def scenes():
    return [choose_scene(0, "train", i) for i in range(4500)]


@pytest.fixture(scope="module")
def plainly_red():
    """By skin tone, the first eight scenes in which redness is seen without anything over it."""
    found = {tone: [] for tone in range(1, 7)}
    for i in range(4000):
        scene = choose_scene(2, "red", i)
        if is_plainly_red(scene) and len(found[scene.tone]) < 8:
            found[scene.tone].append(i)
        if all(len(indices) == 8 for indices in found.values()):
            break
    return found


def test_same_arguments_same_phantom():
    one, two = render_phantom(3, "train", 7, size=96), render_phantom(3, "train", 7, size=96)
    assert np.array_equal(one.image, two.image)
    assert np.array_equal(one.mask, two.mask)
    assert (one.concepts, one.note, one.body_site) == (two.concepts, two.note, two.body_site)


@pytest.mark.parametrize("other", [(4, "train", 7), (3, "test", 7), (3, "train", 22)])
def test_seed_split_and_index_all_change_the_picture(other):
    assert not np.array_equal(
        render_phantom(3, "train", 7, size=64).image, render_phantom(*other, size=64).image
    )


def test_known_values_do_not_depend_on_the_process():
    # A record drawn in another process must be the same: nothing may hang on hash() or on global state.
    scene = choose_scene(0, "train", 0)
    assert scene == choose_scene(0, "train", 0, CLASSES[0])
    assert scene.class_name == CLASSES[0]


def test_shapes_types_and_ranges():
    phantom = render_phantom(0, "train", 1, size=80)
    assert phantom.image.shape == (80, 80, 3)
    assert phantom.image.dtype == np.uint8
    assert phantom.mask.shape == (80, 80)
    assert phantom.mask.dtype == np.uint8
    assert set(np.unique(phantom.mask)) == {0, 1}
    assert 1 <= phantom.fitzpatrick <= 6
    assert phantom.disease == DISEASES[phantom.class_name]


def test_classes_rotate_and_each_has_one_disease(scenes):
    counts = Counter(scene.class_name for scene in scenes[:150])
    assert counts == dict.fromkeys(CLASSES, 10)
    assert list(DISEASES) == list(CLASSES)
    assert len(set(DISEASES.values())) == len(CLASSES)


def test_concepts_are_known_ordered_two_to_six_and_all_occur(scenes):
    seen = Counter(name for scene in scenes for name in scene.concepts)
    assert set(seen) == set(DRAWN_CONCEPTS)
    assert len(DRAWN_CONCEPTS) >= 26
    for scene in scenes:
        assert 2 <= len(scene.concepts) <= 6
        assert list(scene.concepts) == [c for c in CONCEPTS if c in scene.concepts]
    assert 2.8 < np.mean([len(scene.concepts) for scene in scenes]) < 3.6


def test_no_concept_stands_without_what_it_is_drawn_on(scenes):
    for scene in scenes:
        concepts = set(scene.concepts)
        for name in concepts & set(NEEDS):
            assert concepts & set(NEEDS[name]), concepts
        for name in concepts & set(EXCLUDES):
            assert EXCLUDES[name] not in concepts


def test_notes_are_short_and_name_the_site():
    scenes = [choose_scene(1, "train", i) for i in range(300)]
    for scene in scenes:
        assert scene.site in scene.note.lower()
        assert 3 <= len(scene.note.split()) <= 25
    assert len({scene.note for scene in scenes}) > 250


def test_every_phantom_has_lesions_and_skin():
    for i in range(60):
        share = render_phantom(5, "train", i, size=96).mask.mean()
        assert 0.001 < share < 0.95


@pytest.mark.parametrize("tone", range(1, 7))
def test_erythema_is_redder_than_the_skin_around(tone, plainly_red):
    gain = []
    for i in plainly_red[tone]:
        phantom = render_phantom(2, "red", i, size=96)
        pixels = phantom.image.astype(float) + 1
        red = pixels[..., 0] / pixels.sum(-1)
        inside = phantom.mask == 1
        gain.append(red[inside].mean() - red[~inside].mean())
    assert len(gain) == 8
    assert np.mean(gain) > 0.02


def is_plainly_red(scene):
    wide = {"Plaque", "Patch"} & set(scene.concepts)
    hidden = {"Scale", "Crust", "Black", "Blue", "White(Hypopigmentation)"} & set(scene.concepts)
    limb = scene.site in ("hand", "foot", "forearm", "lower leg")  # the drape has a colour of its own
    return "Erythema" in scene.concepts and wide and not hidden and not limb


def test_write_split_records_files_and_reuse(tmp_path, monkeypatch):
    manifest = write_split(tmp_path, "train", 15, seed=0, size=64, masks=True)
    records = read(manifest)
    assert [r["class"] for r in records] == list(CLASSES)
    for i, record in enumerate(records):
        assert set(record) == KEYS
        path = manifest.parent / record["image"]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == record["sha256"]
        with Image.open(path) as image:
            assert image.size == (64, 64)
            assert not image.getexif()
        assert (manifest.parent / "masks" / f"{i:06d}.png").exists()
        assert record["case_id"] == f"phantom-train-{i:06d}"
        assert record["source"] == "phantoms"
        assert record["licence"] == "Apache-2.0"
    stamp = manifest.stat().st_mtime_ns
    monkeypatch.setattr(splits, "render_phantom", None)  # reuse must not draw
    assert write_split(tmp_path, "train", 15, seed=0, size=64, masks=True).stat().st_mtime_ns == stamp


def test_an_interrupted_split_has_no_manifest_and_is_made_again(tmp_path, monkeypatch):
    real = splits.render_phantom

    def failing(seed, split, index, class_name=None, size=224):
        if index == 3:
            raise OSError("disk full")
        return real(seed, split, index, class_name, size)

    monkeypatch.setattr(splits, "render_phantom", failing)
    with pytest.raises(OSError, match="disk full"):
        write_split(tmp_path, "train", 5, seed=0, size=48)
    assert not (tmp_path / "train" / "manifest.jsonl").exists()
    monkeypatch.setattr(splits, "render_phantom", real)
    assert len(read(write_split(tmp_path, "train", 5, seed=0, size=48))) == 5
    assert len(read(write_split(tmp_path, "train", 4, seed=0, size=48))) == 4


def test_pool_and_serial_rendering_agree(tmp_path, monkeypatch):
    serial = write_split(tmp_path / "serial", "train", 8, seed=0, size=48).read_text()
    monkeypatch.setattr(splits, "SERIAL_BELOW", 0)
    assert write_split(tmp_path / "pool", "train", 8, seed=0, size=48).read_text() == serial


def test_known_concepts_withholds_a_share_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(splits, "render_phantom", lambda *a, **k: TINY)
    part = read(write_split(tmp_path / "part", "train", 150, seed=0, size=32, known_concepts=0.3))
    with_concepts = [r for r in part if r["concepts"] is not None]
    assert 30 <= len(with_concepts) <= 60
    none = read(write_split(tmp_path / "none", "train", 10, seed=0, size=32, known_concepts=0.0))
    assert all(r["concepts"] is None for r in none)


TINY = render_phantom(0, "train", 0, size=32)


def test_contact_sheet(tmp_path):
    path = contact_sheet("class", tmp_path / "sheet.png", columns=2, only=["herpes"])
    with Image.open(path) as image:
        assert image.width > 200


def test_help_says_what_phantoms_are(capsys):
    for argv in (["--help"], ["render", "--help"], ["sheet", "--help"]):
        with pytest.raises(SystemExit) as stop:
            main(argv)
        assert stop.value.code == 0
        assert WARNING in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    "argv",
    [
        ["render", "--out-dir", "{tmp}", "--split", "train", "--count", "-1"],
        ["render", "--out-dir", "{tmp}", "--split", "../up", "--count", "1"],
        ["render", "--out-dir", "{tmp}", "--split", "train", "--count", "1", "--known-concepts", "2"],
        ["render", "--out-dir", "{tmp}", "--split", "train", "--count", "1", "--size", "4"],
        ["render", "--out-dir", "{tmp}/file", "--split", "train", "--count", "1"],
        ["sheet", "--by", "class", "--out", "{tmp}/a.png", "--only", "gout"],
        ["sheet", "--by", "concept", "--out", "{tmp}/no/a.png", "--only", "Scale"],
    ],
)
def test_bad_input_is_one_sentence_and_an_error_status(argv, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert main([a.format(tmp=tmp_path) for a in argv]) != 0
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")


def test_dialogues_name_no_disease_and_keep_the_order_of_the_prompts(tmp_path):
    from skingpt4.generation.questions import CLINICAL_PROMPTS

    plain, talking = (
        read(write_split(tmp_path / name, "talk", 30, seed=1, size=32, dialogues=dialogues))
        for name, dialogues in (("plain", False), ("talking", True))
    )
    dialogues = [record.pop("turns") for record in talking]
    assert talking == plain
    assert {len(turns) for turns in dialogues} >= {2, 3}
    for turns, record in zip(dialogues, plain, strict=True):
        places = [CLINICAL_PROMPTS.index(turn["question"]) for turn in turns[1:]]
        assert places == sorted(set(places))
        assert len({turn["answer"] for turn in turns}) == len(turns)
        assert record["disease"] not in " ".join(turn["answer"] for turn in turns)
        for turn in turns:
            if turn["question"] == CLINICAL_PROMPTS[1]:
                assert record["body_site"] in turn["answer"]


def test_captions_name_what_is_drawn_and_change_nothing_else(tmp_path):
    plain, captioned = (
        read(write_split(tmp_path / name, "align", 15, seed=1, size=64, captions=captions))
        for name, captions in (("plain", False), ("captioned", True))
    )
    assert "captions" not in json.loads((tmp_path / "plain" / "align" / "params.json").read_text())
    captions = [record.pop("caption") for record in captioned]
    assert captioned == plain
    assert len({*captions}) == 15
    for caption, record in zip(captions, plain, strict=True):
        assert record["body_site"] in caption
        assert "skin" in caption
        assert record["disease"] not in caption
        for concept, words in {**ADJECTIVES, **EXTRAS}.items():
            if concept in record["concepts"] and concept not in NOUNS:
                assert any(word in caption for word in words), (concept, caption)
