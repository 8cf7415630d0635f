"""Records and the way into batches: refusals, answers, samples that repeat, batches that add up."""

import itertools
import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from skingpt4.config.schema import PromptConfig
from skingpt4.model.prompts import IGNORED, IMAGE_TOKEN, Encoded
from skingpt4.records.images import ImageError
from skingpt4.records.manifest import evenly_spread, read_manifest
from skingpt4.records.record import Record, RecordError
from skingpt4.training.batches import batch_indices, pad_right
from skingpt4.training.features import image_files
from skingpt4.training.optim.schedule import ClassBalance, class_weights
from skingpt4.training.samples import (
    HeldOutSamples,
    SampleEncoder,
    TrainingSamples,
    answer_for,
    rows_with_answer,
)

ROW = {
    "image": "images/1.png",
    "sha256": "9f" * 32,
    "source": "phantoms",
    "concepts": ["Plaque", "Scale"],
    "disease": "psoriasis",
    "class": "psoriasis_and_lichen_planus",
    "fitzpatrick": 3,
    "body_site": "forearm",
    "note": "Silvery plaques.",
    "case_id": "c1",
}
RECORD = Record(
    image_path="images/1.png", concepts=("Plaque", "Scale"), disease="psoriasis", note="Silvery plaques.",
    caption="Scaly plaques.",
)  # fmt: skip
CONCEPTS_SENTENCE = (
    "This is a skin disease image with the following medical features (clinical concepts): Plaque, Scale."
)
DISEASE_SENTENCE = "This could be a skin disease image of psoriasis."


@pytest.fixture
def manifest(tmp_path):
    def write(*rows):
        path = tmp_path / "manifest.jsonl"
        path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
        return path

    return write


@pytest.fixture
def encoder(byte_tokenizer):
    def make(max_text_tokens=400, **prompt):
        prompt = PromptConfig(**{"questions": ["First?", "Second?", "Third?"], **prompt})
        return SampleEncoder(prompt, byte_tokenizer, num_query_tokens=3, max_text_tokens=max_text_tokens)

    return make


def no_images(row, rng):
    """Stands for the images: which row was asked for and what its generator gives."""
    draw = -1.0 if rng is None else rng.uniform()
    return {"queries": torch.tensor([[float(row), draw]])}


def records(count):
    return [Record(image_path=f"{n}.png", disease=f"disease {n}") for n in range(count)]


# ---- manifests


def test_a_full_record(manifest, tmp_path):
    (record,) = read_manifest(manifest(ROW))
    assert record == Record(
        image_path=tmp_path / "images" / "1.png",
        sha256="9f" * 32,
        source="phantoms",
        concepts=("Plaque", "Scale"),
        disease="psoriasis",
        class_name="psoriasis_and_lichen_planus",
        fitzpatrick=3,
        body_site="forearm",
        note="Silvery plaques.",
        case_id="c1",
    )


def test_only_the_image_is_required_and_blank_lines_pass(manifest):
    first, second, third = read_manifest(
        manifest(
            {"image": "a.png"}, "", {"image": "b.png", "concepts": []}, {"image": "c.png", "class": "others"}
        )
    )
    assert first.concepts is None  # not looked for
    assert second.concepts == ()  # looked for, none found
    assert third.class_name == "others"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{image: 1}", "is not JSON"),
        ("[1, 2]", "a JSON object with at least 'image'"),
        ("{}", "a JSON object with at least 'image'"),
        ({"image": 3}, "a JSON object with at least 'image'"),
        ({"image": "a", "disease": ["x"]}, r"'disease' must be a text, found \['x'\]"),
        ({"image": "a", "note": 1}, "'note' must be a text, found 1"),
        ({"image": "a", "concepts": "Plaque"}, "'concepts' must be a list of SKINCON names, found 'Plaque'"),
        ({"image": "a", "concepts": ["Plaque", "Plak"]}, "'Plak' is none of SKINCON's 48"),
        ({"image": "a", "concepts": [1]}, "1 is none of SKINCON's 48"),
        ({"image": "a", "class": "acne"}, "'acne' is none of the classes"),
        ('{"image": "a"', "is not JSON"),
    ],
)
def test_a_bad_line_is_named(line, message, manifest):
    with pytest.raises(RecordError, match=rf"manifest\.jsonl, line 3: .*{message}"):
        read_manifest(manifest(ROW, "", line, ROW))


@pytest.mark.parametrize("value", ["III", 3.5, True])
def test_fitzpatrick_is_a_whole_number(value, manifest):
    with pytest.raises(RecordError, match=r"line 1: 'fitzpatrick'"):
        read_manifest(manifest({**ROW, "fitzpatrick": value}))


@pytest.mark.parametrize("separator", ["\u2028", "\u0085"])
def test_unicode_line_separators_inside_a_text(separator, tmp_path):
    path = tmp_path / "manifest.jsonl"
    note = f"one{separator}two"
    path.write_text(json.dumps({"image": "a.png", "note": note}, ensure_ascii=False) + "\n", encoding="utf-8")
    assert [record.note for record in read_manifest(path)] == [note]


def test_manifests_that_are_no_manifests(manifest, tmp_path):
    with pytest.raises(RecordError, match=r"gone\.jsonl: no such manifest"):
        read_manifest(tmp_path / "gone.jsonl")
    with pytest.raises(RecordError, match=r"manifest\.jsonl: holds no records"):
        read_manifest(manifest("", "  "))
    with pytest.raises(RecordError, match="cannot be read"):
        read_manifest(tmp_path)
    (tmp_path / "latin.jsonl").write_bytes(b'{"image": "\xe9.png"}')
    with pytest.raises(RecordError, match=r"latin\.jsonl, line 1: is not UTF-8"):
        read_manifest(tmp_path / "latin.jsonl")


# ---- answers


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ({}, f"{CONCEPTS_SENTENCE} {DISEASE_SENTENCE} Silvery plaques."),
        ({"use_disease": False, "use_note": False}, CONCEPTS_SENTENCE),  # step 1
        ({"use_disease": False, "use_note": False, "concepts_sentence": "I see {morphology}."},
         "I see scaly plaques."),
        ({"use_concepts": False}, f"{DISEASE_SENTENCE} Silvery plaques."),  # step 2
        ({"use_concepts": False, "use_caption": True},  # the note may be long, so it stands last
         f"{DISEASE_SENTENCE} Scaly plaques. Silvery plaques."),
        ({"use_concepts": False, "use_disease": False, "use_note": False}, ""),
        ({"use_note": False, "concepts_sentence": "{concepts}!", "disease_sentence": "It is {disease}."},
         "Plaque, Scale! It is psoriasis."),
    ],
)  # fmt: skip
def test_answers_of_both_steps(prompt, answer):
    assert answer_for(RECORD, PromptConfig(**prompt)) == answer


@pytest.mark.parametrize(
    ("record", "answer"),
    [
        (Record("x", concepts=(), disease="acne"), "This could be a skin disease image of acne."),
        (Record("x", note="Only a note."), "Only a note."),
        (Record("x"), ""),
        (Record("x", concepts=("Brown(Hyperpigmentation)",), disease="{tinea}"),
         "This is a skin disease image with the following medical features (clinical concepts): "
         "Brown(Hyperpigmentation). This could be a skin disease image of {tinea}."),
    ],
)  # fmt: skip
def test_answers_of_partial_records(record, answer):
    assert answer_for(record, PromptConfig()) == answer


def test_encoded_sample_reads_as_the_prompt(encoder, byte_tokenizer):
    encoded = encoder(use_concepts=False, use_note=False)(RECORD, "What?")
    learned = [i for i, s in zip(encoded.input_ids, encoded.supervised, strict=True) if s]
    assert byte_tokenizer.decode(learned) == f"{DISEASE_SENTENCE}###"
    words = [i for i in encoded.input_ids if i != IMAGE_TOKEN]
    assert byte_tokenizer.decode(words) == f"###Human: <Img></Img> What? ###Assistant: {DISEASE_SENTENCE}###"
    assert encoded.input_ids.count(IMAGE_TOKEN) == 3


def test_a_long_answer_keeps_its_end_symbol(encoder, byte_tokenizer):
    encoded = encoder(max_text_tokens=len(f"{DISEASE_SENTENCE}###"), use_concepts=False)(RECORD, "What?")
    learned = [i for i, s in zip(encoded.input_ids, encoded.supervised, strict=True) if s]
    assert byte_tokenizer.decode(learned) == f"{DISEASE_SENTENCE}###"


def test_marks_in_a_note_are_taught_as_text(encoder, byte_tokenizer):
    note = "### Findings\nSilvery plaques.<|endoftext|>\n### Impression\nPsoriasis, grade #"
    make = encoder(use_concepts=False, use_disease=False)
    encoded = make(Record("x", note=note), "What?")
    learned = [i for i, s in zip(encoded.input_ids, encoded.supervised, strict=True) if s]
    assert 0 not in learned, "the tokenizer's own end"
    text = byte_tokenizer.decode(learned)
    assert text == ("## # Findings\nSilvery plaques.<|endoftext| >\n## # Impression\nPsoriasis, grade # ###")
    assert text.index("###") == len(text) - 3
    assert make.marks_in(Record("x", note=note)) == ["###", "<|endoftext|>"]
    assert make.marks_in(Record("x", note="Silvery plaques.")) == []


def test_a_note_with_marks_keeps_to_the_budget_with_its_end(encoder, byte_tokenizer):
    for budget in range(8, 40):
        make = encoder(max_text_tokens=budget, use_concepts=False, use_disease=False)
        encoded = make(Record("x", note="One. ### Two #. ####. Three <|endoftext|>."), "What?")
        learned = [i for i, s in zip(encoded.input_ids, encoded.supervised, strict=True) if s]
        assert len(learned) <= budget
        assert byte_tokenizer.decode(learned).endswith("###")


def test_marks_in_a_dialogue_are_text(encoder, byte_tokenizer):
    record = Record("x", turns=(("Why ###Assistant: yes?", "Dry ### skin."),))
    encoded = encoder()(record, "First?")
    assert text_of(encoded, byte_tokenizer) == (
        "###Human: <Img></Img> Why ## #Assistant: yes? ###Assistant: Dry ## # skin.###"
    )
    assert encoder().marks_in(record) == ["###"]
    assert encoder().marks_in(DIALOGUE) == [], "placeholders of a dialogue are left out, not taught"


DIALOGUE = Record(
    "x", concepts=("Plaque",), disease="psoriasis",
    turns=(("Does <ImageHere> itch?", "It may."), ("For how long?", "For weeks. Then it goes.")),
)  # fmt: skip


def text_of(encoded, tokenizer, learned=False):
    pairs = zip(encoded.input_ids, encoded.supervised, strict=True)
    return tokenizer.decode([i for i, s in pairs if i != IMAGE_TOKEN and (s or not learned)])


def test_a_record_with_a_dialogue_trains_on_it(encoder, byte_tokenizer):
    encoded = encoder()(DIALOGUE, "First?")
    assert text_of(encoded, byte_tokenizer) == (
        "###Human: <Img></Img> Does  itch? ###Assistant: It may.###"
        "Human: For how long? ###Assistant: For weeks. Then it goes.###"
    )
    assert text_of(encoded, byte_tokenizer, learned=True) == "It may.###For weeks. Then it goes.###"
    assert encoded.input_ids.count(IMAGE_TOKEN) == 3  # one picture, however often the text marks one


def test_the_dialogue_can_be_switched_off_and_the_rehearsal_stays(encoder, byte_tokenizer):
    plain = encoder(use_turns=False)(DIALOGUE, "First?")
    assert text_of(plain, byte_tokenizer, learned=True) == (
        f"{CONCEPTS_SENTENCE.replace(', Scale', '')} {DISEASE_SENTENCE}###"
    )
    rehearsed = encoder(concepts_question="Concepts?")(DIALOGUE, "Concepts?")
    assert (
        text_of(rehearsed, byte_tokenizer, learned=True) == f"{CONCEPTS_SENTENCE.replace(', Scale', '')}###"
    )


OTHERS = {
    "What else?": "I also see {concepts}.", "Why?": "I was not trained to say.",
    "What helps?": "Ask a doctor about {disease}.",
}  # fmt: skip


@pytest.mark.parametrize(
    ("question", "learned"),
    [
        ("What else?", "I also see Plaque, Scale.###"),
        ("Why?", "I also see Plaque, Scale.###I was not trained to say.###"),
        (
            "What helps?",
            "I also see Plaque, Scale.###I was not trained to say.###Ask a doctor about eczema.###",
        ),
    ],
)
def test_later_questions_follow_an_answer_and_each_other(question, learned, encoder, byte_tokenizer):
    record = Record("a.png", concepts=("Plaque", "Scale"), disease="eczema")
    encode = encoder(other_questions=OTHERS, questions=["First?", "Or this?"], use_concepts=False)
    opening = encode.turns(record, question)[0]
    assert opening.question == "First?"
    assert [turn.num_images for turn in encode.turns(record, question)][:2] == [1, 0]
    text = text_of(encode(record, question), byte_tokenizer, learned=True)
    assert text == f"{opening.answer}###{learned}"
    assert opening.answer == encode.turns(record, "First?")[0].answer


def test_a_later_question_follows_the_records_own_dialogue(encoder, byte_tokenizer):
    encode = encoder(other_questions={"Why?": "I cannot say."})
    own = text_of(encode(DIALOGUE, "First?"), byte_tokenizer, learned=True)
    assert text_of(encode(DIALOGUE, "Why?"), byte_tokenizer, learned=True) == f"{own}I cannot say.###"


def test_a_later_question_is_left_out_where_its_answer_is_not_known(encoder):
    encode = encoder(other_questions=OTHERS)
    record = Record("a.png", disease="eczema")
    assert [turn.question for turn in encode.turns(record, "What helps?")][1:] == ["Why?", "What helps?"]
    rng = np.random.default_rng(0)
    encode = encoder(
        other_questions={"Why?": OTHERS["Why?"], "What else?": OTHERS["What else?"]}, other_share=1.0
    )
    assert {encode.draw_question(record, rng) for _ in range(20)} == {"Why?"}


def test_a_later_answer_may_name_the_body_site(encoder, byte_tokenizer):
    encode = encoder(other_questions={"Where?": "On the {body_site}."})
    there = Record("a.png", disease="eczema", body_site="lower leg")
    assert text_of(encode(there, "Where?"), byte_tokenizer, learned=True).endswith("###On the lower leg.###")
    assert len(encode.turns(replace(there, body_site=None), "Where?")) == 1


def test_what_no_longer_fits_the_budget_is_not_asked(encoder):
    record = Record("a.png", disease="eczema")
    budget = len("This could be a skin disease image of eczema.###I was not trained to say.###Ask")
    encode = encoder(other_questions=OTHERS, max_text_tokens=budget)
    assert [turn.question for turn in encode.turns(record, "What helps?")][1:] == ["Why?"]


def test_a_fraction_of_the_samples_with_a_disease_goes_through_all_of_them(encoder):
    rng = np.random.default_rng(0)
    encode = encoder(other_questions=OTHERS, other_share=0.25)
    drawn = Counter(encode.draw_question(DIALOGUE, rng) for _ in range(2000))
    assert drawn[[*OTHERS][-1]] == pytest.approx(500, abs=80)
    assert not drawn.keys() & {*[*OTHERS][:-1]}
    unnamed = replace(DIALOGUE, disease=None)
    assert not {encode.draw_question(unnamed, rng) for _ in range(200)} & {*OTHERS}


@pytest.mark.parametrize(
    ("budget", "learned"),
    [
        (len("It may.###For weeks. Then it goes.###"), "It may.###For weeks. Then it goes.###"),
        (len("It may.###For weeks.###") + 3, "It may.###For weeks.###"),
        (len("It may.###") + 4, "It may.###"),
    ],
)
def test_a_dialogue_shares_the_budget_and_ends_properly(budget, learned, encoder, byte_tokenizer):
    encoded = encoder(max_text_tokens=budget)(DIALOGUE, "First?")
    assert text_of(encoded, byte_tokenizer, learned=True) == learned


@given(data=st.data())
@settings(max_examples=80, deadline=None)
def test_the_columns_know_the_rows_with_an_answer(data, tmp_path_factory):
    texts = st.one_of(st.none(), st.sampled_from(["", "acne", " "]))
    row = st.fixed_dictionaries(
        {
            "image": st.just("a.png"),
            "concepts": st.one_of(st.none(), st.just([]), st.just(["Plaque"])),
            "disease": texts,
            "note": texts,
            "turns": st.one_of(st.none(), st.just([]), st.just([{"question": "q", "answer": "a"}])),
        }
    )
    path = tmp_path_factory.mktemp("rows") / "manifest.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in data.draw(st.lists(row, min_size=1, max_size=8))))
    switches = ("use_concepts", "use_disease", "use_note", "use_turns")
    prompt = PromptConfig(
        **{key: data.draw(st.booleans()) for key in switches},
        concepts_sentence=data.draw(st.sampled_from(["", "{concepts}."])),
    )
    records = read_manifest(path)
    assert rows_with_answer(records, prompt).tolist() == rows_with_answer(list(records), prompt).tolist()


# ---- training samples


def test_nothing_to_teach_is_refused(encoder):
    with pytest.raises(RecordError, match=r"none of the 2 records .* the first is a$"):
        TrainingSamples([Record("a"), Record("b")], encoder(), no_images, 0)
    with pytest.raises(RecordError, match="none of the 0 records"):
        TrainingSamples([], encoder(), no_images, 0)
    with pytest.raises(RecordError, match="none of the 1 records"):  # a disease teaches nothing in step 1
        TrainingSamples([Record("a", disease="d")], encoder(use_disease=False), no_images, 0)


def test_an_answer_cut_to_nothing_is_refused(encoder):
    with pytest.raises(RecordError, match=r"data\.max_text_tokens"):
        TrainingSamples(records(2), encoder(max_text_tokens=6), no_images, 0)


def test_each_pass_is_another_permutation_of_records_with_an_answer(encoder):
    mixed = [r for record in records(20) for r in (record, Record("nothing known"))]
    samples = TrainingSamples(mixed, encoder(), no_images, seed=5)
    assert len(samples) == 20
    passes = [[samples.row_of(20 * p + i) for i in range(20)] for p in range(3)]
    for order in passes:
        assert sorted(order) == list(range(0, 40, 2))
    assert len({tuple(order) for order in passes}) == 3


def test_the_order_is_that_of_the_runs_before(encoder):
    """Fixed: numpy's permutation of each pass under (seed, 1, pass). A run of an older version goes on."""
    samples = TrainingSamples(records(50), encoder(), no_images, seed=42)
    indices = [0, 49, 50, 1, 120, 51, 3, 149]  # back and forth between passes
    expected = [int(np.random.default_rng((42, 1, i // 50)).permutation(50)[i % 50]) for i in indices]
    assert [samples.row_of(i) for i in indices] == expected
    assert [samples.row_of(i) for i in range(6)] == [33, 35, 26, 1, 14, 2]


def test_a_permutation_is_drawn_once_a_pass(encoder, monkeypatch):
    samples = TrainingSamples(records(50), encoder(), no_images, seed=0)
    drawn = []
    real = np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda seed: drawn.append(seed) or real(seed))
    for index in range(40, 160):
        samples.row_of(index)
    assert drawn == [(0, 1, 0), (0, 1, 1), (0, 1, 2), (0, 1, 3)]
    assert len(samples._orders) == 2


def test_a_sample_is_a_function_of_seed_and_index(encoder):
    def sequence(seed, indices):
        samples = TrainingSamples(records(7), encoder(), no_images, seed)
        return {i: (samples[i]["encoded"], tuple(samples[i]["queries"].flatten().tolist())) for i in indices}

    forward, backward = sequence(1, range(30)), sequence(1, reversed(range(30)))
    assert forward == backward
    other = sequence(2, range(30))
    assert [row for _, (row, _) in forward.values()] != [row for _, (row, _) in other.values()]
    assert not {draw for _, (_, draw) in forward.values()} & {draw for _, (_, draw) in other.values()}
    # The same record in another pass has another crop.
    draws = [draw for _, (_, draw) in forward.values()]
    assert len(set(draws)) == 30


def test_a_question_is_drawn_for_each_sample(encoder, byte_tokenizer):
    samples = TrainingSamples(records(1), encoder(), no_images, seed=0)
    shown = [byte_tokenizer.decode([t for t in samples[i]["encoded"].input_ids if t > 0]) for i in range(60)]
    counts = [sum(question in text for text in shown) for question in ("First?", "Second?", "Third?")]
    assert sum(counts) == 60
    assert min(counts) >= 8  # 20 expected; fixed by the seed


# ---- classes in balance


def of_classes(**counts):
    return [
        Record(f"{name}{n}.png", disease=name, class_name=None if name == "unknown" else name)
        for name, count in counts.items()
        for n in range(count)
    ]


@pytest.mark.parametrize(
    ("sampling", "shown"),
    [
        ("inverse", {"acne": 33, "eczema": 33, "unknown": 34}),
        ("square_root", {"acne": 61, "eczema": 29, "unknown": 10}),
    ],
)
def test_a_pass_shows_each_class_its_quota(sampling, shown, encoder):
    rows = of_classes(acne=80, eczema=18, unknown=2)
    samples = TrainingSamples(rows, encoder(), no_images, seed=3, sampling=sampling)
    for number in range(3):
        diseases = [rows[samples.row_of(100 * number + i)].disease for i in range(100)]
        assert {name: diseases.count(name) for name in shown} == shown


def test_within_a_class_the_records_take_turns(encoder):
    """After any number of passes no record of a class was shown more than once more often than another."""
    rows = of_classes(acne=40, eczema=7, melanoma=3)
    samples = TrainingSamples(rows, encoder(), no_images, seed=1, sampling="inverse")
    counts = np.zeros(50, int)
    for number in range(4):
        np.add.at(counts, [samples.row_of(50 * number + i) for i in range(50)], 1)
        for first, end in ((0, 40), (40, 47), (47, 50)):
            assert np.ptp(counts[first:end]) <= 1
    assert counts[47:].min() > 5 * counts[:40].max()


def test_balanced_samples_are_a_function_of_seed_and_index(encoder):
    def rows(seed, indices):
        data = of_classes(acne=40, eczema=7, melanoma=3)
        samples = TrainingSamples(data, encoder(), no_images, seed, sampling="square_root")
        return {index: samples.row_of(index) for index in indices}

    assert rows(1, range(300)) == rows(1, reversed(range(300)))
    assert rows(1, range(300)) != rows(2, range(300))


def test_a_manifest_is_balanced_by_its_column(manifest, encoder):
    lines = [ROW | {"image": f"{n}.png"} for n in range(6)] + [ROW | {"image": "7.png", "class": None}]
    path = manifest(*lines)
    mapped, plain = (
        TrainingSamples(rows, encoder(), no_images, 0, sampling="inverse")
        for rows in (read_manifest(path), list(read_manifest(path)))
    )
    assert [mapped.row_of(i) for i in range(40)] == [plain.row_of(i) for i in range(40)]
    assert mapped.balance.times_shown() == (pytest.approx(3 / 6, abs=0.2), pytest.approx(3.5, abs=0.6))


@given(
    st.lists(st.sampled_from("abcde"), min_size=1, max_size=200), st.sampled_from(["inverse", "square_root"])
)
@settings(max_examples=50, deadline=None)
def test_every_class_has_a_place_in_every_pass(names, sampling):
    balance = ClassBalance(names, sampling, seed=0)
    assert balance.quotas.sum() == len(names)
    assert balance.quotas.min() >= 1
    assert {names[place] for place in balance.places(7)} == {*names}


def test_records_without_a_class_cannot_be_balanced(encoder):
    with pytest.raises(RecordError, match=r"data\.sampling inverse needs .* none of the 4 has one"):
        TrainingSamples(records(4), encoder(), no_images, 0, sampling="inverse")


# ---- the weight of the disease's tokens


def weighted(encoder, record, weight=4.0, **prompt):
    made = encoder(**prompt)
    made.disease_weight = weight
    samples = TrainingSamples([record], made, no_images, 0)
    return samples[0], made.tokenizer


def test_the_tokens_of_the_disease_weigh_more(encoder):
    record = Record("a", disease="psoriasis", note="Psoriasis is not infectious.")
    sample, tokenizer = weighted(encoder, record)
    encoded, weights = sample["encoded"], sample["weights"]
    heavy = [token for token, weight in zip(encoded.input_ids, weights.tolist(), strict=True) if weight == 4]
    assert "".join(tokenizer.decode(heavy).split()) == "psoriasisPsoriasis"
    assert {*weights.tolist()} == {1.0, 4.0}
    assert all(encoded.supervised[place] for place in np.flatnonzero(weights != 1))
    assert "weights" not in HeldOutSamples([record], encoder(), no_images, 1)[0]


def test_no_disease_or_no_weight_weighs_nothing(encoder):
    sample, _ = weighted(encoder, Record("a", concepts=("Plaque",)))
    assert {*sample["weights"].tolist()} == {1.0}
    sample, _ = weighted(encoder, Record("a", disease="acne"), weight=1.0)
    assert "weights" not in sample


def test_the_disease_weighs_in_a_dialogue_too(encoder):
    record = Record("a", disease="acne", turns=(("Acne?", "It is acne."), ("Sure?", "Acne (vulgaris), yes.")))
    sample, tokenizer = weighted(encoder, record)
    heavy = [
        t for t, w in zip(sample["encoded"].input_ids, sample["weights"].tolist(), strict=True) if w == 4
    ]
    assert "".join(tokenizer.decode(heavy).split()).lower() == "acneacne"
    batch = pad_right([sample, weighted(encoder, Record("b", disease="eczema"))[0]])
    assert batch["weights"].shape == batch["labels"].shape


# ---- bare captions


def test_a_bare_caption_follows_the_picture_and_ends_with_a_line_feed(encoder, byte_tokenizer):
    """MiniGPT-4's first stage: [bos] picture caption end, no question and no role."""
    made = encoder(bare=True, use_caption=True, use_note=False, use_disease=False, questions=["Unused?"])
    record = Record("a", disease="acne", note="A note.", caption="Red papules ### on a face.")
    encoded = made(record, "Unused?")
    first = [byte_tokenizer.bos_token_id] if byte_tokenizer.bos_token_id is not None else []
    assert encoded.input_ids[: len(first) + 3] == [*first, *[IMAGE_TOKEN] * 3]
    taught = [t for t, s in zip(encoded.input_ids, encoded.supervised, strict=True) if s]
    assert byte_tokenizer.decode(taught) == "Red papules ## # on a face.\n"
    assert len(taught) == len(encoded.input_ids) - len(first) - 3
    assert rows_with_answer([record, Record("b", note="A note.")], made.prompt).tolist() == [0]


def test_a_long_bare_caption_is_cut_before_its_end(encoder, byte_tokenizer):
    made = encoder(max_text_tokens=12, bare=True, use_caption=True)
    encoded = made(Record("a", caption="One two three four five six."), "?")
    taught = byte_tokenizer.decode(
        [t for t, s in zip(encoded.input_ids, encoded.supervised, strict=True) if s]
    )
    assert taught.endswith("\n")
    assert sum(encoded.supervised) <= 12
    assert "One two three four five six.".startswith(taught.strip())


def test_captions_are_for_the_alignment_alone():
    record = Record("a", disease="acne", caption="A red face.")
    assert "red face" not in answer_for(record, PromptConfig())


# ---- held-out samples


@pytest.mark.parametrize(
    ("count", "limit", "rows"),
    [(10, 4, evenly_spread(10, 4)), (3, 8, [0, 1, 2]), (0, 5, []), (8, 1, evenly_spread(8, 1)), (8, 0, [])],
)
def test_held_out_samples_are_spread_over_the_manifest(count, limit, rows, encoder):
    held = HeldOutSamples(records(count), encoder(), no_images, limit)
    assert [int(held[i]["queries"][0, 0]) for i in range(len(held))] == list(rows)


@given(count=st.integers(0, 200), limit=st.integers(1, 70))
@settings(max_examples=30, deadline=None)
def test_never_more_held_out_samples_than_asked(count, limit):
    plain = type("Plain", (), {"prompt": PromptConfig()})()
    assert len(HeldOutSamples(records(count), plain, no_images, limit)) <= limit


def test_held_out_samples_repeat_and_take_the_first_question(encoder, byte_tokenizer):
    held = HeldOutSamples([Record("unknown"), *records(3)], encoder(), no_images, 10)
    assert len(held) == 3
    for i in range(3):
        assert held[i]["encoded"] == held[i]["encoded"]
        text = byte_tokenizer.decode([t for t in held[i]["encoded"].input_ids if t > 0])
        assert "First?" in text
        assert f"disease {i}" in text
        assert held[i]["queries"].tolist() == [[i + 1, -1.0]]  # no generator: the whole picture


def test_no_held_out_samples_asked_for(encoder):
    assert len(HeldOutSamples(records(3), encoder(), no_images, 0)) == 0


# ---- images


@pytest.fixture
def image_record(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "p.png")
    return [Record(tmp_path / "p.png")]


def test_cropped_only_when_augmenting(image_record):
    def load(augment, seed):
        rng = None if seed is None else np.random.default_rng(seed)
        return image_files(image_record, 28, (0.5,) * 3, (0.5,) * 3, augment)(0, rng)["image"]

    whole = load(False, None)
    assert whole.shape == (3, 28, 28)
    assert torch.equal(load(False, 1), whole)
    assert torch.equal(load(True, None), whole)  # held-out samples have no generator
    crops = [load(True, seed) for seed in (1, 1, 2)]
    assert torch.equal(crops[0], crops[1])
    assert not torch.equal(crops[0], crops[2])
    assert not torch.equal(crops[0], whole)


def test_a_missing_image_is_named(tmp_path):
    load = image_files([Record(tmp_path / "gone.png")], 28, (0.5,) * 3, (0.5,) * 3, False)
    with pytest.raises(ImageError, match=r"gone\.png"):
        load(0, None)


# ---- batches


def test_collate_pads_right_and_labels_the_supervised():
    short = Encoded([5, IMAGE_TOKEN, 7], [False, False, True])
    long = Encoded([5, IMAGE_TOKEN, 6, 0, 9], [False, False, False, True, True])
    samples = [
        {"encoded": short, "image": torch.zeros(3, 2, 2)},
        {"encoded": long, "image": torch.ones(3, 2, 2)},
    ]
    batch = pad_right(samples)
    assert batch.keys() == {"input_ids", "labels", "attention_mask", "image"}
    assert batch["input_ids"].tolist() == [[5, IMAGE_TOKEN, 7, 0, 0], [5, IMAGE_TOKEN, 6, 0, 9]]
    assert batch["labels"].tolist() == [
        [IGNORED, IGNORED, 7, IGNORED, IGNORED],
        [IGNORED, IGNORED, IGNORED, 0, 9],
    ]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert batch["image"].shape == (2, 3, 2, 2)
    assert batch["image"][1].min() == 1


def test_collate_of_cached_features():
    samples = [{"encoded": Encoded([1], [True]), "queries": torch.full((4, 6), float(n))} for n in range(3)]
    batch = pad_right(samples)
    assert "image" not in batch
    assert batch["queries"][:, 0, 0].tolist() == [0, 1, 2]


@given(
    sizes=st.tuples(st.sampled_from([1, 2, 3]), st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 3])),
    start=st.integers(0, 5),
    length=st.integers(0, 4),
)
@settings(max_examples=60, deadline=None)
def test_an_iteration_takes_the_same_samples_however_it_is_split(sizes, start, length):
    def iteration(number, batch_size, accumulation, world):
        """The samples of one iteration over all processes, and the sizes of its micro-batches."""
        batches = [
            batch
            for rank in range(world)
            for batch in batch_indices(number, number + 1, batch_size, accumulation, rank, world)
        ]
        assert [len(batch) for batch in batches] == [batch_size] * (accumulation * world)
        return sorted(itertools.chain(*batches))

    product = sizes[0] * sizes[1] * sizes[2]
    for number in range(start, start + length):
        expected = list(range(number * product, (number + 1) * product))
        for permuted in set(itertools.permutations(sizes)) | {
            (product, 1, 1),
            (1, product, 1),
            (1, 1, product),
        }:
            assert iteration(number, *permuted) == expected
    # A run from start to stop is its iterations one after another, so a resumed run takes the same samples.
    batch_size, accumulation, world = sizes
    for rank in range(world):
        whole = list(batch_indices(start, start + length, batch_size, accumulation, rank, world))
        parts = [
            list(batch_indices(n, n + 1, batch_size, accumulation, rank, world))
            for n in range(start, start + length)
        ]
        assert whole == list(itertools.chain(*parts))


# ---- the weight of a class


def test_rare_classes_weigh_more_with_a_mean_of_1(encoder, manifest):
    names = ["acne"] * 8 + ["psoriasis"] * 2 + [None] * 2
    for weighting, power in (("inverse", -1), ("square_root", -0.5)):
        weights = class_weights(names, weighting)
        assert weights.mean() == pytest.approx(1)
        assert weights[0] / weights[8] == pytest.approx((8 / 2) ** power)
        assert weights[8] == weights[10]
    with pytest.raises(RecordError, match=r"optim.class_weight inverse needs .* none of the 2 has one"):
        class_weights([None, None], "inverse")


def test_a_sample_has_its_classs_weight_and_that_of_the_diseases_name(encoder):
    rows = [Record(str(n), disease="acne", class_name=name) for n, name in enumerate(["a", "a", "a", "b"])]
    made = encoder()
    plain = TrainingSamples(rows, made, no_images, 0)
    assert "weights" not in plain[0]
    weighed = TrainingSamples(rows, made, no_images, 0, class_weight="inverse")
    for index in range(8):
        row, weights = weighed.row_of(index), weighed[index]["weights"]
        assert sorted({*weights.tolist()}) == pytest.approx([2 / 3 if row < 3 else 2])
    made.disease_weight = 4.0
    both = TrainingSamples(rows, made, no_images, 0, class_weight="inverse")
    rare = next(i for i in range(8) if both.row_of(i) == 3)
    assert sorted({*both[rare]["weights"].tolist()}) == pytest.approx([2, 8])
