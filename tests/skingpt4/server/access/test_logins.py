"""Log-ins end, guessing is slow, and a slow check holds nobody up."""

from __future__ import annotations

import threading
from contextlib import suppress

import anyio
import pytest

from skingpt4.server.access.logins import (
    BUSY_SECONDS,
    FORGET_SECONDS,
    IDLE_SECONDS,
    MAX_CHECKS,
    MAX_LOGINS,
    MAX_SECONDS,
    MAX_WAIT_SECONDS,
    NUM_FREE,
    NUM_FREE_OF_ADDRESS,
    Access,
    Logins,
    TooSoon,
)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def logins(clock) -> Logins:
    return Logins(Access(lambda name, password: password == f"of {name}"), clock)


def log_in(logins: Logins, name: str, password: str, browser: str = "b") -> str | None:
    async def work() -> str | None:
        return await logins.log_in(name, password, browser)

    return anyio.run(work)


def test_a_log_in_ends_when_it_is_not_used_and_after_a_day_of_work(logins, clock):
    token = log_in(logins, "anna", "of anna")
    assert logins.user(token) == "anna"
    assert logins.user("") is None
    assert logins.user(token[:-1]) is None
    clock.now += IDLE_SECONDS - 1
    assert logins.user(token) == "anna"
    clock.now += IDLE_SECONDS + 1
    assert logins.user(token) is None
    clock.now -= 2
    assert logins.user(token) is None, "it does not come back"
    token = log_in(logins, "anna", "of anna")
    for _ in range(MAX_SECONDS // 1000):
        clock.now += 1000
        assert logins.user(token) == "anna"
    clock.now += 1000
    assert logins.user(token) is None, "however busy"


def test_each_log_in_is_its_own(logins):
    first, second = log_in(logins, "anna", "of anna"), log_in(logins, "anna", "of anna")
    assert first != second
    assert len(first) > 40
    logins.log_out(first)
    logins.log_out("no such")
    assert (logins.user(first), logins.user(second)) == (None, "anna")


def test_guessing_is_slower_after_each_failure_whatever_name_or_cookie_is_given(logins, clock):
    waits = []
    for number in range(NUM_FREE + 9):
        try:
            assert log_in(logins, f"name{number}", "guess", f"browser{number}") is None
            waits.append(0)
        except TooSoon as error:
            waits.append(error.seconds)
            clock.now += error.seconds - 0.5
            with pytest.raises(TooSoon):
                log_in(logins, "anna", "of anna", "new"), "not even looked at"
            clock.now += 0.5
            assert log_in(logins, f"name{number}", "guess", "") is None
    assert waits == [*[0] * NUM_FREE, 1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert max(waits) == MAX_WAIT_SECONDS
    for _ in range(1100):  # a power of two of them is no float
        clock.now += MAX_WAIT_SECONDS
        assert log_in(logins, "anna", "guess") is None
    clock.now += FORGET_SECONDS + 1
    assert log_in(logins, "anna", "guess") is None, "old failures are forgotten"
    assert log_in(logins, "anna", "of anna")


def test_a_guesser_does_not_lock_out_who_has_logged_in_here_before(logins, clock):
    assert log_in(logins, "anna", "of anna", "hers")
    for _ in range(NUM_FREE):
        log_in(logins, "anna", "guess", "his")
    with pytest.raises(TooSoon):
        log_in(logins, "anna", "of anna", "his")
    assert log_in(logins, "anna", "of anna", "hers")
    with pytest.raises(TooSoon):
        log_in(logins, "bert", "of bert", "hers"), "known as anna, not as bert"
    # Nor does a log-in of one's own buy more guesses at another's password.
    assert log_in(logins, "anna", "of anna", "hers")
    with pytest.raises(TooSoon):
        log_in(logins, "bert", "guess", "hers")
    for _ in range(NUM_FREE):
        assert log_in(logins, "anna", "guess", "hers") is None
    with pytest.raises(TooSoon):
        log_in(logins, "anna", "of anna", "hers")


def test_a_browser_without_a_cookie_is_never_known(logins):
    assert log_in(logins, "anna", "of anna", "")
    for _ in range(NUM_FREE):
        log_in(logins, "anna", "guess", "")
    with pytest.raises(TooSoon):
        log_in(logins, "anna", "of anna", "")


def test_tries_at_the_same_time_count_before_they_are_checked():
    started, go_on = [], threading.Event()

    def check(name, password):
        started.append(name)
        return go_on.wait(60) and False

    logins, refused = Logins(Access(check)), []

    async def guess() -> None:
        try:
            await logins.log_in("anna", "guess", "b")
        except TooSoon:
            refused.append(1)

    async def work() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(guess)
            with anyio.fail_after(60):
                while len(refused) < 20 - NUM_FREE or not started:
                    await anyio.sleep(0.01)  # the loop goes on while a password is checked
            assert len(started) == 1, "one at a time"
            go_on.set()

    anyio.run(work)
    assert len(started) == NUM_FREE


def test_a_flood_of_made_up_names_and_addresses_does_not_fill_the_line():
    begun, go_on, answers = threading.Event(), threading.Event(), []

    def check(name, password):
        begun.set()
        return go_on.wait(60) and password == f"of {name}"

    logins = Logins(Access(check, per_name=True))

    async def try_as(name, password, browser, address) -> None:
        try:
            answers.append((name, await logins.log_in(name, password, browser, address) is not None))
        except TooSoon as error:
            answers.append((name, error.seconds))

    async def work() -> None:
        go_on.set()
        await try_as("anna", "of anna", "hers", "10.0.0.1")
        go_on.clear()
        async with anyio.create_task_group() as group:
            for number in range(MAX_CHECKS + 100):
                group.start_soon(try_as, f"x{number}", "guess", "", f"10.1.1.{number}")
            with anyio.fail_after(60):
                while len(answers) < 101 or not begun.is_set():
                    await anyio.sleep(0.01)
            await try_as("bert", "of bert", "new", "10.0.0.2")
            group.start_soon(try_as, "anna", "of anna", "hers", "10.0.0.1")
            await anyio.sleep(0.01)
            go_on.set()

    anyio.run(work)
    assert [seconds for name, seconds in answers[1:101]] == [BUSY_SECONDS] * 100
    assert answers[101] == ("bert", BUSY_SECONDS)
    assert answers[-1] == ("anna", True), "a browser that has logged in before gets in all the same"
    assert len(answers) == 1 + MAX_CHECKS + 100 + 2
    assert log_in(logins, "bert", "of bert") is not None, "nothing was counted against him"


def test_long_names_and_passwords_are_not_hashed():
    logins = Logins(Access(lambda name, password: pytest.fail("it was checked")))
    assert log_in(logins, "a" * 2000, "x") is None
    assert log_in(logins, "a", "x" * 2000) is None


@pytest.mark.parametrize("addresses", ["one that has to wait", "many"])
def test_tries_under_other_names_do_not_end_a_wait(clock, addresses):
    checked = []
    logins = Logins(Access(lambda name, password: checked.append(name), per_name=True), clock)

    async def work() -> None:
        for number in range(NUM_FREE_OF_ADDRESS):
            await logins.log_in(f"first{number}", "guess", "", "192.0.2.1")
        for _ in range(NUM_FREE):
            await logins.log_in("anna", "guess", "", "198.51.100.1")
        checked.clear()
        for number in range(10_500):
            address = "192.0.2.1" if addresses != "many" else f"10.0.{number // 250}.{number % 250}"
            with suppress(TooSoon):
                await logins.log_in(f"name{number}", "x" * 2000, "", address)
        with pytest.raises(TooSoon):
            await logins.log_in("anna", "guess", "", "198.51.100.2")

    anyio.run(work)
    assert checked == []


def test_failures_have_a_fixed_number_of_places(clock, monkeypatch):
    monkeypatch.setattr("skingpt4.server.access.logins.NUM_PLACES", 2)
    logins = Logins(Access(lambda name, password: False, per_name=True), clock)
    for number in range(20):
        with suppress(TooSoon):
            log_in(logins, f"name{number}", "guess", "")
    with pytest.raises(TooSoon):
        log_in(logins, "one more", "guess", "")


def test_what_is_remembered_is_bounded(logins):
    async def work() -> str:
        for number in range(MAX_LOGINS + 5):
            token = await logins.log_in("anna", "of anna", f"browser{number}")
            assert token
            if not number:
                first = token
        assert logins.user(token) == "anna"
        return first

    first = anyio.run(work)
    assert logins.user(first) is None, "the one that was not used for longest"
