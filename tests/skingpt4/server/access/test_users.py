"""The users file: who is in it, who may log in, and that a change is whole or not at all."""

from __future__ import annotations

import json
import stat
import threading

import pytest

from skingpt4.__main__ import main as skingpt4
from skingpt4.server.access import passwords
from skingpt4.server.access.users import PAGE_ROLES, REVIEW_ROLES, Users, UsersError
from skingpt4.server.audit import AuditError, AuditLog, read

PASSWORD = "correct horse battery"


@pytest.fixture(autouse=True)
def fast_hashes(monkeypatch):
    monkeypatch.setattr(
        passwords, "HASHER", passwords.PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)
    )


@pytest.fixture
def users(tmp_path) -> Users:
    made = Users(tmp_path / "users.json")
    made.add("anna", "clinician", PASSWORD)
    return made


def test_a_user_logs_in_with_the_own_password_alone(users):
    users.add("bert", "reviewer", PASSWORD + "!")
    assert users.check("anna", PASSWORD)
    assert not users.check("anna", PASSWORD + "!")
    assert not users.check("Anna", PASSWORD)
    assert not users.check("nobody", PASSWORD)
    text = users.path.read_text()
    assert PASSWORD not in text
    assert "$argon2id$" in text
    assert stat.S_IMODE(users.path.stat().st_mode) == 0o600


def test_roles_open_what_they_are_for(users):
    users.add("bert", "reviewer", PASSWORD)
    users.add("root", "administrator", PASSWORD)
    may = {
        name: (users.stamp(name, PAGE_ROLES) is not None, users.stamp(name, REVIEW_ROLES) is not None)
        for name in ("anna", "bert", "root", "nobody")
    }
    assert may == {
        "anna": (True, True),
        "bert": (False, True),
        "root": (True, False),
        "nobody": (False, False),
    }


def test_every_change_is_seen_by_others_and_ends_what_is_open(users):
    server = Users(users.path)
    stamps = [server.stamp("anna", PAGE_ROLES)]
    users.set_enabled("anna", False)
    assert server.stamp("anna", PAGE_ROLES) is None
    assert not server.check("anna", PASSWORD)
    users.set_enabled("anna", True)
    stamps.append(server.stamp("anna", PAGE_ROLES))
    users.set_password("anna", "another long one")
    stamps.append(server.stamp("anna", PAGE_ROLES))
    assert not server.check("anna", PASSWORD)
    assert server.check("anna", "another long one")
    users.set_role("anna", "administrator")
    stamps.append(server.stamp("anna", PAGE_ROLES))
    assert None not in stamps
    assert len(set(stamps)) == 4


def test_a_user_without_a_password_never_logs_in(users):
    users.add("carl@clinic.example", "clinician", None)
    for password in ("", "x", PASSWORD):
        assert not users.check("carl@clinic.example", password)
    assert users.stamp("carl@clinic.example", PAGE_ROLES)


@pytest.mark.parametrize(
    ("name", "role", "password", "why"),
    [
        ("anna", "clinician", PASSWORD, "already a user anna"),
        ("ANNA", "clinician", PASSWORD, "differ in case"),
        ("a b", "clinician", PASSWORD, "letters, digits"),
        ("", "clinician", PASSWORD, "letters, digits"),
        ("bert\n", "clinician", PASSWORD, "letters, digits"),
        ("None", "clinician", PASSWORD, "words for nothing"),
        ("bert", "surgeon", PASSWORD, "the roles are clinician, reviewer, administrator"),
        ("bert", "reviewer", "short", "12 to 1000 characters"),
        ("bert", "reviewer", "", "12 to 1000 characters"),
        ("bert", "reviewer", "bert12345678", "too close to the name"),
    ],
)
def test_what_will_not_do_changes_nothing(users, name, role, password, why):
    before = users.path.read_bytes()
    with pytest.raises(UsersError, match=why):
        users.add(name, role, password)
    assert users.path.read_bytes() == before


def test_names_that_are_not_there_are_named(users):
    with pytest.raises(UsersError, match=r"no user 'bert'; there are: anna"):
        users.set_enabled("bert", False)
    with pytest.raises(UsersError, match="skingpt4 users --file"):
        Users(users.path.with_name("other.json")).all()


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", '{"format": 2, "users": []}', '{"format": 1}', '{"format": 1, "users": [{"name": "x"}]}',
     '{"format": 1, "users": [3]}', "\x00" * 10],
)  # fmt: skip
def test_a_damaged_file_is_one_sentence_and_lets_nobody_in(users, content):
    users.path.write_text(content)
    for act in (lambda: users.check("anna", PASSWORD), lambda: users.stamp("anna", PAGE_ROLES)):
        with pytest.raises(UsersError, match="damaged"):
            act()
    with pytest.raises(UsersError, match="damaged"):
        users.add("bert", "reviewer", PASSWORD)
    assert users.path.read_text() == content, "it is not replaced"


@pytest.mark.parametrize(
    ("key", "value"), [("enabled", "no"), ("role", "king"), ("password", 7), ("stamp", None)]
)
def test_a_field_of_another_type_lets_nobody_in(users, key, value):
    data = json.loads(users.path.read_text())
    data["users"][0][key] = value
    users.path.write_text(json.dumps(data))
    with pytest.raises(UsersError, match="damaged"):
        users.check("anna", PASSWORD)


def test_changes_of_several_programs_lose_nothing(users):
    def add(number: int) -> None:
        Users(users.path).add(f"user{number}", "reviewer", None)

    threads = [threading.Thread(target=add, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(users.all()) == {"anna", *(f"user{number}" for number in range(8))}


def test_a_hash_of_another_cost_is_replaced_at_the_log_in(users, monkeypatch):
    cheap = passwords.PasswordHasher(time_cost=2, memory_cost=8, parallelism=1)
    data = json.loads(users.path.read_text())
    old = data["users"][0]["password"] = cheap.hash(PASSWORD)
    users.path.write_text(json.dumps(data))
    stamp = users.stamp("anna", PAGE_ROLES)
    assert users.check("anna", PASSWORD)
    assert users.all()["anna"].password != old
    assert users.check("anna", PASSWORD)
    assert users.stamp("anna", PAGE_ROLES) == stamp, "open log-ins go on"


# ---- the command


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    def run(*words: str, typed: str = "") -> tuple[int, str, str]:
        import io

        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        status = skingpt4(["users", "--file", str(tmp_path / "users.json"), *words])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


def test_the_command_adds_changes_and_lists(run, tmp_path):
    log = tmp_path / "audit.sqlite"
    audit = ("--audit-log", str(log))
    assert run(*audit, "add", "anna", "--role", "clinician", typed=PASSWORD + "\n")[:2] == (
        0, "anna was added as clinician\n",
    )  # fmt: skip
    assert run("add", "bert", "--role", "reviewer", "--no-password")[0] == 0
    assert run(*audit, "disable", "anna")[1] == "anna is disabled\n"
    assert run("enable", "anna")[1] == "anna is enabled\n"
    assert run("role", "bert", "administrator")[1] == "bert is now administrator\n"
    assert run("passwd", "anna", typed="another long one\n")[1] == "anna has a new password\n"
    assert Users(tmp_path / "users.json").check("anna", "another long one")
    rows = [json.loads(line) for line in run("list", "--json")[1].splitlines()]
    assert [(row["name"], row["role"], row["enabled"], row["log_in"]) for row in rows] == [
        ("anna", "clinician", True, "password"), ("bert", "administrator", True, "proxy only"),
    ]  # fmt: skip
    assert "argon2" not in run("list")[1]
    assert [(line.event, line.facts["user"]) for line in read(log)] == [
        ("user_add", "anna"), ("user_disable", "anna"),
    ]  # fmt: skip
    assert PASSWORD not in log.read_bytes().decode("latin-1")


def test_what_cannot_be_logged_is_not_done(run, tmp_path, monkeypatch):
    audit = ("--audit-log", str(tmp_path / "audit.sqlite"))
    assert run("add", "anna", "--role", "clinician", typed=PASSWORD + "\n")[0] == 0
    before = (tmp_path / "users.json").read_bytes()

    def full(*_: object, **__: object) -> None:
        raise AuditError("the disk is full")

    monkeypatch.setattr(AuditLog, "append", full)
    for words, typed in (
        (("disable", "anna"), ""),
        (("role", "anna", "reviewer"), ""),
        (("passwd", "anna"), "another long one\n"),
        (("add", "bert", "--role", "reviewer"), PASSWORD + "\n"),
    ):
        status, _, err = run(*audit, *words, typed=typed)
        assert status == 1
        assert "the disk is full" in err
        assert (tmp_path / "users.json").read_bytes() == before


def test_the_command_fails_in_one_sentence(run):
    for words, typed, sentence in (
        (("list",), "", "there is no such users file"),
        (("disable", "anna"), "", "there is no such users file"),
        (("add", "anna", "--role", "clinician"), "", "needs 12 to 1000 characters"),
        (("passwd", "anna"), PASSWORD, "there is no such users file"),
    ):
        status, out, err = run(*words, typed=typed)
        assert (status, out) == (1, "")
        assert sentence in err
        assert err.count("\n") == 1


def test_passwords_are_no_arguments(run):
    with pytest.raises(SystemExit):
        run("add", "anna", PASSWORD, "--role", "clinician")
    with pytest.raises(SystemExit):
        run("add", "anna", "--password", PASSWORD, "--role", "clinician")
