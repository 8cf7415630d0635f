"""Small files in the true shapes of public data sets, with images that are drawn here."""

import json
import zipfile

from tests.support.downloads import NEW_HEADER, image_bytes, write_csv

HAM10000_HEADER = ["lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization"]
HAM10000_CODES = ("nv", "mel", "bkl", "bcc", "akiec", "vasc", "df")
PAD_HEADER = [
    "patient_id", "lesion_id", "smoke", "drink", "background_father", "background_mother", "age", "pesticide",
    "gender", "skin_cancer_history", "cancer_history", "has_piped_water", "has_sewage_system", "fitspatrick",
    "region", "diameter_1", "diameter_2", "diagnostic", "itch", "grew", "hurt", "changed", "bleed", "elevation",
    "img_id", "biopsed",
]  # fmt: skip
PAD_CODES = ("BCC", "ACK", "NEV", "SEK", "SCC", "MEL")
DDI_HEADER = ["", "DDI_ID", "DDI_file", "skin_tone", "malignant", "disease"]
SKINCAP_HEADER = [
    "id", "skincap_file_path", "ori_file_path", "disease", "caption_zh", "source", "remark", "caption_zh_polish",
    "caption_zh_polish_en",
]  # fmt: skip
SCIN_CASES = [
    "case_id", "source", "release", "year", "age_group", "sex_at_birth", "fitzpatrick_skin_type", "image_1_path",
    "image_2_path", "image_3_path", "image_1_shot_type", "image_2_shot_type", "image_3_shot_type",
    "body_parts_arm", "body_parts_back_of_hand", "body_parts_other",
]  # fmt: skip
SCIN_LABELS = [
    "case_id", "dermatologist_gradable_for_skin_condition_1", "dermatologist_skin_condition_on_label_name",
    "dermatologist_skin_condition_confidence", "weighted_skin_condition_label",
    "dermatologist_fitzpatrick_skin_type_label_1", "dermatologist_fitzpatrick_skin_type_label_2",
    "dermatologist_fitzpatrick_skin_type_label_3", "monk_skin_tone_label_india", "monk_skin_tone_label_us",
]  # fmt: skip


def write_image(path, seed, size=(40, 32)):
    path.parent.mkdir(parents=True, exist_ok=True)
    format = "PNG" if path.suffix == ".png" else "JPEG"
    path.write_bytes(image_bytes(seed, size, format=format))
    return path


def write_ham10000(folder, lesions=7, views=2):
    """`views` pictures of each lesion, in the folders of the two archives; the table names no suffix."""
    rows = []
    for n in range(lesions * views):
        lesion, name = n // views, f"ISIC_{24306 + n:07d}"
        write_image(folder / f"HAM10000_images_part_{n % 2 + 1}" / f"{name}.jpg", 300 + n)
        code = HAM10000_CODES[lesion % 7]
        rows.append(
            [f"HAM_{lesion:07d}", name, code, "histo" if lesion % 2 else "follow_up", "60.0", "male", "back"]
        )
    return write_csv(folder / "HAM10000_metadata.csv", HAM10000_HEADER, rows)


def write_pad_ufes_20(folder, patients=6):
    """Two pictures of each patient, in the folders of the archives; no background where no biopsy was taken."""
    rows = []
    for n in range(patients * 2):
        patient, name = n // 2, f"PAT_{8 + n // 2}_{15 + n}_{300 + n}.png"
        write_image(folder / f"imgs_part_{n % 3 + 1}/imgs_part_{n % 3 + 1}" / name, 500 + n)
        row = dict.fromkeys(PAD_HEADER, "") | {
            "patient_id": f"PAT_{8 + patient}", "lesion_id": 15 + n, "age": 55, "gender": "FEMALE",
            "fitspatrick": f"{1 + patient % 6}.0" if patient else "", "region": "FACE",
            "diagnostic": PAD_CODES[patient % 6], "img_id": name, "biopsed": patient % 2 == 0,
        }  # fmt: skip
        rows.append([row[key] for key in PAD_HEADER])
    return write_csv(folder / "metadata.csv", PAD_HEADER, rows)


def write_ddi(folder, count=12):
    """Every skin tone with both sides; diseases in DDI's spelling."""
    rows = []
    for n in range(count):
        write_image(folder / f"{n + 1:06d}.png", 700 + n, (163, 79))
        malignant = n % 2 == 1
        disease = "melanoma-in-situ" if malignant else "seborrheic-keratosis"
        rows.append([n, n + 1, f"{n + 1:06d}.png", (12, 34, 56)[n // 2 % 3], str(malignant).upper(), disease])
    return write_csv(folder / "ddi_metadata.csv", DDI_HEADER, rows)


def write_skincap(
    folder, captions=("A red scaly plaque on the elbow.", "Papules of the face with pustules.")
):
    rows = []
    for n, caption in enumerate(captions, 1):
        write_image(folder / f"skincap/{n}.png", 800 + n)
        rows.append([n, f"{n}.png", f"x{n}.jpg", "psoriasis", "", "fitzpatrick17k", "", "", caption])
    return write_csv(folder / "skincap_v240623.csv", SKINCAP_HEADER, rows)


SCIN_WEIGHTS = (
    {"Eczema": 0.69, "Acute and chronic dermatitis": 0.11, "Psoriasis": 0.2},
    {"Urticaria": 0.5, "Insect Bite": 0.5},
    {"Herpes Zoster": 1.0},
    {},
)


def write_scin(folder, weights=SCIN_WEIGHTS):
    """A case for each differential: the first of three pictures, the others of one; an empty one is not labelled."""
    cases, labels = [], []
    for n, differential in enumerate(weights):
        case_id = str(-5156441036700827606 + n)
        paths = [f"dataset/images/{case_id}_{k}.png" for k in range(3 if n == 0 else 1)]
        for k, path in enumerate(paths):
            write_image(folder / "images" / path.rsplit("/")[-1], 900 + 10 * n + k)
        paths += [""] * (3 - len(paths))
        cases.append(
            [
                case_id,
                "SCIN",
                "1.0.0",
                2023,
                "AGE_UNKNOWN",
                "FEMALE",
                "NONE_SELECTED",
                *paths,
                "CLOSE_UP",
                "",
                "",
                "YES",
                "YES" if n == 1 else "",
                "YES" if n == 1 else "",
            ]
        )
        skin = [("FST3", "FST4", ""), ("FST2", "", ""), ("FST1", "FST6", ""), ("", "", "")][n % 4]
        labels.append([case_id, True, "['x']", "[3]", str(differential), *skin, "3.0", "4.0"])
    write_csv(folder / "scin_labels.csv", SCIN_LABELS, labels)
    return write_csv(folder / "scin_cases.csv", SCIN_CASES, cases)


def write_dermavqa(folder, count=3):
    encounters = []
    for n in range(count):
        encounter = f"ENC{n + 1:05d}"
        names = [f"IMG_{encounter}_{k + 1:05d}.jpg" for k in range(n + 1)]
        for k, name in enumerate(names):
            write_image(folder / "images_test" / name, 1000 + 10 * n + k)
        encounters.append({
            "encounter_id": encounter, "image_ids": names, "query_title_en": "Rash on the hand",
            "query_content_en": "It has itched for two weeks.", "query_title_zh": "皮疹", "query_content_zh": "痒。",
            "responses": [
                {"author_id": "U1", "content_en": f"Eczema, answer {n}.", "completeness": 1.0,
                 "contains_freq_ans": 1.0},
                {"author_id": "U2", "content_en": "Hand eczema; use an emollient.", "completeness": 0.5,
                 "contains_freq_ans": 0.0},
            ],
        })  # fmt: skip
    path = folder / "test.json"
    path.write_text(json.dumps(encounters, ensure_ascii=False), encoding="utf-8")
    return path


def write_fitzpatrick17k(folder, count=12, labels=("psoriasis", "melanoma", "dermatofibroma")):
    columns, rows = NEW_HEADER.split(","), []
    for n in range(count):
        name = f"{n:032x}"
        write_image(folder / f"{name}.jpg", 1100 + n)
        row = {"md5hash": name, "fitzpatrick_scale": n % 7 or -1, "label": labels[n % len(labels)]}
        rows.append([row.get(column, "") for column in columns])
    return write_csv(folder / "fitzpatrick17k.csv", columns, rows)


# isic-cli's metadata.csv has the columns that any of the pictures has a value for.
ISIC_HEADER = [
    "isic_id", "attribution", "copyright_license", "age_approx", "anatom_site_general", "diagnosis_1", "diagnosis_2",
    "diagnosis_3", "diagnosis_4", "diagnosis_5", "diagnosis_confirm_type", "fitzpatrick_skin_type", "image_type",
    "lesion_id", "melanocytic", "patient_id", "sex",
]  # fmt: skip
ISIC_DIAGNOSES = (
    ("Benign", "Benign melanocytic proliferations", "Nevus", "Nevus, Atypical, Dysplastic, or Clark", ""),
    ("Malignant", "Malignant melanocytic proliferations (Melanoma)", "Melanoma in situ",
     "Melanoma in situ, Lentigo maligna type", ""),
    ("Malignant", "Malignant adnexal epithelial proliferations - Follicular", "Basal cell carcinoma",
     "Basal cell carcinoma, Nodular", ""),
    ("Indeterminate", "Indeterminate epidermal proliferations", "Solar or actinic keratosis", "", ""),
)  # fmt: skip


def write_isic(folder, lesions=8, views=2):
    """`views` pictures of each lesion and two lesions of each patient; one picture more, known only to be benign."""
    rows = []
    for n in range(lesions * views + 1):
        lesion, name = n // views, f"ISIC_{1000000 + n}"
        write_image(folder / f"{name}.jpg", 1200 + n)
        known = n < lesions * views
        diagnoses = ISIC_DIAGNOSES[lesion % 4] if known else ("Benign", "", "", "", "")
        rows.append([
            name, "Department of Dermatology, Hospital", ("CC-0", "CC-BY", "CC-BY-NC")[lesion % 3], "45.0",
            "anterior torso", *diagnoses, "histopathology", "II" if known else "", "dermoscopic",
            f"IL_{lesion:07d}" if known else "", "", f"IP_{lesion // 2:07d}" if known else "", "female",
        ])  # fmt: skip
    return write_csv(folder / "metadata.csv", ISIC_HEADER, rows)


DERM7PT_HEADER = [
    "case_num", "diagnosis", "seven_point_score", "pigment_network", "streaks", "pigmentation",
    "regression_structures", "dots_and_globules", "blue_whitish_veil", "vascular_structures",
    "level_of_diagnostic_difficulty", "elevation", "location", "sex", "clinic", "derm", "case_id", "notes",
    "management",
]  # fmt: skip
DERM7PT_ROWS = (
    ("melanoma (less than 0.76 mm)", 5, "atypical", "irregular", "diffuse irregular", "combinations", "irregular",
     "present", "linear irregular"),
    ("clark nevus", 0, "typical", "absent", "absent", "absent", "regular", "absent", "absent"),
    ("basal cell carcinoma", 0, "absent", "absent", "absent", "absent", "absent", "absent", "arborizing"),
    ("miscellaneous", 1, "absent", "absent", "absent", "white areas", "absent", "absent", "within regression"),
)  # fmt: skip


def write_derm7pt(folder, cases=8, archive=False):
    """The release: meta/ with the lists of the split, and images/ in folders of the atlas (or an archive of it)."""
    rows = []
    for n in range(cases):
        names = [f"NEL/N{kind}l{n:03d}.jpg" for kind in "ae"]  # clinical, dermatoscopic
        for k, name in enumerate(names):
            write_image(folder / "images" / name, 1300 + 2 * n + k)
        values = DERM7PT_ROWS[n % 4]
        rows.append([
            n + 1, values[0], values[1], *values[2:], "medium", "flat", "lower limbs", "female", *names,
            f"NEL{n:03d}", "", "excision",
        ])  # fmt: skip
    for name, indexes in (("train", range(cases - 2)), ("valid", [cases - 2]), ("test", [cases - 1])):
        write_csv(folder / f"meta/{name}_indexes.csv", ["indexes"], [[n] for n in indexes])
    table = write_csv(folder / "meta/meta.csv", DERM7PT_HEADER, rows)
    if archive:
        pack(folder / "release_v0.zip", folder / "images", "release_v0/images")
    return table


DERM1M_HEADER = [
    "filename", "caption", "truncated_caption", "source", "source_type", "disease_label",
    "hierarchical_disease_label", "skin_concept", "body_location", "symptoms", "age", "gender",
]  # fmt: skip
DERM1M_ROWS = (
    ("youtube/abcDEF_frame_{n}_3.jpg", "Psoriasis", "plaque, scale, red"),
    ("youtube/abcDEF_frame_{n}_9.jpg", "Psoriasis", "plaque"),
    ("IIYI/{n}_1.png", "No definitive diagnosis", "No visual concepts"),
    ("pubmed/PMC{n}_fig1.jpg", "acne vulgaris", "papule, pustule, erythema"),
)


def write_derm1m(folder, count=12, archives=False):
    """A table and a folder for each part (or, as the hub serves them, a zip file), pictures of a part by its name."""
    rows = []
    for n in range(count):
        name, disease, concepts = DERM1M_ROWS[n % 4]
        name = name.format(n=n)
        write_image(folder / name, 1400 + n)
        rows.append([
            name, f"A picture of skin, number {n}.", f"A picture {n}.", name.split("/")[0], "edu", disease,
            f"inflammatory, {disease}", concepts, "No body location information", "No symptom information",
            "No age information", "No gender information",
        ])  # fmt: skip
    if archives:
        for part in {row[0].split("/")[0] for row in rows}:
            pack(folder / f"{part}.zip", folder / part, "")
    return write_csv(folder / "Derm1M_v2_pretrain.csv", DERM1M_HEADER, rows)


def pack(archive, folder, prefix):
    """Move the files of a folder into a zip file, below a prefix."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(folder.rglob("*.*")):
            file.write(path, f"{prefix}/{path.relative_to(folder)}".lstrip("/"))
            path.unlink()


def write_mm_skin(folder, count=12):
    """Questions with answers as MM-Skin_test.csv has them, two of most pictures, and captions in a second table."""
    questions, captions = [], []
    for n in range(count):
        image = f"dataset/bk2_1_{n // 2}_{'ab'[n % 2]}.png"
        write_image(folder / image, 1500 + n)
        questions.append([image, "What does the image show?", f"The image shows plaque number {n}."])
        if n % 3:
            questions.append([image, "Is it raised?", "No, it is flat."])
        captions.append([image, f"Figure {n}: a scaly plaque."])
    write_csv(folder / "caption.csv", ["image", "caption"], captions)
    return write_csv(folder / "vqa.csv", ["image", "question", "answer"], questions)
