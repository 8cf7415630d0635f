"""The audit log: nobody changes or removes a line unseen, and nothing that tells who somebody is stands in it."""

import json
import re
import sqlite3
import subprocess
import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skingpt4.cli.access import audit
from skingpt4.server import audit as server_audit
from skingpt4.server.audit import START, AuditError, AuditLog, read, verify


@pytest.fixture
def path(tmp_path):
    return tmp_path / "audit.sqlite"


def filled(path, count=5):
    log = AuditLog(path)
    return [log.append("asked", consultation="c1", number=number, seconds=0.5) for number in range(count)]


def raw(path):
    """As somebody who goes around the triggers."""
    connection = sqlite3.connect(path)
    connection.execute("DROP TRIGGER never_changed")
    connection.execute("DROP TRIGGER never_deleted")
    return connection


def test_lines_come_back_in_order_and_only_the_owner_reads_them(path):
    hashes = filled(path)
    AuditLog(path).append("deleted")
    lines = list(read(path))
    assert [line.event for line in lines] == ["asked"] * 5 + ["deleted"]
    assert [line.hash for line in lines[:5]] == hashes
    assert lines[0].before == START
    assert lines[3].facts == {"consultation": "c1", "number": 3, "seconds": 0.5}
    assert verify(path) == (6, lines[-1].hash)
    assert {p.stat().st_mode & 0o777 for p in path.parent.iterdir()} == {0o600}


@pytest.mark.parametrize(
    "change", ["UPDATE line SET event = 'x'", "DELETE FROM line", "DELETE FROM line WHERE id = 5"]
)
def test_a_line_is_neither_changed_nor_deleted(path, change):
    filled(path)
    with sqlite3.connect(path) as connection, pytest.raises(sqlite3.DatabaseError, match="append-only"):
        connection.execute(change)
    assert verify(path)[0] == 5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["DELETE FROM line WHERE id = 2"], "line 2 of the log were removed"),
        (["DELETE FROM line WHERE id IN (2, 3)"], "lines 2 to 3"),
        (["DELETE FROM line WHERE id = 1"], "line 1 of"),
        (["DELETE FROM line WHERE id > 3"], "newest 2 lines"),
        (["DELETE FROM line"], "newest 5 lines"),
        (["UPDATE line SET facts = '{}' WHERE id = 2"], "line 2 was changed"),
        (["UPDATE line SET time = '2020-01-01T00:00:00Z' WHERE id = 5"], "line 5 was changed"),
        (["UPDATE line SET facts = x'ff' WHERE id = 2"], "line 2 was changed"),
        (["UPDATE line SET facts = '{' WHERE id = 2"], "line 2 was changed"),
        ([f"UPDATE line SET facts = '{'[' * 100_000}' WHERE id = 2"], "line 2 was changed"),
        (["DELETE FROM sqlite_sequence", "DELETE FROM line WHERE id = 5"], "its newest may be missing"),
        (["DELETE FROM line WHERE id = 2", "UPDATE line SET id = id - 1 WHERE id > 2"], "line 2 does not follow"),
    ],
)  # fmt: skip
def test_what_went_around_the_triggers_is_seen(path, changes, words, capsys):
    filled(path)
    with raw(path) as connection:
        for change in changes:
            connection.execute(change)
    with pytest.raises(AuditError, match=words):
        verify(path)
    assert audit.main([str(path)]) == 1
    assert words in capsys.readouterr().err


def test_a_log_written_anew_does_not_hold_the_noted_hash(path, capsys):
    noted = filled(path)[-1]
    assert audit.main([str(path), "--hash", noted]) == 0
    path.unlink()
    filled(path, 4)
    AuditLog(path).append("asked", consultation="another")
    capsys.readouterr()
    assert audit.main([str(path), "--hash", noted]) == 1
    assert "holds no line with the hash" in capsys.readouterr().err


SECRET = "Anna Müller, Hauptstraße 5"


def test_no_free_text_unless_it_was_asked_for(path, tmp_path):
    facts = {
        "question": SECRET, "answer": SECRET, "turns": [{"question": SECRET, "seed": 3}],
        "history": {"site": SECRET}, "anything": SECRET * 20, "sha256": "ab" * 32, "overridden": True,
        "quality": {"score": 0.4, "problems": ["blurred"]},
    }  # fmt: skip
    AuditLog(path).append("asked", **facts)
    logged = next(read(path)).facts
    assert SECRET not in json.dumps(logged, ensure_ascii=False)
    assert (logged["sha256"], logged["overridden"], logged["turns"][0]["seed"]) == ("ab" * 32, True, 3)
    assert logged["quality"] == {"score": 0.4, "problems": ["blurred"]}
    everything = b"".join(p.read_bytes() for p in tmp_path.iterdir())
    assert b"Anna" not in everything
    with pytest.raises(AuditError, match="what an audit line cannot"):
        AuditLog(path).append("shown", picture=b"\xff\xd8")
    opted = tmp_path / "opted.sqlite"
    AuditLog(opted, free_text=True).append("asked", **facts)
    assert next(read(opted)).facts == facts


NESTED = st.recursive(
    st.just(SECRET),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=40)
@given(st.dictionaries(st.sampled_from(server_audit.FREE_TEXT), NESTED, max_size=3))
def test_free_text_does_not_hide_inside_lists_and_groups(facts):
    assert "Anna" not in json.dumps(server_audit.without_free_text(facts), ensure_ascii=False)


def test_many_writers_lose_nothing(path):
    def write(who):
        for number in range(10):
            AuditLog(path).append("asked", who=who, number=number)

    threads = [threading.Thread(target=write, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verify(path)[0] == 40
    assert len({(line.facts["who"], line.facts["number"]) for line in read(path)}) == 40


def test_what_is_no_log_is_said_in_a_sentence(path, tmp_path, capsys):
    assert audit.main([str(path)]) == 1
    path.write_text("no database, but a text that is long enough to be taken for one" * 10)
    assert audit.main([str(path)]) == 1
    with pytest.raises(AuditError, match="damaged or not an audit log"):
        AuditLog(path)
    other = tmp_path / "other.sqlite"
    sqlite3.connect(other).execute("CREATE TABLE mine (a)")
    with pytest.raises(AuditError, match="not an audit log of this version"):
        AuditLog(other)
    assert audit.main([str(other)]) == 1
    with pytest.raises(AuditError, match="cannot be created"):
        AuditLog(tmp_path / "nowhere" / "audit.sqlite")
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 3
    assert all(line.startswith("error: ") for line in errors)


def test_the_command_shows_the_log_without_loading_torch(path):
    filled(path)
    code = (
        "import sys; from skingpt4.cli.access.audit import main; "
        "main(sys.argv[1:]); assert 'torch' not in sys.modules"
    )
    command = [sys.executable, "-c", code, str(path), "--json", "--last", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["facts"]["number"] for row in rows] == [3, 4]
    assert done.stderr.startswith("5 lines, complete; newest hash ")


def test_a_logged_question_tells_the_terminal_nothing(path, capsys):
    """No command, no other direction of what follows, no line that is none of the log's."""
    question = "Größe? \x1b[2J \x9b2J \x07 \u202edetele \u2066a \u2028b"
    AuditLog(path, free_text=True).append("asked\n     9  2026-01-01T00:00:00Z  deleted", question=question)
    for options in ([], ["--json"]):
        assert audit.main([str(path), *options]) == 0
        shown = capsys.readouterr().out
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", shown)
        assert shown.count("\n") == 1
        assert "Größe" in shown or json.loads(shown)["facts"]["question"].startswith("Größe? \x1b")
