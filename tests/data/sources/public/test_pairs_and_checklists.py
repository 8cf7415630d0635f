"""Readers of the ISIC archive, Derm7pt, Derm1M and MM-Skin; dialogues, differentials, and pictures in zip files."""

import json

import pytest

from data import prepare
from data.sources.public.derm1m import case_of
from skingpt4.records.images import open_image
from tests.support.downloads import write_csv
from tests.support.preparing import prepared as run
from tests.support.preparing import refused
from tests.support.public_sets import (
    pack,
    write_derm1m,
    write_derm7pt,
    write_dermavqa,
    write_ham10000,
    write_image,
    write_isic,
    write_mm_skin,
    write_scin,
)

# --- ISIC archive -----------------------------------------------------------------------------------


def test_isic_takes_the_most_specific_diagnosis_and_each_pictures_terms(tmp_path):
    records, rejected = run(["isic", write_isic(tmp_path / "in")], tmp_path / "out")
    assert [(r["disease"], r["class"]) for r in records[:8:2]] == [
        ("Nevus, Atypical, Dysplastic, or Clark", "melanoma_nevi_moles"),
        ("Melanoma in situ, Lentigo maligna type", "melanoma_nevi_moles"),
        ("Basal cell carcinoma, Nodular", "malignant_lesions"),
        ("Solar or actinic keratosis", "malignant_lesions"),
    ]
    assert [r["case_id"] for r in records[:4]] == ["IL_0000000"] * 2 + ["IL_0000001"] * 2
    assert [r["patient_id"] for r in records[:6:2]] == ["IP_0000000", "IP_0000000", "IP_0000001"]
    assert [r["licence"] for r in records[:6:2]] == [
        f"ISIC archive, {terms}, Department of Dermatology, Hospital"
        for terms in ("CC-0", "CC-BY", "CC-BY-NC")
    ]
    assert (records[0]["fitzpatrick"], records[0]["x_diagnosis_1"], records[0]["body_site"]) == (
        2, "Benign", "anterior torso",
    )  # fmt: skip
    assert [(r["reason"], r["detail"]) for r in rejected] == [
        ("no_label", "has no diagnosis beyond benign, malignant or indeterminate")
    ]


def test_isic_of_a_collection_without_patients_and_with_the_old_diagnosis(tmp_path):
    write_image(tmp_path / "in/ISIC_0000001.jpg", 5)
    columns = ["isic_id", "attribution", "copyright_license", "diagnosis"]
    table = write_csv(tmp_path / "in/metadata.csv", columns, [["ISIC_0000001", "Anonymous", "CC-0", "nevus"]])
    records, _ = run(["isic", table], tmp_path / "out")
    assert (records[0]["disease"], records[0]["patient_id"], records[0]["case_id"]) == ("nevus", None, None)


# --- Derm7pt ----------------------------------------------------------------------------------------


def test_derm7pt_pairs_pictures_and_says_the_checklist_in_words(tmp_path):
    table = write_derm7pt(tmp_path / "in")
    records, rejected = run(["derm7pt", table, "--images", tmp_path / "in/images"], tmp_path / "out")
    derm, clinic = records[:2]
    assert (derm["case_id"], clinic["case_id"], records[2]["case_id"]) == ("1", "1", "2")
    assert (derm["x_modality"], clinic["x_modality"]) == ("dermatoscopic", "clinical")
    assert derm["note"] == (
        "Dermatoscopy shows an atypical pigment network, a blue-whitish veil, linear irregular vessels, "
        "diffuse irregular pigmentation, irregular streaks, irregular dots and globules and regression structures "
        "(blue and white areas)."
    )
    assert (clinic["note"], clinic["concepts"]) == (None, None)
    assert derm["concepts"] == ["White(Hypopigmentation)", "Blue", "Pigmented"]
    assert derm["x_seven_point"] == clinic["x_seven_point"]
    assert (derm["x_seven_point"]["streaks"], derm["x_seven_point_score"]) == ("irregular", "5")
    assert records[2]["note"] == (
        "Dermatoscopy shows a typical pigment network and regular dots and globules. There is no blue-whitish veil, "
        "vascular structures, pigmentation, streaks or regression structures."
    )
    assert records[2]["concepts"] is None  # the checklist states none; it does not say that there are none
    assert records[4]["concepts"] == ["Telangiectasia"]
    assert records[6]["disease"] is None
    assert "vessels within regression" in records[6]["note"]
    assert [r["class"] for r in records[:6:2]] == ["melanoma_nevi_moles"] * 2 + ["malignant_lesions"]
    assert {r["split"] for r in records} == {"train", "validation", "test"}
    assert [r["split"] for r in records if r["case_id"] in "78"] == ["validation"] * 2 + ["test"]
    assert [r["reason"] for r in rejected] == ["no_label"] * 2  # clinical pictures of "miscellaneous"


def test_derm7pt_reads_the_archive_in_place(tmp_path):
    table = write_derm7pt(tmp_path / "in", archive=True)
    records, _ = run(["derm7pt", table, "--images", tmp_path / "in/release_v0.zip"], tmp_path / "out")
    assert records[0]["image"].endswith("in/release_v0.zip/release_v0/images/NEL/Nel000.jpg")
    assert open_image(tmp_path / "out" / records[0]["image"]).size == (40, 32)
    assert run(["derm7pt", table], tmp_path / "again")[0] == records  # found in the folder too


def test_derm7pt_says_which_list_of_the_split_is_wrong(tmp_path, capsys):
    table = write_derm7pt(tmp_path / "in")
    write_csv(tmp_path / "in/meta/test_indexes.csv", ["indexes"], [[0]])
    message = refused(["derm7pt", table], tmp_path / "out", capsys)
    assert "test_indexes.csv, row 2" in message


# --- Derm1M -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("archives", [False, True])
def test_derm1m_pairs_from_folders_and_from_the_hubs_zip_files(tmp_path, archives):
    table = write_derm1m(tmp_path / "in", archives=archives)
    records, rejected = run(["derm1m", table], tmp_path / "out")
    assert (len(records), rejected) == (12, [])
    first = records[0]
    assert first["note"] == first["caption"] == "A picture of skin, number 0."
    assert first["concepts"] == ["Plaque", "Scale"]
    assert first["x_skin_concept"] == "plaque, scale, red"
    assert (first["disease"], first["class"]) == ("Psoriasis", "psoriasis_and_lichen_planus")
    assert (first["body_site"], first["x_age"], first["x_sex"]) == (None, None, None)
    assert [r["case_id"] for r in records[:4]] == ["youtube/abcDEF", "youtube/abcDEF", "IIYI/2", None]
    assert (records[2]["disease"], records[2]["concepts"], records[2]["note"]) == (
        None, None, "A picture of skin, number 2.",
    )  # fmt: skip
    assert first["licence"].startswith("CC BY-NC 4.0")


def test_pictures_of_one_name_in_two_archives_are_told_apart_by_their_part(tmp_path):
    columns = ["filename", "caption", "disease_label"]
    for part, seed in (("IIYI", 1), ("edu", 2)):
        write_image(tmp_path / f"in/{part}/0_1.png", seed, (40 + seed, 32))
        pack(tmp_path / f"in/{part}.zip", tmp_path / f"in/{part}", "")
    rows = [[f"{part}/0_1.png", "A rash.", "eczema"] for part in ("edu", "IIYI")]
    records, _ = run(["derm1m", write_csv(tmp_path / "in/a.csv", columns, rows)], tmp_path / "out")
    assert [(r["image"].split("/")[-2], r["width"]) for r in records] == [("edu.zip", 42), ("IIYI.zip", 41)]


@pytest.mark.parametrize(
    ("name", "case"),
    [("youtube/a_b-C_frame_35881_3.jpg", "youtube/a_b-C"), ("IIYI/12_3.png", "IIYI/12"), ("edu/fig_2.png", None),
     ("pubmed/PMC123.jpg", None)],
)  # fmt: skip
def test_the_case_of_a_picture_by_its_name(name, case):
    assert case_of(name) == case


# --- MM-Skin ----------------------------------------------------------------------------------------


def test_mm_skin_gathers_what_all_tables_say_about_a_picture(tmp_path):
    table = write_mm_skin(tmp_path / "in")
    records, _ = run(["mm_skin", table, table.with_name("caption.csv")], tmp_path / "out")
    assert len(records) == 12
    assert records[1]["turns"] == [
        {"question": "What does the image show?", "answer": "The image shows plaque number 1."},
        {"question": "Is it raised?", "answer": "No, it is flat."},
    ]
    assert len(records[0]["turns"]) == 1
    assert records[0]["caption"] == records[0]["note"] == "Figure 0: a scaly plaque."
    assert [r["case_id"] for r in records[:3]] == [
        "bk2_1_0",
        "bk2_1_0",
        "bk2_1_1",
    ]  # panels a and b of a figure


def test_mm_skin_reads_llavas_conversations(tmp_path):
    table = write_mm_skin(tmp_path / "in")
    said = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A plaque."}]
    entries = [
        {"id": 1, "image": "dataset/bk2_1_0_a.png", "conversations": said},
        {"id": 2, "image": "dataset/bk2_1_0_b.png", "conversations": said[:1]},
        {"id": 3, "conversations": said},
    ]
    path = table.with_name("vqa_MM.json")
    path.write_text(json.dumps(entries))
    records, rejected = run(["mm_skin", path], tmp_path / "out")
    assert [r["turns"] for r in records] == [[{"question": "What is it?", "answer": "A plaque."}]]
    assert [(r["row"], r["detail"]) for r in rejected] == [
        (2, "'conversations' is not a list of questions, each with its answer"),
        (3, "names no picture"),
    ]


def test_mm_skin_names_a_table_without_answers(tmp_path, capsys):
    table = write_csv(tmp_path / "a.csv", ["image", "question"], [["x.png", "Why?"]])
    assert "no column 'answer'" in refused(["mm_skin", table], tmp_path / "out", capsys)


# --- dialogues, differentials, archives -------------------------------------------------------------


def test_dermavqa_teaches_the_question_with_the_best_response(tmp_path):
    path = write_dermavqa(tmp_path / "in")
    encounters = json.loads(path.read_text())
    encounters[1]["responses"][1] |= {"completeness": 1.0, "contains_freq_ans": 1.0}
    encounters[1]["responses"][0] |= {"completeness": 1.0, "contains_freq_ans": 0.0}
    encounters[2] |= {"query_title_en": "", "query_content_en": ""}
    path.write_text(json.dumps(encounters))
    records, _ = run(["dermavqa", path], tmp_path / "out")
    question = "Rash on the hand It has itched for two weeks."
    assert records[0]["turns"] == [{"question": question, "answer": "Eczema, answer 0."}]
    assert records[1]["turns"] == [{"question": question, "answer": "Hand eczema; use an emollient."}]
    assert (records[3]["turns"], records[3]["note"]) == (None, "Eczema, answer 2.")  # nothing was asked


@pytest.mark.parametrize("mark", [10**400, float("inf"), float("nan"), True, "1"])
def test_dermavqa_takes_any_mark(tmp_path, mark):
    path = write_dermavqa(tmp_path / "in")
    encounters = json.loads(path.read_text())
    encounters[0]["responses"][0] |= {"completeness": mark, "contains_freq_ans": mark}
    path.write_text(json.dumps(encounters))
    records, _ = run(["dermavqa", path], tmp_path / "out")
    assert records[0]["turns"]


def test_scin_says_its_differential_in_words_and_by_class(tmp_path):
    records, _ = run(["scin", write_scin(tmp_path / "in")], tmp_path / "out")
    assert records[0]["note"] == (
        "Dermatologists' differential: Eczema (69 %), Psoriasis (20 %), Acute and chronic dermatitis (11 %)."
    )
    assert records[0]["x_classes"] == {"dermatitis": 0.8, "psoriasis_and_lichen_planus": 0.2}
    assert records[3]["note"] == "Dermatologists' differential: Urticaria (50 %), Insect Bite (50 %)."
    assert records[3]["x_classes"] == {"urticaria_hives": 0.5, "infestations_and_bites": 0.5}
    assert all(0 < sum(r["x_classes"].values()) <= 1 for r in records)
    assert [r["body_site"] for r in records[2:]] == ["arm", "arm, back of hand", "arm"]


def test_ham10000_is_read_from_its_archives(tmp_path):
    table = write_ham10000(tmp_path / "in", lesions=4, views=2)
    plain, _ = run(["ham10000", table], tmp_path / "plain")
    for part in (1, 2):
        pack(
            tmp_path / f"in/HAM10000_images_part_{part}.zip", tmp_path / f"in/HAM10000_images_part_{part}", ""
        )
    records, rejected = run(["ham10000", table], tmp_path / "out")
    assert rejected == []
    assert all(".zip/ISIC_" in record["image"] for record in records)
    assert [r["sha256"] for r in records] == [r["sha256"] for r in plain]


def test_a_damaged_archive_is_named(tmp_path, capsys):
    table = write_ham10000(tmp_path / "in", lesions=1, views=1)
    (tmp_path / "in/HAM10000_images_part_1/ISIC_0024306.jpg").unlink()
    (tmp_path / "in/pictures.zip").write_bytes(b"PK")
    assert prepare.main(["ham10000", str(table), "--out-dir", str(tmp_path / "out")]) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert "pictures.zip: is not a zip archive that can be read in place" in message
