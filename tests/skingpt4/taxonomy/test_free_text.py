"""What free texts commit to: hand-written sentences, the labels of the public data sets, and properties."""

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from skingpt4.cli.taxonomy import main
from skingpt4.support.files import read_yaml
from skingpt4.taxonomy import free_text, taxonomy
from skingpt4.taxonomy.free_text import classify, find_concepts
from skingpt4.taxonomy.taxonomy import CLASSES, CONCEPTS, disease, disease_class, lexicon

HERE = Path(__file__).parent

# The 114 labels of fitzpatrick17k.csv and the disease names of ddi_metadata.csv, as written there.
FITZPATRICK17K = """
    acanthosis nigricans; acne; acne vulgaris; acquired autoimmune bullous diseaseherpes gestationis;
    acrodermatitis enteropathica; actinic keratosis; allergic contact dermatitis; aplasia cutis; basal
    cell carcinoma; basal cell carcinoma morpheiform; becker nevus; behcets disease; calcinosis cutis;
    cheilitis; congenital nevus; dariers disease; dermatofibroma; dermatomyositis; disseminated actinic
    porokeratosis; drug eruption; drug induced pigmentary changes; dyshidrotic eczema; eczema; ehlers
    danlos syndrome; epidermal nevus; epidermolysis bullosa; erythema annulare centrifigum; erythema
    elevatum diutinum; erythema multiforme; erythema nodosum; factitial dermatitis; fixed eruptions;
    folliculitis; fordyce spots; granuloma annulare; granuloma pyogenic; hailey hailey disease; halo
    nevus; hidradenitis; ichthyosis vulgaris; incontinentia pigmenti; juvenile xanthogranuloma; kaposi
    sarcoma; keloid; keratosis pilaris; langerhans cell histiocytosis; lentigo maligna; lichen
    amyloidosis; lichen planus; lichen simplex; livedo reticularis; lupus erythematosus; lupus subacute;
    lyme disease; lymphangioma; malignant melanoma; melanoma; milia; mucinosis; mucous cyst; mycosis
    fungoides; myiasis; naevus comedonicus; necrobiosis lipoidica; nematode infection; neurodermatitis;
    neurofibromatosis; neurotic excoriations; neutrophilic dermatoses; nevocytic nevus; nevus sebaceous
    of jadassohn; papilomatosis confluentes and reticulate; paronychia; pediculosis lids; perioral
    dermatitis; photodermatoses; pilar cyst; pilomatricoma; pityriasis lichenoides chronica; pityriasis
    rosea; pityriasis rubra pilaris; porokeratosis actinic; porokeratosis of mibelli; porphyria; port
    wine stain; prurigo nodularis; psoriasis; pustular psoriasis; pyogenic granuloma; rhinophyma;
    rosacea; sarcoidosis; scabies; scleroderma; scleromyxedema; seborrheic dermatitis; seborrheic
    keratosis; solid cystic basal cell carcinoma; squamous cell carcinoma; stasis edema; stevens johnson
    syndrome; striae; sun damaged skin; superficial spreading melanoma ssm; syringoma; telangiectases;
    tick bite; tuberous sclerosis; tungiasis; urticaria; urticaria pigmentosa; vitiligo; xanthomas;
    xeroderma pigmentosum
"""
DDI = """
    abrasions-ulcerations-and-physical-injuries; abscess; acne-cystic; acquired-digital-fibrokeratoma;
    acral-melanotic-macule; acrochordon; actinic-keratosis; angioleiomyoma; angioma;
    arteriovenous-hemangioma; atypical-spindle-cell-nevus-of-reed; basal-cell-carcinoma;
    basal-cell-carcinoma-nodular; basal-cell-carcinoma-superficial; benign-keratosis;
    blastic-plasmacytoid-dendritic-cell-neoplasm; blue-nevus; cellular-neurothekeoma;
    chondroid-syringoma; clear-cell-acanthoma; coccidioidomycosis; condyloma-accuminatum;
    dermatofibroma; dermatomyositis; dysplastic-nevus; eccrine-poroma; eczema-spongiotic-dermatitis;
    epidermal-cyst; epidermal-nevus; fibrous-papule; focal-acral-hyperkeratosis; folliculitis;
    foreign-body-granuloma; glomangioma; graft-vs-host-disease; hematoma; hyperpigmentation;
    inverted-follicular-keratosis; kaposi-sarcoma; keloid; leukemia-cutis; lichenoid-keratosis; lipoma;
    lymphocytic-infiltrations; melanocytic-nevi; melanoma; melanoma-acral-lentiginous; melanoma-in-situ;
    metastatic-carcinoma; molluscum-contagiosum; morphea; mycosis-fungoides; neurofibroma; neuroma;
    nodular-melanoma-(nm); nevus-lipomatosus-superficialis; onychomycosis;
    pigmented-spindle-cell-nevus-of-reed; prurigo-nodularis; pyogenic-granuloma;
    reactive-lymphoid-hyperplasia; scar; sebaceous-carcinoma; seborrheic-keratosis;
    seborrheic-keratosis-irritated; solar-lentigo; squamous-cell-carcinoma;
    squamous-cell-carcinoma-in-situ; squamous-cell-carcinoma-keratoacanthoma;
    subcutaneous-t-cell-lymphoma; syringocystadenoma-papilliferum; tinea-pedis; trichilemmoma;
    trichofolliculoma; verruca-vulgaris; verruciform-xanthoma; wart; xanthogranuloma
"""


def cases(name):
    """(sentence, class, outcome, whether the rules are known to miss it) of a file."""
    cases = yaml.safe_load((HERE / name).read_text(encoding="utf-8"))
    assert {case[3] for case in cases if len(case) > 3} <= {"missed"}
    return [(*case[:3], len(case) > 3) for case in cases]


NAMES_OF_FILES = ("cases", "heldout", "heldout2", "heldout3")
SENTENCES = [case for name in NAMES_OF_FILES for case in cases(f"classify_{name}.yaml")]


@pytest.mark.parametrize(("text", "class_name", "outcome", "missed"), SENTENCES)
def test_hand_written_sentences(text, class_name, outcome, missed):
    result = classify(text)
    right = (result.class_name, result.outcome) == (class_name, outcome)
    assert right != missed, result


CONCEPT_SENTENCES = yaml.safe_load((HERE / "concepts_heldout.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", CONCEPT_SENTENCES, ids=range(len(CONCEPT_SENTENCES)))
def test_concepts_of_hand_written_sentences(case):
    text, concepts, *missed = case
    assert (set(find_concepts(text)) != set(concepts)) == (missed == ["missed"]), find_concepts(text)


@pytest.mark.parametrize("gap", [", ", "\n", " ,", "- ", " and"])
def test_a_long_run_of_separators_is_read_in_linear_time(gap):
    """Collapsed models write such texts; a pattern that backtracks would not return."""
    assert find_concepts(f"scale{gap * 200} it is the plaque") == ["Plaque", "Scale"]


def test_the_concept_sentences_hold_every_concept():
    assert {name for _, concepts, *_ in CONCEPT_SENTENCES for name in concepts} == set(CONCEPTS)


def test_every_word_of_a_concept_is_read_as_that_concept():
    for word, concepts in taxonomy.concept_words()[1].items():
        assert set(find_concepts(f"The skin is {word}.")) == concepts, word


def test_the_sentences_are_many_different_and_of_all_kinds():
    texts = [text for text, *_ in SENTENCES]
    assert len(texts) == len(set(texts)) >= 350
    for outcome in free_text.OUTCOMES:
        assert sum(expected == outcome for _, _, expected, _ in SENTENCES) >= 5
    assert {class_name for _, class_name, _, _ in SENTENCES if class_name} == {*CLASSES, "others"}


@pytest.mark.parametrize("label", [" ".join(n.split()) for n in f"{FITZPATRICK17K};{DDI}".split(";")])
def test_labels_of_the_public_data_sets_are_known(label):
    assert disease(label) is not None
    assert classify(f"This could be a skin disease image of {label}.").outcome in (
        "asserted",
        "no_class",
    ) or (
        disease(label).only_alone  # a finding such as "scar" says nothing inside a sentence
    )


def test_sizes_of_the_vocabulary():
    terms = lexicon().terms.values()
    assert len(terms) > 1500
    assert len({term.usual for term in terms}) >= 700
    assert {term.group for term in terms} == {*CLASSES, "others", None}
    assert len(FITZPATRICK17K.split(";")) == 114


def test_no_name_stands_under_two_classes():
    data = read_yaml(Path(taxonomy.__file__).with_name("diseases.yaml"))
    seen = {}
    for group in (*CLASSES, "others", "none"):
        for usual, more in data[group].items():
            for name in more if usual == "also" else (usual, *more):
                forms = lexicon().get(name)
                assert seen.setdefault(forms.name, group) == group, name


def test_the_mention_tells_what_where_and_how():
    text = "There is no evidence of melanoma, but it is a seborrhoeic keratosis."
    result = classify(text)
    assert (result.class_name, result.outcome) == ("benign_tumors", "asserted")
    first, second = result.mentions
    assert (first.text, first.status, first.cue) == ("melanoma", "negated", "no evidence of")
    assert (second.text, second.status) == ("seborrhoeic keratosis", "asserted")
    assert second.term.usual == "seborrheic keratosis"
    assert result.mention == second
    assert text[second.start : second.end] == second.text


def test_unknown_is_told_from_known_without_a_class():
    assert disease("wart") is not None
    assert disease_class("wart") is None
    assert disease("glorpitis") is None
    assert disease_class("glorpitis") is None
    assert disease("") is None


def test_another_form_of_the_answer():
    text = "Diagnosis: eczema. Psoriasis differs."
    assert classify(text).outcome == "ambiguous"
    assert classify(text, form="Diagnosis: {disease}").class_name == "dermatitis"
    assert classify("Eczema.", form="{disease}").class_name == "dermatitis"


NAMES = sorted({term.name for term in lexicon().terms.values() if not term.only_alone})


@given(name=st.sampled_from(NAMES))
@settings(max_examples=300, deadline=None)
def test_every_name_is_found_in_the_published_sentence(name):
    result = classify(f"This could be a skin disease image of {name}.")
    assert result.class_name == disease_class(name)
    assert result.outcome == ("asserted" if result.class_name else "no_class")


@given(
    text=st.text()
    | st.lists(st.sampled_from([*NAMES[::7], "no", "or", ",", ".", "?", "not", "\n- ", ":"])).map(" ".join)
)
@settings(max_examples=200, deadline=None)
def test_spans_lie_in_the_text_and_never_overlap(text):
    result = classify(text)
    end = 0
    for mention in result.mentions:
        assert end <= mention.start < mention.end <= len(text)
        assert text[mention.start : mention.end] == mention.text
        end = mention.end
    assert (result.class_name is not None) == (result.outcome == "asserted")
    assert (result.mention is None) == (result.outcome == "unknown")


def test_command_line(capsys, tmp_path):
    assert main(["No melanoma."]) == 0
    assert (
        capsys.readouterr().out
        == "-                           negated     'melanoma' at 3-11, negated by 'No'\n"
    )
    lines = tmp_path / "answers.txt"
    lines.write_text("eczema\nwarts\nred skin\n", encoding="utf-8")
    assert main(["--file", str(lines), "--json"]) == 0
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert [(row["class"], row["outcome"]) for row in rows] == [
        ("dermatitis", "asserted"), (None, "no_class"), (None, "unknown"),
    ]  # fmt: skip
    assert rows[0]["mentions"] == [
        {"start": 0, "end": 6, "text": "eczema", "status": "asserted", "cue": None,
         "disease": "eczema", "class": "dermatitis"}
    ]  # fmt: skip
    assert err == "3 texts: 1 asserted, 1 no_class, 1 unknown\n"


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read(capsys, tmp_path, content):
    path = tmp_path / "x.txt"
    if content:
        path.write_bytes(content)
    assert main(["--file", str(path)]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"error: {path}: cannot be read as text")
    assert err.count("\n") == 1


def test_nothing_to_classify(capsys):
    assert main([]) == 1
    assert capsys.readouterr().err == "error: nothing to classify; give texts or --file\n"
