"""Readers of public label sets: each reads its true shape, keeps what belongs together, and names what it refuses."""

import json

import pytest

from data import prepare
from data.split import main as split
from eval.tasks import load_task
from tests.support.downloads import NEW_HEADER, write_csv
from tests.support.preparing import prepared as run
from tests.support.preparing import refused
from tests.support.public_sets import (
    HAM10000_CODES,
    SCIN_LABELS,
    write_ddi,
    write_dermavqa,
    write_ham10000,
    write_image,
    write_pad_ufes_20,
    write_scin,
    write_skincap,
)
from tests.support.zip_files import write_bomb


def test_ham10000_finds_its_pictures_and_keeps_lesions_together(tmp_path):
    table = write_ham10000(tmp_path / "in", lesions=14, views=3)
    records, rejected = run(["ham10000", table], tmp_path / "out")
    assert (len(records), rejected) == (42, [])
    first = records[0]
    assert first["disease"] == "melanocytic nevus"
    assert first["class"] == "melanoma_nevi_moles"
    assert (first["x_lesion_id"], first["patient_id"], first["x_dx"]) == ("HAM_0000000", "HAM_0000000", "nv")
    assert (first["x_dx_type"], first["x_sex"], first["x_age"], first["body_site"]) == (
        "follow_up",
        "male",
        "60.0",
        "back",
    )
    task = load_task("ham10000_7")
    assert [task.label_of(record) is None for record in records] == [False] * 42
    assert {task.label_of(record) for record in records} == set(task.classes)
    assert (
        split(
            [
                str(tmp_path / "out/all.jsonl"),
                "--out-dir",
                str(tmp_path / "split"),
                "--shares",
                "train=0.5,test=0.5",
            ]
        )
        == 0
    )
    lesions = [
        {
            json.loads(line)["x_lesion_id"]
            for line in (tmp_path / f"split/{name}.jsonl").read_text().splitlines()
        }
        for name in ("train", "test")
    ]
    assert all(lesions)
    assert not lesions[0] & lesions[1]


def test_codes_of_ham10000_are_labels_of_the_task():
    task = load_task("ham10000_7")
    assert {task.label_of({"disease": code}) for code in HAM10000_CODES} == set(task.classes)


def test_a_mirror_may_hold_the_pictures_twice_but_not_others_of_the_same_name(tmp_path):
    table = write_ham10000(tmp_path / "in", lesions=2, views=1)
    write_image(tmp_path / "in/ham10000_copies/ISIC_0024306.jpg", 300)  # the same picture
    write_image(tmp_path / "in/other/ISIC_0024307.jpg", 999, (60, 60))
    records, rejected = run(["ham10000", table], tmp_path / "out")
    assert len(records) == 1
    assert "'ISIC_0024307' fits several pictures" in rejected[0]["detail"]


def test_a_picture_that_becomes_gigabytes_is_refused_by_its_size(tmp_path):
    table = write_ham10000(tmp_path / "in", lesions=2, views=1)
    (tmp_path / "in/HAM10000_images_part_1/ISIC_0024306.jpg").unlink()
    write_bomb(tmp_path / "in/more.zip", "ISIC_0024306.jpg")
    records, rejected = run(["ham10000", table], tmp_path / "out")
    assert len(records) == 1
    assert [(line["reason"], line["detail"]) for line in rejected] == [
        ("too_large", "ISIC_0024306.jpg: has more than 536870912 bytes")
    ]


def test_pad_ufes_20_keeps_patients_and_reads_its_skin_types(tmp_path):
    records, rejected = run(["pad_ufes_20", write_pad_ufes_20(tmp_path / "in")], tmp_path / "out")
    assert (len(records), rejected) == (12, [])
    assert [r["patient_id"] for r in records[:4]] == ["PAT_8", "PAT_8", "PAT_9", "PAT_9"]
    assert [r["fitzpatrick"] for r in records[:4]] == [None, None, 2, 2]
    assert (records[0]["disease"], records[0]["x_biopsed"], records[2]["x_biopsed"]) == (
        "basal cell carcinoma",
        "true",
        "false",
    )
    task = load_task("pad_ufes_20_6")
    assert {task.label_of(record) for record in records} == set(task.classes)


def test_ddi_says_malignancy_and_skin_tone(tmp_path):
    records, _ = run(["ddi", write_ddi(tmp_path / "in")], tmp_path / "out")
    assert [r["fitzpatrick"] for r in records[:6]] == [12, 12, 34, 34, 56, 56]
    assert [r["x_malignant"] for r in records[:2]] == ["false", "true"]
    assert [load_task("ddi_malignancy").label_of(r) for r in records[:2]] == ["benign", "malignant"]


def test_fitzpatrick17k_gives_all_three_tasks_their_labels(tmp_path):
    folder = tmp_path / "in"
    names = [f"{n:032x}" for n in range(3)]
    for n, name in enumerate(names):
        write_image(folder / f"images/{name}.jpg", 40 + n)
    labels = ("psoriasis", "melanoma", "dermatofibroma")
    rows = [
        {"md5hash": name, "fitzpatrick_scale": "-1", "label": label}
        for name, label in zip(names, labels, strict=True)
    ]
    columns = NEW_HEADER.split(",")
    table = write_csv(
        folder / "fitzpatrick17k.csv", columns, [[row.get(c, "") for c in columns] for row in rows]
    )
    records, _ = run(["fitzpatrick17k", table, "--images", folder / "images"], tmp_path / "out")
    nine, three = (
        ("inflammatory", "malignant melanoma", "benign dermal"),
        ("non-neoplastic", "malignant", "benign"),
    )
    for size, expected in ((114, labels), (9, nine), (3, three)):
        assert tuple(load_task(f"fitzpatrick17k_{size}").label_of(r) for r in records) == expected
    assert records[0]["fitzpatrick"] is None


def test_skincap_gives_captions_as_notes_and_references(tmp_path):
    table = write_skincap(tmp_path / "in", ("A red plaque.", "Seen by Dr. Miller on 3 May 2019.", ""))
    records, rejected = run(["skincap", table], tmp_path / "out")
    assert [(r["note"], r.get("x_references")) for r in records] == [
        ("A red plaque.", ["A red plaque."]),
        (None, None),
    ]
    assert [r["reason"] for r in rejected] == ["phi"]
    task = load_task("skincap_captions")
    assert [task.has_answer(record) for record in records] == [True, False]


def test_scin_joins_weights_and_skin_types_to_cases_of_several_pictures(tmp_path):
    records, rejected = run(["scin", write_scin(tmp_path / "in")], tmp_path / "out")
    assert [r["case_id"][-3:] for r in records] == ["606", "606", "606", "605", "604"]
    assert records[0]["x_differential"] == {
        "Eczema": 0.69,
        "Acute and chronic dermatitis": 0.11,
        "Psoriasis": 0.2,
    }
    assert [r["disease"] for r in records[2:]] == ["Eczema", None, "Herpes Zoster"]
    assert [r["fitzpatrick"] for r in records[2:]] == [34, 2, None]  # 3 and 4 are a pair, 1 and 6 are none
    assert (records[0]["x_sex"], records[0]["x_age_group"], records[0]["x_monk_us"]) == (
        "FEMALE",
        None,
        "4.0",
    )
    assert [(r["reason"], r["detail"]) for r in rejected] == [
        ("no_label", "no dermatologist named a condition")
    ]
    task = load_task("scin")
    assert task.label_of(records[0]) == "Eczema"
    assert task.differential_of(records[3]) == {"Urticaria": 0.5, "Insect Bite": 0.5}


@pytest.mark.parametrize(
    ("label", "reason"),
    [("{'Eczema': 'much'}", "not an object of conditions with weights"), ("Eczema", "neither JSON nor Python"),
     ("{'Eczema': -1}", "weights of 0 or more"),
     (f"{{'Eczema': {'9' * 400}}}", "weights of 0 or more"),
     ("{'Eczema': 0.0}", "no dermatologist named a condition")],
)  # fmt: skip
def test_weights_that_cannot_be_read_refuse_their_case(tmp_path, label, reason):
    table = write_scin(tmp_path / "in")
    ids = [row.split(",")[0] for row in table.read_text().splitlines()[1:]]
    good = "{'Psoriasis': 1.0}"
    rows = [[name, True, "", "", label if n == 0 else good, "", "", "", "", ""] for n, name in enumerate(ids)]
    write_csv(tmp_path / "in/scin_labels.csv", SCIN_LABELS, rows)
    records, rejected = run(["scin", table], tmp_path / "out")
    assert len(records) == 3
    assert len(rejected) == 3  # all pictures of the case
    assert reason in rejected[0]["detail"]


def test_scin_says_which_file_is_not_there(tmp_path, capsys):
    table = write_scin(tmp_path / "in")
    (tmp_path / "in/scin_labels.csv").unlink()
    assert "scin_labels.csv" in refused(["scin", table], tmp_path / "out", capsys)
    write_csv(tmp_path / "in/scin_labels.csv", SCIN_LABELS, [["1", *[""] * 9], ["1", *[""] * 9]])
    assert "row 3: the case '1' is in an earlier row" in refused(["scin", table], tmp_path / "out", capsys)


def test_dermavqa_keeps_encounters_of_several_pictures_with_all_responses(tmp_path):
    records, rejected = run(
        ["dermavqa", write_dermavqa(tmp_path / "in"), "--split", "test"], tmp_path / "out"
    )
    assert rejected == []
    assert [r["case_id"] for r in records] == ["ENC00001"] + ["ENC00002"] * 2 + ["ENC00003"] * 3
    assert records[0]["x_history"] == "Rash on the hand It has itched for two weeks."
    assert records[0]["x_references"] == ["Eczema, answer 0.", "Hand eczema; use an emollient."]
    assert records[0]["split"] == "test"
    assert load_task("dermavqa").references_of(records[0]) == tuple(records[0]["x_references"])


def test_dermavqa_in_a_language_without_responses_is_refused(tmp_path, capsys):
    path = write_dermavqa(tmp_path / "in")
    assert prepare.main(["dermavqa", str(path), "--language", "zh", "--out-dir", str(tmp_path / "out")]) == 1
    assert "no record was kept" in capsys.readouterr().err
    assert "no response in the language zh" in (tmp_path / "out/rejected.jsonl").read_text()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{}", "expected a JSON list of encounters"),
        ("[1]", "expected a JSON list"),
        ("[{", "is not JSON that can be read"),
    ],
)
def test_what_is_no_list_of_encounters(tmp_path, capsys, content, sentence):
    (tmp_path / "a.json").write_text(content)
    assert sentence in refused(["dermavqa", tmp_path / "a.json"], tmp_path / "out", capsys)
    assert "no such file" in refused(["dermavqa", tmp_path / "b.json"], tmp_path / "out", capsys)


def test_another_table_is_named_with_what_is_missing(tmp_path, capsys):
    table = write_ddi(tmp_path / "in")
    assert "image_id" in refused(["ham10000", table], tmp_path / "out", capsys)


def test_a_picture_that_is_listed_twice_and_one_that_is_not_there(tmp_path):
    table = write_ddi(tmp_path / "in", 4)
    table.write_text(
        table.read_text()
        + "9,9,000001.png,12,FALSE,scar\n10,10,000099.png,12,FALSE,scar\n11,11,,12,FALSE,scar\n"
    )
    records, rejected = run(["ddi", table], tmp_path / "out")
    assert len(records) == 4
    assert [r["reason"] for r in rejected] == ["listed_twice", "missing", "bad_row"]
