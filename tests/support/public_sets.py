"""Small files in the true shapes of public data sets, with images that are drawn here."""

import json

from tests.support.downloads import image_bytes, write_csv

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
