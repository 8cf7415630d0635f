"""Labels of public data sets have their class in any spelling, and names that only look alike have their own."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skingpt4.cli import taxonomy as command
from skingpt4.taxonomy.coverage import NO_CLASS, NO_DISEASE, class_of_label, coverage, data_set_labels
from skingpt4.taxonomy.taxonomy import CLASSES, OTHERS, disease, listed_disease, written_out

LABELS = [(label, name) for labels in data_set_labels().values() for label, name in labels.items()]


@pytest.mark.parametrize("data_set", data_set_labels())
def test_every_label_has_the_class_that_is_written_beside_it(data_set):
    labels = data_set_labels()[data_set]
    assert {*labels.values()} <= {*CLASSES, OTHERS, NO_CLASS, NO_DISEASE}
    assert {label: class_of_label(label) for label in labels} == labels


def test_how_many_labels_are_known():
    assert {row.name: (row.known, row.labels) for row in coverage()} == {
        "HAM10000": (14, 14),
        "PAD-UFES-20": (12, 12),
        "ISIC archive": (177, 185),
        "Derm7pt": (19, 20),
        "SCIN": (87, 91),
        "Fitzpatrick17k": (114, 114),
        "DDI": (78, 78),
        "DermNet NZ": (6, 6),
    }


def test_the_documentation_has_the_same_counts():
    text = (Path(__file__).parents[3] / "data/README.md").read_text(encoding="utf-8")
    printed = re.findall(r"^\| ([^|,]+?)(?:,[^|]*)? \| (\d+) \| (\d+) \| (\d+) \|$", text, re.MULTILINE)
    counted = {row.name: (row.labels, row.known, row.classed) for row in coverage()}
    assert len(printed) == 7
    assert all(counted[name] == tuple(map(int, numbers)) for name, *numbers in printed)


def test_fitzpatrick17ks_labels_are_those_of_the_task():
    from eval.tasks import load_task

    assert {*data_set_labels()["Fitzpatrick17k"]} == {*load_task("fitzpatrick17k_114").classes}


# --- spellings --------------------------------------------------------------------------------------

# Names that keep their meaning in a longer one: no finding such as "scar", no list and no code.
PLAIN = [
    (label, name)
    for label, name in LABELS
    if name != NO_DISEASE
    and written_out(label) == label
    and not re.search(r"[,/()]| - ", label)
    and (term := disease(label))
    and not term.only_alone
]
BRITISH = (("nevus", "naevus"), ("nevi", "naevi"), ("edema", "oedema"), ("hem", "haem"),
           ("seborrheic", "seborrhoeic"), ("tumor", "tumour"))  # fmt: skip
CHANGES = {
    "capitals": str.upper,
    "small letters": str.lower,
    "titles": str.title,
    "hyphens": lambda name: name.replace(" ", "-"),
    "no hyphens": lambda name: name.replace("-", " "),
    "blanks": lambda name: f"  {name.replace(' ', '  ')} ",
    "British": lambda name: _replaced(name, BRITISH),
    "American": lambda name: _replaced(name, [(new, old) for old, new in BRITISH]),
    "stop": lambda name: f"{name}.",
    "quotation marks": lambda name: f'"{name}"',
    "brackets behind": lambda name: f"{name} (unspecified)",
    "square brackets": lambda name: f"{name} [biopsy]",
    "NOS": lambda name: f"{name}, NOS",
    "inverted": lambda name: f"{name}, severe",
    "site before": lambda name: f"Facial {name}",
    "course before": lambda name: f"Recurrent {name}",
    "form before": lambda name: f"Localised {name}",
    "site behind": lambda name: f"{name} of the hand",
    "cause behind": lambda name: f"{name} due to heat",
    "abbreviation before": lambda name: f"XY - {name}",
}


def _replaced(name, pairs):
    for old, new in pairs:
        name = re.sub(rf"\b{old}", new, name) if old == "hem" else name.replace(old, new)
    return name


def test_enough_names_are_tried():
    assert len(PLAIN) > 250


@pytest.mark.parametrize("change", CHANGES)
def test_spelling_and_qualifiers_do_not_change_the_class(change):
    changed = {label: CHANGES[change](label) for label, _ in PLAIN}
    wrong = {
        changed[label]: (class_of_label(changed[label]), name)
        for label, name in PLAIN
        if class_of_label(changed[label]) != name
    }
    assert wrong == {}


@given(
    item=st.sampled_from(PLAIN),
    first=st.sampled_from(sorted(CHANGES)),
    second=st.sampled_from(sorted(CHANGES)),
)
@settings(max_examples=300, deadline=None)
def test_two_changes_at_once_give_the_same_class_or_none(item, first, second):
    label, name = item
    assert class_of_label(CHANGES[second](CHANGES[first](label))) in (name, NO_DISEASE)


# --- names that look alike --------------------------------------------------------------------------

ALIKE = {
    "pityriasis rosea": "psoriasis_and_lichen_planus",
    "rosacea": "acne_and_rosacea",
    "pityriasis versicolor": "fungal_infections",
    "pityriasis alba": "dermatitis",
    "pityriasis amiantacea": "dermatitis",
    "lichen simplex": "dermatitis",
    "lichen planus": "psoriasis_and_lichen_planus",
    "lichen amyloidosis": NO_CLASS,
    "lichenoid keratosis": "benign_tumors",
    "seborrhoeic keratosis": "benign_tumors",
    "seborrhoeic dermatitis": "dermatitis",
    "actinic keratosis": "malignant_lesions",
    "actinic prurigo": "light_diseases",
    "actinic porokeratosis": "benign_tumors",
    "solar lentigo": "light_diseases",
    "lentigo maligna": "melanoma_nevi_moles",
    "herpes zoster": "herpes",
    "dermatitis herpetiformis": "bullous_disease",
    "impetigo": "bacterial_infections",
    "impetigo herpetiformis": "psoriasis_and_lichen_planus",
    "herpes gestationis": "bullous_disease",
    "eczema herpeticum": "herpes",
    "lupus erythematosus": "connective_tissue_diseases",
    "lupus vulgaris": "bacterial_infections",
    "lupus pernio": NO_CLASS,
    "acne vulgaris": "acne_and_rosacea",
    "acne keloidalis nuchae": "others",
    "melanocytic naevus": "melanoma_nevi_moles",
    "spider naevus": "vascular_tumors",
    "strawberry naevus": "vascular_tumors",
    "naevus flammeus": "vascular_tumors",
    "sebaceous naevus": "benign_tumors",
    "epidermal naevus": "benign_tumors",
    "naevus depigmentosus": "light_diseases",
    "basal cell naevus syndrome": "malignant_lesions",
    "basal cell carcinoma": "malignant_lesions",
    "basal cell papilloma": "benign_tumors",
    "squamous papilloma": "benign_tumors",
    "pyogenic granuloma": "vascular_tumors",
    "pyoderma gangrenosum": NO_CLASS,
    "pyoderma faciale": "acne_and_rosacea",
    "erythema migrans": "infestations_and_bites",
    "erythema multiforme": NO_CLASS,
    "erythema ab igne": "light_diseases",
    "erythema infectiosum": "dermatitis",
    "ecthyma": "bacterial_infections",
    "ecthyma contagiosum": NO_CLASS,
    "mycosis": "fungal_infections",
    "mycosis fungoides": "malignant_lesions",
    "dermatofibroma": "benign_tumors",
    "dermatofibrosarcoma protuberans": "malignant_lesions",
    "xanthoma": NO_CLASS,
    "xanthelasma": "benign_tumors",
    "hidradenitis": "acne_and_rosacea",
    "hidradenoma": "benign_tumors",
    "urticaria": "urticaria_hives",
    "papular urticaria": "infestations_and_bites",
    "solar urticaria": "urticaria_hives",
    "glomus tumour": "vascular_tumors",
    "malignant glomus tumour": "malignant_lesions",
    "granular cell tumour": "benign_tumors",
    "malignant granular cell tumour": "malignant_lesions",
    "pseudolymphoma": "benign_tumors",
    "cutaneous lymphoma": "malignant_lesions",
    "verruca vulgaris": NO_CLASS,
    "verrucous carcinoma": "malignant_lesions",
    "condyloma acuminatum": "herpes",
    "tinea": "fungal_infections",
    "tinea amiantacea": "dermatitis",
    "scabies": "infestations_and_bites",
    "cellulitis": "bacterial_infections",
    "dissecting cellulitis of the scalp": "others",
    "perioral dermatitis": "acne_and_rosacea",
    "swimmer's itch": "infestations_and_bites",
    "jock itch": "fungal_infections",
}


@pytest.mark.parametrize("name", ALIKE)
def test_names_that_look_alike_have_their_own_class(name):
    assert class_of_label(name) == class_of_label(name.upper()) == ALIKE[name]


@pytest.mark.parametrize(
    "name",
    [
        "Pityriasis", "Lichen", "Erythema", "Keratosis", "Carcinoma", "Sarcoma", "Malignant", "Benign lesion",
        "Flat melanotic pigmentations - not melanocytic nevus", "Melanoma excluded", "Not psoriasis",
        "Psoriasis or eczema", "Melanoma vs. seborrhoeic keratosis", "other", "miscellaneous", "Skin infection",
        "Healthy skin", "Rash", "Tumour",
    ],
)  # fmt: skip
def test_what_names_no_single_disease_stays_unknown(name):
    assert listed_disease(name) is None


# --- the command ------------------------------------------------------------------------------------


def test_the_command_counts_and_names_what_is_not_known(capsys):
    assert command.main(["--coverage"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^Derm7pt +20 +19 +19 +miscellaneous$", out, re.MULTILINE)
    assert command.main(["--coverage", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert (rows["DDI"]["labels"], rows["DDI"]["known"], rows["DDI"]["unknown"]) == (78, 78, [])


def test_the_command_takes_texts_or_counts(capsys):
    assert command.main(["--coverage", "psoriasis"]) == 1
    assert "--coverage takes no texts" in capsys.readouterr().err
