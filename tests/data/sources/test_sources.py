"""Every source reads its real shape, and says in one sentence what it cannot read."""

import json

import openpyxl
import pytest

from data import prepare
from data.sources.folders import read_class_map
from eval.asking.cases import read_cases
from tests.support.downloads import (
    FIRST_HEADER,
    NEW_HEADER,
    image_bytes,
    skincon_arguments,
    write_csv,
    write_dermnet,
    write_skincon,
)
from tests.support.preparing import prepared as run
from tests.support.preparing import refused

# --- skincon ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("release", [1, 2])
@pytest.mark.parametrize("header", [NEW_HEADER, FIRST_HEADER])
def test_skincon_joins_both_halves_in_either_release(tmp_path, release, header):
    folder = write_skincon(tmp_path / "in", release=release, header=header)
    records, rejected = run(skincon_arguments(folder), tmp_path / "out")
    assert [r["source"] for r in records] == ["fitzpatrick17k"] * 3 + ["ddi"] * 3
    assert [r["concepts"] for r in records[:2]] == [["Vesicle", "Papule"], ["Macule", "Plaque"]]
    assert [r["fitzpatrick"] for r in records] == [3, None, 1, 12, 56, 12]  # -1 is unknown, DDI knows pairs
    assert [r["disease"] for r in records[:4]] == [
        "psoriasis", "basal cell carcinoma", "granuloma pyogenic", "melanoma-in-situ",
    ]  # fmt: skip
    assert records[0]["class"] == "psoriasis_and_lichen_planus"
    assert (tmp_path / "out" / records[3]["image"]).resolve() == (folder / "ddi/000001.png").resolve()
    assert (records[3]["width"], records[3]["height"]) == (163, 79)
    flagged = [r for r in rejected if r["reason"] == "flagged"]
    assert [r["row"] for r in flagged] == ([3, 3] if release == 2 else [])
    strays = sorted(r["image"] for r in rejected if r["reason"] == "not_listed")
    unlisted = ["000002.png", "000349(1).png"] if release == 1 else ["000349(1).png"]
    assert strays == [str(folder / "ddi" / name) for name in unlisted]


def test_skincon_without_metadata_keeps_concepts_alone(tmp_path, capsys):
    folder = write_skincon(tmp_path / "in")
    records, _ = run(skincon_arguments(folder, metadata=False), tmp_path / "out")
    assert len(records) == 6
    assert {(r["disease"], r["class"], r["fitzpatrick"]) for r in records} == {(None, None, None)}
    assert "6  without a diagnosis: no metadata was given" in capsys.readouterr().out


def test_one_half_of_skincon_will_do(tmp_path):
    folder = write_skincon(tmp_path / "in")
    records, _ = run(skincon_arguments(folder)[:7], tmp_path / "out")
    assert len(records) == 3


def test_rows_of_skincon_are_refused_one_by_one(tmp_path):
    folder = write_skincon(tmp_path / "in")
    path = folder / "annotations_ddi.csv"
    lines = path.read_text().splitlines()
    lines[3] = lines[3].replace("000003.png,0", "000003.png,yes")
    path.write_text("\n".join([*lines, lines[1], "4,000004.png,1"]) + "\n")
    records, rejected = run(["skincon", *skincon_arguments(folder)[7:]], tmp_path / "out")
    assert len(records) == 2
    refusals = {r["row"]: (r["reason"], r["detail"]) for r in rejected}
    assert refusals[4] == ("bad_value", "'Vesicle' is 'yes'; expected 0 or 1")
    assert refusals[6] == ("listed_twice", "000001.png is in an earlier row")
    assert refusals[7] == ("listed_twice", "000004.png is in an earlier row")


def test_a_picture_that_is_not_there_is_refused_by_row(tmp_path):
    folder = write_skincon(tmp_path / "in")
    (folder / "ddi/000003.png").unlink()
    records, rejected = run(skincon_arguments(folder), tmp_path / "out")
    assert len(records) == 5
    gone = next(r for r in rejected if r["reason"] == "missing")
    assert (gone["file"], gone["row"]) == (str(folder / "annotations_ddi.csv"), 4)


def test_what_skincon_cannot_be_read_from(tmp_path, capsys):
    folder, out = write_skincon(tmp_path / "in"), tmp_path / "out"
    complete = skincon_arguments(folder)

    def changed(option, value):
        arguments = list(complete)
        arguments[arguments.index(option) + 1] = str(value)
        return arguments

    assert "give --fitzpatrick17k CSV" in refused(["skincon"], out, capsys)
    assert "go together" in refused(complete[:3], out, capsys)
    assert "no such file" in refused(changed("--ddi", folder / "gone.csv"), out, capsys)
    message = refused(changed("--ddi-images", folder / "gone"), out, capsys)
    assert "is not there; expected the folder of ddi's pictures" in message
    message = refused(changed("--ddi", folder / "annotations_fitzpatrick17k.csv"), out, capsys)
    assert "ddi's are called like '000655.png'" in message
    message = refused(changed("--ddi-metadata", folder / "fitzpatrick17k.csv"), out, capsys)
    assert "no column 'DDI_file'" in message
    assert "'md5hash', 'fitzpatrick_scale'" in message
    path = folder / "annotations_ddi.csv"
    path.write_text(path.read_text().replace("Flat topped", "Flat-topped", 1))
    assert "no column 'Flat topped'; it has 'Flat-topped'; found 51 columns" in refused(complete, out, capsys)
    meta = folder / "ddi/ddi_metadata.csv"
    meta.write_text(meta.read_text().replace(",34,", ",7,"))
    path.write_text(path.read_text().replace("Flat-topped", "Flat topped", 1))
    records, _ = run(complete, out)
    assert [r["fitzpatrick"] for r in records if r["source"] == "ddi"] == [12, 56, 12]
    meta.write_text(meta.read_text().replace("56,", "9,"))
    records, _ = run(complete, out)
    assert [r["fitzpatrick"] for r in records if r["source"] == "ddi"] == [12, None, 12]
    assert "1  with a skin type that is neither" in capsys.readouterr().out


# --- dermnet ----------------------------------------------------------------------------------------


def test_dermnet_is_keyed_on_folder_and_name(tmp_path):
    records, rejected = run(["dermnet", write_dermnet(tmp_path / "in")], tmp_path / "out")
    assert not rejected
    assert len(records) == 7
    assert len({r["sha256"] for r in records}) == 7
    by_name = [
        (r["split"], r["case_id"], r["class"]) for r in records if r["case_id"].endswith("acne-cystic-1.jpg")
    ]
    assert by_name == [
        ("train", "Acne and Rosacea Photos/acne-cystic-1.jpg", "acne_and_rosacea"),
        ("test", "Acne and Rosacea Photos/acne-cystic-1.jpg", "acne_and_rosacea"),
        ("test", "Herpes HPV and other STDs Photos/acne-cystic-1.jpg", "herpes"),
    ]
    classes = {r["case_id"].split("/")[1]: r["class"] for r in records}
    assert classes["vasculitis-1.jpg"] is None  # in no row of the paper's table


def test_dermnets_diagnosis_is_the_files_only_where_it_fits_the_folder(tmp_path):
    folder = write_dermnet(tmp_path / "in")
    records, _ = run(["dermnet", folder], tmp_path / "out")
    diseases = {r["case_id"]: r["disease"] for r in records}
    assert diseases["Acne and Rosacea Photos/07Acne081101.jpg"] == "Acne and Rosacea"
    assert diseases["Herpes HPV and other STDs Photos/acne-cystic-1.jpg"] == "Herpes HPV and other STDs"
    name = "Actinic Keratosis Basal Cell Carcinoma and other Malignant Lesions"
    assert diseases[f"{name}/basal-cell-carcinoma-nose-2.jpg"] == "basal cell carcinoma"
    assert (
        diseases["Psoriasis pictures Lichen Planus and related diseases/psoriasis-palms-soles-3.jpg"]
        == "psoriasis"
    )
    records, _ = run(["dermnet", folder, "--disease", "folder"], tmp_path / "out")
    assert "Psoriasis Lichen Planus and related diseases" in {r["disease"] for r in records}


def test_an_unknown_folder_of_dermnet_stops_with_the_nearest(tmp_path, capsys):
    folder = write_dermnet(tmp_path / "in")
    (folder / "train/Eczemas").mkdir()
    (folder / "train/Eczemas/a.jpg").write_bytes(image_bytes(1))
    message = refused(["dermnet", folder], tmp_path / "out", capsys)
    assert "'Eczemas' is none of Dermnet's 23 folders; the nearest is 'Eczema Photos'" in message
    records, rejected = run(["dermnet", folder, "--skip-unknown"], tmp_path / "out")
    assert len(records) == 7
    assert [r["reason"] for r in rejected] == ["unknown_folder"]


def test_a_folder_that_is_not_dermnets_root_says_what_it_holds(tmp_path, capsys):
    folder = write_dermnet(tmp_path / "in")
    message = refused(["dermnet", folder / "test"], tmp_path / "out", capsys)
    assert "expected the folders train/ and test/" in message
    assert "found Acne and Rosacea Photos, Herpes" in message
    assert "is not there" in refused(["dermnet", tmp_path / "gone"], tmp_path / "out", capsys)


# --- notes ------------------------------------------------------------------------------------------


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for n in range(4):
        (folder / f"{n}.jpg").write_bytes(image_bytes(400 + n))
    return folder


def test_notes_with_columns_of_ones_own(tmp_path, images):
    path = write_csv(
        tmp_path / "n.csv",
        ["file", "report", "dx", "concepts", "fitzpatrick", "patient_id", "age"],
        [
            ["0.jpg", "Silvery plaques.", "psoriasis", "Scale; plaque", "IV", "p1", 60],
            ["1.jpg", "", "a rare thing", "", "", "p1", 60],
        ],
    )
    arguments = ["notes", path, "--images", images, "--column", "image=file", "--column", "note=report"]
    records, _ = run([*arguments, "--column", "diagnosis=dx", "--source", "clinic"], tmp_path / "out")
    assert {k: v for k, v in records[0].items() if v is not None and k not in ("sha256", "phash", "image")} == {
        "width": 40, "height": 32, "source": "clinic", "concepts": ["Plaque", "Scale"], "disease": "psoriasis",
        "class": "psoriasis_and_lichen_planus", "fitzpatrick": 4, "note": "Silvery plaques.", "patient_id": "p1",
    }  # fmt: skip
    assert (records[1]["class"], records[1]["concepts"], records[1]["note"]) == (None, None, None)


def test_notes_as_jsonl_with_a_dialogue(tmp_path, images):
    turns = [{"question": "Is it contagious?", "answer": "No."}]
    rows = [
        {
            "image": "0.jpg",
            "note": "A wheal.",
            "class": "urticaria_hives",
            "concepts": ["Wheal"],
            "turns": turns,
        },
        {"image": "1.jpg", "turns": [{"q": "?"}]},
        {"image": ["2.jpg"], "note": "x"},
        {"image": "3.jpg", "note": {"text": "x"}},
        {"note": "no picture"},
    ]
    path = tmp_path / "n.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"image": "3.jp\n')
    records, rejected = run(["notes", path, "--images", images], tmp_path / "out")
    assert len(records) == 1
    assert records[0]["class"] == "urticaria_hives"
    path.write_text(json.dumps(rows[0] | {"case_id": 7}) + "\n")
    records, _ = run(["notes", path, "--images", images, "--column", "turns=turns"], tmp_path / "out")
    assert records[0]["turns"] == turns
    assert records[0]["case_id"] == "7"
    path.write_text(
        '{"image": "0.jpg", "note": NaN, "diagnosis": "psoriasis", "fitzpatrick": NaN}\n'
    )  # as pandas
    records, _ = run(["notes", path, "--images", images], tmp_path / "out")
    assert (records[0]["note"], records[0]["fitzpatrick"]) == (None, None)
    assert [r["row"] for r in rejected] == [2, 3, 4, 5, 6]
    assert {r["reason"] for r in rejected} == {"bad_value", "bad_row"}


def test_skincaps_columns_are_known(tmp_path, images):
    path = write_csv(
        tmp_path / "skincap.csv",
        ["id", "skincap_file_path", "disease", "caption_en", "caption_zh_polish_en"],
        [[1, "0.jpg", "psoriasis", "first", "polished"]],
    )
    records, _ = run(["notes", path, "--images", images, "--preset", "skincap"], tmp_path / "out")
    assert (records[0]["note"], records[0]["disease"]) == ("polished", "psoriasis")


SECRET = "Mr. John Smithers was seen, telephone 020 7946 0958."


@pytest.mark.parametrize(("phi", "kept"), [("refuse", 1), ("redact", 2), ("allow", 2)])
def test_what_identifies_a_person_is_refused_redacted_or_recorded(tmp_path, images, capsys, phi, kept):
    path = write_csv(tmp_path / "n.csv", ["image", "note"], [["0.jpg", SECRET], ["1.jpg", "A plaque."]])
    records, rejected = run(["notes", path, "--images", images, "--phi", phi], tmp_path / "out")
    assert len(records) == kept
    assert records[-1]["phi"] is None
    output = capsys.readouterr()
    written = output.out + output.err + (tmp_path / "out/rejected.jsonl").read_text()
    if phi == "refuse":
        assert (rejected[0]["row"], rejected[0]["reason"]) == (2, "phi")
        assert "name" in rejected[0]["detail"]
    else:
        assert records[0]["phi"] == {"redact": "redacted", "allow": "allowed"}[phi]
        assert ("Smithers" in records[0]["note"]) == (phi == "allow")
        assert f"identify a person, {records[0]['phi']}" in output.out
    assert "Smithers" not in written
    assert "7946" not in written


def test_values_that_nobody_knows_are_refused_with_the_nearest(tmp_path, images):
    rows = [
        ["0.jpg", "eczema_and_rosacea", "", ""],
        ["1.jpg", "", "Plaqe", ""],
        ["2.jpg", "", "", "9"],
        ["", "", "Plaque", ""],
        ["3.jpg", "", "", ""],
    ]
    path = write_csv(tmp_path / "n.csv", ["image", "class", "concepts", "fitzpatrick"], rows)
    out = tmp_path / "out"
    assert prepare.main(["notes", str(path), "--images", str(images), "--out-dir", str(out)]) == 1
    rejected = [json.loads(line) for line in (out / "rejected.jsonl").read_text().splitlines()]
    assert [r["reason"] for r in rejected] == [
        "unknown_class",
        "unknown_concept",
        "no_label",
        "bad_row",
        "no_label",
    ]
    assert "did you mean 'acne_and_rosacea'?" in rejected[0]["detail"]
    assert "did you mean 'Plaque'?" in rejected[1]["detail"]


def test_what_notes_cannot_be_read_from(tmp_path, images, capsys):
    out = tmp_path / "out"
    path = write_csv(tmp_path / "n.csv", ["picture", "text"], [["0.jpg", "x"]])
    assert "no column 'image'" in refused(["notes", path], out, capsys)
    assert "no column 'note' or 'caption' or 'diagnosis'" in refused(
        ["notes", path, "--column", "image=picture"], out, capsys
    )
    message = refused(["notes", path, "--column", "imag=picture"], out, capsys)
    assert "expected KEY=NAME" in message
    assert "did you mean 'image'?" in message
    assert "no column 'pictur'; it has 'picture'" in refused(
        ["notes", path, "--column", "image=pictur"], out, capsys
    )
    assert "no column 'skincap_file_path' or 'image'" in refused(
        ["notes", path, "--preset", "skincap"], out, capsys
    )
    path.write_text("[\n{}\n]")
    broken = path.rename(tmp_path / "n.json")
    assert "expected one JSON object a line" in refused(["notes", broken], out, capsys)


def with_columns(arguments, *columns):
    return [*arguments, *(part for column in columns for part in ("--column", column))]


def test_words_for_nothing_are_empty_and_counted_in_the_final_table(tmp_path, images, capsys):
    header = ["image", "note", "diagnosis", "body_site", "case_id", "patient_id", "fitzpatrick"]
    rows = [
        ["0.jpg", "nan", "psoriasis", "nan", 1, "unknown", "nan"],
        ["1.jpg", "Grouped vesicles.", "None", "lip", 2, "unknown", "3.0"],
        ["2.jpg", "nan", "n/a", "-", "nan", "k. A.", ""],
        ["3.jpg", "?", "acne vulgaris", "unbekannt", "", "unknown", "2,0"],
    ]
    path = write_csv(tmp_path / "n.csv", header, rows)
    records, rejected = run(["notes", path, "--images", images], tmp_path / "out")
    assert [(r["note"], r["disease"], r["body_site"], r["case_id"], r["fitzpatrick"]) for r in records] == [
        (None, "psoriasis", None, "1", None),
        ("Grouped vesicles.", None, "lip", "2", 3),
        (None, "acne vulgaris", None, None, 2),
    ]
    assert {r["patient_id"] for r in records} == {None}
    assert [(r["row"], r["reason"]) for r in rejected] == [(4, "no_label")]
    counts = "patient_id 4, note 3, body_site 3, diagnosis 2, fitzpatrick 1, case_id 1"
    assert f"empty           14  cells hold a word for nothing (nan, unknown, -, ...): {counts}" in (
        capsys.readouterr().out
    )


def test_an_optional_skin_type_never_refuses_a_row(tmp_path, images, capsys):
    rows = [
        ["0.jpg", "x", "dark"],
        ["1.jpg", "x", "II-III"],
        ["2.jpg", "x", "FST3"],
        ["3.jpg", "x", "III-IV"],
    ]
    path = write_csv(tmp_path / "n.csv", ["image", "note", "fitzpatrick"], rows)
    records, rejected = run(["notes", path, "--images", images], tmp_path / "out")
    assert not rejected
    assert [r["fitzpatrick"] for r in records] == [None, None, 3, 34]
    output = capsys.readouterr().out
    assert "1  with a skin type that is neither 1 to 6 nor I to VI, read as unknown" in output
    assert "1  with skin types that are neither one type nor one of DDI's pairs, read as unknown" in output


def test_the_codes_of_ham10000_isic_and_pad_ufes_are_written_out(tmp_path, images):
    rows = [
        ["HAM_1", "0.jpg", "bkl", "histo", "80.0", "male", "scalp"],
        ["HAM_2", "1.jpg", "nv", "follow_up", "", "", "unknown"],
        ["HAM_3", "2.jpg", "akiec", "histo", "45.0", "female", "trunk"],
        ["P_4", "3.jpg", "ACK", "", "", "", ""],
    ]
    header = ["lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization"]
    arguments = ["notes", write_csv(tmp_path / "n.csv", header, rows), "--images", images]
    columns = ("image=image_id", "diagnosis=dx", "case_id=lesion_id", "body_site=localization")
    records, _ = run(with_columns(arguments, *columns), tmp_path / "out")
    assert [(r["disease"], r["class"], r["body_site"]) for r in records] == [
        ("benign keratosis", "benign_tumors", "scalp"),
        ("melanocytic nevus", "melanoma_nevi_moles", None),
        ("actinic keratosis or intraepithelial carcinoma", "malignant_lesions", "trunk"),
        ("actinic keratosis", "malignant_lesions", None),
    ]


def test_scins_columns_hold_pythons_texts(tmp_path, images, capsys):
    label, skin = "weighted_skin_condition_label", "dermatologist_fitzpatrick_skin_type_label_1"
    rows = [
        ["-7", "0.jpg", "{'Eczema': 0.41, 'Inflicted skin lesions': 0.41, 'Impetigo': 0.18}", "FST3"],
        ["-8", "1.jpg", "{'Eczema': 0.5, 'Allergic Contact Dermatitis': 0.5}", "FST2"],
        ["-9", "2.jpg", "{'Urticaria': 0.67, 'Insect Bite': 0.33}", "NONE_SELECTED"],
        ["-10", "3.jpg", "{}", ""],
    ]
    path = write_csv(tmp_path / "c.csv", ["case_id", "image_1_path", label, skin], rows)
    columns = ("id=case_id", "image=image_1_path", f"disease={label}", f"fitzpatrick={skin}")
    records, rejected = run(with_columns(["cases", path, "--images", images], *columns), tmp_path / "out")
    assert [(r["case_id"], r["disease"], r["class"], r["fitzpatrick"]) for r in records] == [
        ("-8", None, "dermatitis", 2),
        ("-9", "Urticaria", "urticaria_hives", None),
    ]
    assert [r["reason"] for r in rejected] == ["no_label", "no_label"]
    assert "1  with several diagnoses, of which the likeliest was taken" in capsys.readouterr().out


def test_lists_that_pandas_wrote_and_a_workbook(tmp_path, images, capsys):
    book = openpyxl.Workbook()
    for row in (
        ["id", "images", "disease", "concepts", "reference"],
        [1, "['0.jpg', '1.jpg']", "psoriasis", "['Plaque' 'Scale']", "['It is psoriasis; or not.', nan]"],
        [2, "['2.jpg']", "melanoma", "Nodule", "nan"],
    ):
        book.active.append(row)
    book.save(tmp_path / "c.xlsx")
    records, rejected = run(["cases", tmp_path / "c.xlsx", "--images", images], tmp_path / "out")
    assert not rejected
    assert [(r["case_id"], r["concepts"]) for r in records] == [
        ("1", ["Plaque", "Scale"]), ("1", ["Plaque", "Scale"]), ("2", ["Nodule"]),
    ]  # fmt: skip
    reference = ["It is psoriasis; or not.", ""]
    assert [r.get("x_reference") for r in records] == [reference, reference, None]
    assert read_cases(tmp_path / "out/all.jsonl")[0].reference == tuple(reference)


def test_a_german_excels_table_with_a_broken_heading(tmp_path, images, capsys):
    path = tmp_path / "n.csv"
    text = 'sep=;\r\nimage;"Befund\nText";Alter\r\n0.jpg;Größe 3 mm;4,5\r\n1.jpg;süß\r\n'
    path.write_bytes(text.encode("cp1252"))
    arguments = ["notes", path, "--images", images, "--column", "note=Befund  Text"]
    records, _ = run(arguments, tmp_path / "out")
    assert [r["note"] for r in records] == ["Größe 3 mm", "süß"]
    output = capsys.readouterr().out
    assert "n.csv: read as Windows-1252; save it as UTF-8 if letters are wrong" in output
    assert "n.csv: rows with fewer cells than headings: 1" in output
    path.write_text("image,note,diagnosis,note\n0.jpg,Plaques.,psoriasis,\n")
    assert "the heading 'note' stands over columns 2 and 4" in refused(
        ["notes", path], tmp_path / "o", capsys
    )


# --- folders and cases ------------------------------------------------------------------------------


def test_folders_are_classes_diseases_or_what_the_map_says(tmp_path):
    root = tmp_path / "clinic"
    for n, name in enumerate(("acne_and_rosacea", "psoriasis", "Akne", "BCC pictures", "unsorted", "Warts")):
        (root / name / "deep").mkdir(parents=True)
        (root / name / "deep/1.jpg").write_bytes(image_bytes(n))
    (root / "loose.jpg").write_bytes(image_bytes(50))
    path = tmp_path / "map.yaml"
    path.write_text(
        "Akne: acne_and_rosacea\nBCC pictures: {class: malignant_lesions, disease: basal cell carcinoma}\n"
        "unsorted: null\n"
    )
    records, rejected = run(["folders", root, "--class-map", path, "--split", "train"], tmp_path / "out")
    known = {r["image"].split("/")[-3]: (r["class"], r["disease"]) for r in records}
    assert known == {
        "acne_and_rosacea": ("acne_and_rosacea", None),
        "psoriasis": ("psoriasis_and_lichen_planus", "psoriasis"),
        "Akne": ("acne_and_rosacea", None),
        "BCC pictures": ("malignant_lesions", "basal cell carcinoma"),
        "unsorted": (None, None),
        "Warts": (None, "Warts"),  # known, and of no class
    }
    assert {(r["source"], r["split"]) for r in records} == {("clinic", "train")}
    assert [r["reason"] for r in rejected] == ["unknown_folder"]


def test_folders_that_yaml_takes_for_numbers_and_booleans_are_texts(tmp_path, capsys):
    names = ["no", "off", "01", "1e3", "2024-03-04", "null", "yes", "0x10", "~", "nv"]
    for n, name in enumerate(names):
        (tmp_path / "in" / name).mkdir(parents=True)
        (tmp_path / "in" / name / "1.jpg").write_bytes(image_bytes(n))
    path = tmp_path / "map.yaml"
    arguments = ["folders", tmp_path / "in", "--class-map", path]
    lines = [f"{name}: herpes" for name in names if name not in ("off", "nv")]
    path.write_text("\n".join([*lines, "off: no", "nv: {disease: nv}"]))
    assert "'no' is none of the paper's classes" in refused(arguments, tmp_path / "o", capsys)
    path.write_text("\n".join([*lines, "off: null", "nv: {disease: nv}"]))
    assert sorted(read_class_map(path)) == sorted(names)
    records, _ = run(arguments, tmp_path / "out")
    known = {r["image"].split("/")[-2]: (r["class"], r["disease"]) for r in records}
    assert known.pop("off") == (None, None)
    assert known.pop("nv") == ("melanoma_nevi_moles", "melanocytic nevus")
    assert known == {name: ("herpes", None) for name in names if name not in ("off", "nv")}


def test_a_folder_that_is_called_by_a_code_is_written_out(tmp_path):
    (tmp_path / "in/akiec").mkdir(parents=True)
    (tmp_path / "in/akiec/1.jpg").write_bytes(image_bytes(1))
    records, _ = run(["folders", tmp_path / "in"], tmp_path / "out")
    assert [r["disease"] for r in records] == ["actinic keratosis or intraepithelial carcinoma"]


def test_what_folders_cannot_be_read_from(tmp_path, capsys):
    root, out, path = tmp_path / "clinic", tmp_path / "out", tmp_path / "map.yaml"
    root.mkdir()
    assert "expected a folder for each class; found none" in refused(["folders", root], out, capsys)
    (root / "herpis").mkdir()
    assert "did you mean 'herpes'?" in refused(["folders", root], out, capsys)
    (root / "herpis").rename(root / "seboroic_keratosis")
    assert "did you mean 'seborrheic keratosis'?" in refused(["folders", root], out, capsys)
    (root / "seboroic_keratosis").rename(root / "herpis")
    arguments = ["folders", root, "--class-map", path]
    assert "no such file" in refused(arguments, out, capsys)
    for text, says in (
        ("a: [", "is not readable YAML"),
        ("- a", "expected lines such as"),
        ("herpis: herpe", "did you mean 'herpes'?"),
        ("herpis: herpes\nherpis: others", "'herpis' stands twice"),
        ("herpis: [herpes]", "'class' must be a text, found a list"),
        ("herpis: " + "[" * 5000, "nested too deep"),
        ("herpis: {klass: herpes}", "neither 'class' nor 'disease'"),
        ("herpis: 3", "'3' is none of the paper's classes"),
        ("herpes: herpes", "did you mean 'herpis'?"),
    ):
        path.write_text(text)
        assert says in refused(arguments, out, capsys)


def test_cases_have_a_record_for_every_picture(tmp_path, images, capsys):
    rows = [
        {"id": "a", "images": ["0.jpg", "1.jpg"], "class": "herpes", "fitzpatrick": 5, "history": "Itches.",
         "reference": ["It is herpes.", "Vesicles."], "split": "cases"},
        {"id": 2, "image": "2.jpg", "disease": "psoriasis"},
        {"id": "a", "image": "3.jpg", "class": "herpes"},
        {"id": "c", "image": "3.jpg"},
        {"id": "", "image": "3.jpg", "class": "herpes"},
        {"id": "d", "image": "3.jpg", "class": "herpes", "history": SECRET},
        {"id": "e", "class": "herpes"},
    ]  # fmt: skip
    path = tmp_path / "cases.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ["cases", path, "--images", images]
    records, rejected = run(arguments, tmp_path / "out")
    assert [(r["case_id"], r["class"]) for r in records] == [
        ("a", "herpes"), ("a", "herpes"), ("2", "psoriasis_and_lichen_planus"),
    ]  # fmt: skip
    assert records[0]["x_history"] == "Itches."
    assert records[0]["x_reference"] == ["It is herpes.", "Vesicles."]
    assert [r["reason"] for r in rejected] == ["listed_twice", "no_label", "bad_row", "phi", "bad_row"]
    assert "Smithers" not in (tmp_path / "out/rejected.jsonl").read_text()


def test_what_cases_cannot_be_read_from(tmp_path, capsys):
    path = write_csv(tmp_path / "c.csv", ["case", "image", "disease"], [["a", "0.jpg", "psoriasis"]])
    out = tmp_path / "out"
    assert "no column 'id'" in refused(["cases", path], out, capsys)
    path = write_csv(tmp_path / "c.csv", ["id", "disease"], [["a", "psoriasis"]])
    assert "no column 'image' or 'images'" in refused(["cases", path], out, capsys)
    path = write_csv(tmp_path / "c.csv", ["id", "images"], [["a", "0.jpg"]])
    assert "no column 'class' or 'disease'" in refused(["cases", path], out, capsys)
