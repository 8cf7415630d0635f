"""Roles, study settings and consent in the store; files from before them; all tables out and in as CSV."""

import sqlite3
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.asking.urgency import URGENCY
from eval.rating import ratings, tables
from eval.rating.database import FILE, SCHEMA_1, StoreError
from eval.rating.questionnaire import FLAG, ITEMS, ROLES
from eval.rating.ratings import Rating, RatingsError
from eval.rating.store import Store
from eval.rating.study import (
    CONSENT_TEXT,
    Consent,
    Study,
    add_consents,
    agree,
    change_study,
    consents,
    has_agreed,
    participation,
    read_study,
)

HEAD = "arm,case_id,rater,item,value,role\n"


def store_in(folder) -> Store:
    folder.mkdir()
    return Store(folder)


def test_a_store_from_before_roles_keeps_loading_and_keeps_its_answers(tmp_path):
    with closing(sqlite3.connect(tmp_path / FILE)) as connection:
        connection.executescript(f"{SCHEMA_1};\nPRAGMA user_version = 1;")
        connection.execute(
            "INSERT INTO answer (source, arm, case_id, rater, item, value, seconds, time) "
            "VALUES ('form', 'a', 'c1', 'anna', 'privacy', '4', '3.0', '2026-01-01T00:00:00Z')"
        )
        connection.execute("INSERT INTO rater VALUES ('anna', x'', x'00', '2026-01-01T00:00:00Z')")
        connection.commit()
    for _ in range(2):  # opened for the first time, and again
        store = Store(tmp_path)
        assert store.current() == [
            Rating("a", "c1", "anna", "privacy", "4", "3.0", "2026-01-01T00:00:00Z", "")
        ]
        assert (store.raters(), store.roles(), read_study(store)) == (["anna"], {}, Study())
    store.set_roles({"anna": "dermatologist"})
    assert store.current()[0].role == "dermatologist"
    with closing(sqlite3.connect(tmp_path / FILE)) as connection:
        connection.execute("PRAGMA user_version = 3")
    with pytest.raises(StoreError, match="was not made by this version"):
        Store(tmp_path)


def test_a_role_is_chosen_once(tmp_path):
    store = Store(tmp_path)
    store.add_rater("anna", "correct horse", role="lay")
    store.add_rater("bert", "correct horse")
    assert store.roles() == {"anna": "lay"}
    store.add_rater("anna", "battery staple", replace=True)
    assert store.roles() == {"anna": "lay"}, "a new password changes no role"
    store.set_roles({"bert": "physician", "anna": ""})
    assert store.roles() == {"anna": "lay", "bert": "physician"}
    with pytest.raises(StoreError, match="role of anna is lay and does not change"):
        store.add_rater("anna", "other staple", replace=True, role="dermatologist")
    assert store.login("anna", "battery staple"), "nothing was changed"
    with pytest.raises(StoreError, match="'nurse' is not a role; the roles are dermatologist"):
        store.add_rater("cleo", "correct horse", role="nurse")
    assert store.raters() == ["anna", "bert"]


def test_settings_of_a_study_are_stored_and_forms_of_two_kinds_are_not_mixed(tmp_path):
    store = Store(tmp_path)
    assert read_study(store) == Study("", CONSENT_TEXT, False, False, True)
    change_study(store, {"approval": "EK 1", "urgency": True, "cover": None})
    assert read_study(Store(tmp_path)) == Study(approval="EK 1", urgency=True)
    assert change_study(store, {"urgency": False}).urgency is False
    store.save("anna", "a", "c1", {"own_diagnosis": "acne"}, 1.0)
    with pytest.raises(StoreError, match="answered already without --own-answers"):
        change_study(store, {"own_answers": True, "approval": "EK 2"})
    assert read_study(store).approval == "EK 1"
    assert change_study(store, {"urgency": False, "cover": False, "approval": "EK 2"}).cover is False


def test_a_rater_agrees_once_to_a_text_and_a_number(tmp_path):
    store = Store(tmp_path)
    study = read_study(store)
    assert not has_agreed(store, "anna", study)
    agree(store, "anna", study)
    agree(store, "anna", study)
    assert has_agreed(store, "anna", study)
    assert not has_agreed(store, "bert", study)
    (one,) = consents(store)
    assert (one.rater, one.approval, one.text, one.time[-1]) == ("anna", "", CONSENT_TEXT, "Z")
    newer = change_study(store, {"approval": "EK 1", "consent": "Please."})
    assert not has_agreed(store, "anna", newer), "another text is another consent"
    agree(store, "anna", newer)
    assert [one.text for one in consents(store)] == [CONSENT_TEXT, "Please."], "the old one stays on record"


def test_participation_counts_raters_and_names_none(tmp_path):
    assert participation(tmp_path, {"anna"}) == {}
    assert not (tmp_path / FILE).exists(), "nothing is made by looking"
    store = Store(tmp_path)
    agree(store, "anna", change_study(store, {"approval": "EK 1", "consent": "Please."}))
    agree(store, "anna", change_study(store, {"approval": "EK 2"}))
    assert participation(tmp_path, {"anna", "bert"}) == {
        "approvals": ["EK 2", "EK 1"], "num_raters": 2, "num_agreed": 1, "texts": ["Please."],
    }  # fmt: skip
    assert participation(tmp_path, {"bert"})["texts"] == []


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (
            "a,c,r,privacy,4,nurse\n",
            "row 2: role is 'nurse'; it must be one of dermatologist, physician, lay",
        ),
        (
            "a,c,r,privacy,4,lay\na,c,r,diagnosis,4,physician\n",
            "row 3: the role of r is physician, who is in an earlier row lay; a rater has one role",
        ),
        (
            "a,c,r,privacy,4,\na,c,r,urgency,tomorrow,\n",
            "row 3: urgency is 'tomorrow'; it must be one of self-care",
        ),
        ("a,c,r,own_urgency,,\n", "row 2: own_urgency is ''; it must be one of"),
        ("a,c,r,own_answer_0,x,\n", "row 2: 'own_answer_0' is not an item"),
    ],
)
def test_a_wrong_role_or_urgency_gets_a_sentence_with_its_row(tmp_path, rows, sentence):
    (tmp_path / "r.csv").write_text(HEAD + rows)
    with pytest.raises(RatingsError, match=sentence):
        ratings.read_ratings(tmp_path / "r.csv")


def test_a_role_in_words_and_of_one_row_is_that_of_the_rater(tmp_path):
    (tmp_path / "r.csv").write_text(
        f"{HEAD}a,c,r,privacy,4,\na,c,r,urgency,Soon,Other physician\na,c,s,privacy,4,unknown\n"
    )
    rows = ratings.read_ratings(tmp_path / "r.csv")
    assert [(row.rater, row.value, row.role) for row in rows] == [
        ("r", "4", "physician"), ("r", "soon", "physician"), ("s", "4", ""),
    ]  # fmt: skip
    assert rows[1].number == 2


def test_tables_of_raters_and_consents_with_wrong_rows(tmp_path):
    path = tmp_path / "t.csv"
    for text, sentence in (
        ("rater,role\nanna,nurse\n", "row 2: role is 'nurse'"),
        ("rater,role\nanna,\n", "row 2: rater and role must not be empty"),
        (
            "rater,role\nanna,lay\nanna,physician\n",
            "row 3: the role of anna is physician, who is in an earlier row",
        ),
        ("rater,role\nbert,physician\n", "row 2: the role of bert is physician, who is stored as lay"),
        ("rater\nanna\n", "has no column role"),
        ("rater,role\n", "names no rater"),
    ):
        path.write_text(text)
        with pytest.raises(RatingsError, match=sentence):
            tables.read_raters(path, {"bert": "lay"})
    path.write_text("rater,role,time,approval,text\nanna,lay,,EK,yes\n")
    assert tables.holds_consents(path)
    with pytest.raises(RatingsError, match="row 2: rater and time must not be empty"):
        tables.read_consents(path, {})
    path.write_text("rater,role,time,approval,text\nanna,lay,2026-01-01T00:00:00Z,EK,yes\n")
    with pytest.raises(RatingsError, match="row 2: the role of anna is lay, who is stored as physician"):
        tables.read_consents(path, {"anna": "physician"})


words = st.text(st.characters(exclude_categories=["Cs", "Cc"], include_characters="\n=+-@;,\"'"), max_size=12)
names = st.sampled_from(["anna", "bert", "cleo", "dora"])
before = st.fixed_dictionaries(
    {"own_diagnosis": words.map(lambda text: f"x{text}"), "own_urgency": st.sampled_from(URGENCY)},
    optional={f"own_answer_{n}": words for n in range(1, 5)},
)
after = st.fixed_dictionaries(
    {item: st.sampled_from("12345") for item in ITEMS}
    | {FLAG: st.sampled_from("01"), "urgency": st.sampled_from(URGENCY), "comment": words}
)


@settings(max_examples=15, deadline=None)
@given(
    st.dictionaries(names, st.sampled_from(tuple(ROLES))),
    st.dictionaries(st.tuples(names, st.sampled_from(["c1", "c2"])), st.tuples(before, after), min_size=1),
    st.lists(st.tuples(names, words), max_size=4),
)
def test_everything_comes_back_as_it_went_out(tmp_path_factory, roles, forms, agreed):
    folder = tmp_path_factory.mktemp("round")
    one, two = store_in(folder / "one"), store_in(folder / "two")
    one.set_roles(roles)
    for (rater, case), (own, form) in forms.items():
        one.save(rater, "a", case, own, 4.5)
        one.save(rater, "a", case, form, 60.0)
    for rater, text in agreed:
        add_consents(one, [Consent(rater, "", "2026-01-01T00:00:00Z", text.strip(), text.strip())])
    (folder / "r.csv").write_text(ratings.ratings_csv(one.current()), encoding="utf-8", newline="")
    (folder / "c.csv").write_text(tables.consents_csv(one)[0], encoding="utf-8", newline="")
    two.add(ratings.read_ratings(folder / "r.csv"))
    read = tables.read_consents(folder / "c.csv", two.roles())
    two.set_roles({each.rater: each.role for each in read})
    add_consents(two, read)
    blank = [
        row for row in one.current() if row.item == "comment" and ratings.text_or_none(row.value) is None
    ]
    assert two.current() == [row for row in one.current() if row not in blank]
    assert consents(two) == consents(one)
    assert two.add(ratings.read_ratings(folder / "r.csv")) == 0, "twice is once"
    assert add_consents(two, read) == 0
    assert tables.own_answers_csv(two) == tables.own_answers_csv(one)
