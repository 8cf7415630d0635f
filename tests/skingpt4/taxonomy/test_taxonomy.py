"""The closed vocabularies, and names found in free text."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skingpt4.taxonomy import taxonomy
from skingpt4.taxonomy.free_text import classify, find_concepts
from skingpt4.taxonomy.taxonomy import CLASSES, CONCEPTS, UnknownName, disease_class, written_out


def test_sizes_of_the_published_vocabularies():
    assert len(CONCEPTS) == len(set(CONCEPTS)) == 48
    assert len(CLASSES) == len(set(CLASSES)) == 15
    assert all(re.fullmatch(r"[a-z_]+", name) for name in CLASSES)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Plaques with scale and erythema.", ["Plaque", "Scale", "Erythema"]),
        ("bullae, comedones, patches, abscesses", ["Abscess", "Bulla", "Patch", "Comedo"]),
        ("PLAQUE, scale; Erythema", ["Plaque", "Scale", "Erythema"]),
        ("a Brown(Hyperpigmentation) patch", ["Patch", "Brown(Hyperpigmentation)"]),
        ("Warty/Papillomatous", ["Warty/Papillomatous"]),
        ("Purpura/Petechiae", ["Purpura/Petechiae"]),
        ("dome-shaped, flat topped", ["Dome-shaped", "Flat topped"]),
        ("scarring, grayish, blackish spots", ["Scar", "Black", "Gray"]),
        ("scarlet, brownstone, yellowhammer", []),
        ("Erythematous, scaly plaques without vesicles or crusting.", ["Plaque", "Scale", "Erythema"]),
        ("There are no erythematous plaques.", []),
        ("Erythematous plaques are absent.", []),
        ("It may leave a scar.", []),
        ("plaque psoriasis, a blue nevus, an acne scar", ["Scar"]),
        ("maculopapular, petechiae", ["Papule", "Macule", "Purpura/Petechiae"]),
        ("Pain on a scale of 1 to 10, no red flags.", []),
        ("Erythematous plaque with white scales.", ["Plaque", "Scale", "Erythema"]),
        ("A non-scaly erythematous plaque; non-inflamed comedones.", ["Plaque", "Erythema", "Comedo"]),
        ("Silvery scale over erythematous plaques.", ["Plaque", "Scale", "Erythema"]),
        (
            "More than 20 erythematous papules, the culture of a pustule was negative.",
            ["Papule", "Pustule", "Erythema"],
        ),
        ("The brown macule is unlikely to be malignant.", ["Macule", "Brown(Hyperpigmentation)"]),
        ("She had papules; scale is seen in the red areas.", ["Papule", "Scale", "Erythema"]),
        (
            "No scale, only faint erythema; no ulceration, multiple brown papules.",
            ["Papule", "Brown(Hyperpigmentation)", "Erythema"],
        ),
        ("Papules, erythematous plaques are absent.", ["Papule"]),
        ("Papules and erythematous plaques are absent.", []),
        ("A 45-year-old white male, two black women, both on dark brown skin: nodules.", ["Nodule"]),
        ("Keep the area clean and dry. Thick scale of the scalp.", ["Scale"]),
        ("", []),
    ],
)
def test_concepts_are_whole_words_in_skincon_order(text, expected):
    assert find_concepts(text) == expected


@given(
    chosen=st.lists(st.sampled_from(CONCEPTS), unique=True), case=st.sampled_from([str, str.upper, str.lower])
)
@settings(max_examples=60, deadline=None)
def test_every_listed_concept_is_found(chosen, case):
    text = case(f"This image shows: {', '.join(chosen)}.")
    assert find_concepts(text) == [concept for concept in CONCEPTS if concept in chosen]


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("Flat-topped", "Flat topped"),
        ("Brown (Hyperpigmentation)", "Brown(Hyperpigmentation)"),
        ("white(hypopigmentation)", "White(Hypopigmentation)"),
        ("grey", "Gray"),
        ("dome shaped", "Dome-shaped"),
        ("Purpura / Petechiae", "Purpura/Petechiae"),
        ("Redness", None),
        ("", None),
    ],
)
def test_concepts_in_other_spellings(written, name):
    assert taxonomy.concept(written) == name


def test_the_papers_spellings_are_found_in_text():
    text = "clinical concepts: Flat-topped, Brown (Hyperpigmentation), Grey"
    assert find_concepts(text) == ["Flat topped", "Brown(Hyperpigmentation)", "Gray"]


def test_every_class_has_a_title_and_a_disease_of_that_class():
    for name in (*CLASSES, "others"):
        assert taxonomy.class_title(name)
        assert taxonomy.disease_class(taxonomy.class_disease(name)) == name
    assert all(taxonomy.disease_class(name) == name for name in CLASSES)


@pytest.mark.parametrize(
    ("code", "name", "class_name"),
    [
        ("akiec", "actinic keratosis or intraepithelial carcinoma", "malignant_lesions"),  # HAM10000
        ("bcc", "basal cell carcinoma", "malignant_lesions"),
        ("bkl", "benign keratosis", "benign_tumors"),
        ("df", "dermatofibroma", "benign_tumors"),
        ("mel", "melanoma", "melanoma_nevi_moles"),
        ("nv", "melanocytic nevus", "melanoma_nevi_moles"),
        ("vasc", "vascular lesion", "vascular_tumors"),
        ("AK", "actinic keratosis", "malignant_lesions"),  # ISIC 2019
        ("SCC", "squamous cell carcinoma", "malignant_lesions"),
        ("ACK", "actinic keratosis", "malignant_lesions"),  # PAD-UFES-20
        ("NEV", "melanocytic nevus", "melanoma_nevi_moles"),
        ("SEK", "seborrheic keratosis", "benign_tumors"),
        ("BOD", "Bowen's disease", "malignant_lesions"),
    ],
)
def test_codes_of_public_data_sets(code, name, class_name):
    assert written_out(code) == written_out(code.swapcase()) == name
    assert disease_class(code) == disease_class(name) == class_name
    assert written_out(name) == name


@pytest.mark.parametrize(
    ("name", "class_name"),
    [
        # what stands in brackets
        ("Dyshidrotic eczema (pompholyx)", "dermatitis"),
        ("Squamous cell carcinoma in situ [Bowen disease]", "malignant_lesions"),
        ("Intertrigo (candidal)", "fungal_infections"),
        ("Erythema migrans (Lyme disease)", "infestations_and_bites"),
        # words for site, form, age and course
        ("Facial psoriasis", "psoriasis_and_lichen_planus"),
        ("Vulvovaginal candidiasis", "fungal_infections"),
        ("Atypical melanocytic naevus", "melanoma_nevi_moles"),
        ("Ulcerated infantile haemangioma", "vascular_tumors"),
        ("Juvenile dermatomyositis", "connective_tissue_diseases"),
        ("Drug-induced lupus erythematosus", "connective_tissue_diseases"),
        ("Melanoma of the nail unit", "melanoma_nevi_moles"),
        ("Melasma in men", "light_diseases"),
        # several names at once, the other order of words, hyphens
        ("Arthropod bites and stings", "infestations_and_bites"),
        ("Stevens–Johnson syndrome / toxic epidermal necrolysis", "dermatitis"),
        ("Naevi, melanocytic", "melanoma_nevi_moles"),
        ("Swimmer’s itch", "infestations_and_bites"),
        ("Swimmers' itch", "infestations_and_bites"),
        ("Chicken-pox", "herpes"),
        ("Portwine-stain", "vascular_tumors"),
        # known, but of no class
        ("Cutaneous small vessel vasculitis", None),
    ],
)
def test_names_of_real_lists_are_known_whatever_surrounds_them(name, class_name):
    found = taxonomy.listed_disease(name)
    assert found is not None
    assert found.group == class_name == disease_class(name)


@pytest.mark.parametrize(
    "name",
    [
        "Psoriasis and eczema",  # two classes
        "Facial", "Acute", "Multiple lesions", "(unspecified)", "of the face", "", "()", ", ,",
        "Oral ulcer",  # a finding, and no complete name
        "Healthy skin",
    ],
)  # fmt: skip
def test_words_for_site_and_form_alone_are_no_disease(name):
    assert taxonomy.listed_disease(name) is None


@given(text=st.text(max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_text_is_looked_up(text):
    taxonomy.listed_disease(text)


def test_a_code_inside_a_sentence_is_no_disease():
    assert classify("The mel and vasc columns are nv.").outcome == "unknown"


def test_dermnet_folders_as_counted():
    folders = taxonomy.dermnet_folders()
    assert len(folders) == 23
    assert (sum(f.train for f in folders), sum(f.test for f in folders)) == (15557, 4002)
    assert all((f.class_name is None) == (f.how == "none shown") for f in folders)
    assert {f.class_name for f in folders if f.class_name} == {*CLASSES, "others"}
    assert sum(f.how == "exact" for f in folders) == 10  # nine classes: fungal infections have two folders


def test_a_dermnet_folder_by_name_or_its_nearest():
    folder = taxonomy.dermnet_folder("acne_and_rosacea  PHOTOS")
    assert (folder.name, folder.class_name, folder.how) == (
        "Acne and Rosacea Photos",
        "acne_and_rosacea",
        "exact",
    )
    with pytest.raises(
        UnknownName, match=r"none of Dermnet's 23 folders; the nearest is 'Eczema Photos'"
    ) as caught:
        taxonomy.dermnet_folder("Ekzema Photos")
    assert caught.value.nearest == "Eczema Photos"
    with pytest.raises(UnknownName, match=r"folders$") as caught:
        taxonomy.dermnet_folder("12345")
    assert caught.value.nearest is None
