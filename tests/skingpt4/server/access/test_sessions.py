"""Each page's session belongs to one browser, and there is room for only so many."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from skingpt4.server.access.sessions import MAX_CONNECTIONS, SessionRefused, Sessions

ANNA, BERT = ("", "anna's browser"), ("", "bert's browser")


@contextmanager
def opened(sessions: Sessions, owner: tuple[str, str], *names: str) -> Iterator[None]:
    """These pages are open."""
    with ExitStack() as stack:
        for name in names:
            sessions.use(name, owner)
            stack.enter_context(sessions.connected(name, True))
        yield


@pytest.fixture
def ended() -> list[str]:
    return []


@pytest.fixture
def sessions(ended) -> Sessions:
    return Sessions(ended.append, max_pages=4, max_of_one=3)


def refused(sessions: Sessions, name: object, owner: tuple[str, str]) -> str:
    with pytest.raises(SessionRefused) as caught:
        sessions.use(name, owner)
    return caught.value.key


def test_a_session_belongs_to_who_used_it_first(sessions, ended):
    sessions.use("a", ANNA)
    sessions.use("a", ANNA)
    assert refused(sessions, "a", BERT) == "foreign_page"
    assert refused(sessions, "a", ("anna", ANNA[1])) == "foreign_page", "nor to the next user of that browser"
    sessions.use("a", ANNA)
    assert ended == []


@pytest.mark.parametrize("name", [None, 7, "", "a b", "a/b", "ä", "x" * 65, ["a"], "a\n"])
def test_only_names_that_a_page_chooses_are_names(sessions, name):
    assert refused(sessions, name, ANNA) == "no_session"


def test_the_page_that_is_one_too_many_is_refused_and_takes_nobody_s_place(sessions, ended):
    with opened(sessions, ANNA, "a", "b"), opened(sessions, BERT, "c", "d"):
        assert refused(sessions, "e", BERT) == "too_many_pages"
        assert ended == []
    assert sorted(ended) == ["a", "b", "c", "d"], "a page that is closed is over"
    for name in ended:
        sessions.ended(name)
    with opened(sessions, ANNA, "a", "b", "c"):
        assert refused(sessions, "d", ANNA) == "too_many_pages_here"
        sessions.use("d", BERT)


def test_a_session_without_an_open_page_makes_room(sessions, ended):
    with opened(sessions, ANNA, "page"):
        for number in range(10):
            sessions.use(f"raw{number}", BERT)
        assert ended == [f"raw{number}" for number in range(7)], (
            "the one that was not used for longest goes first"
        )
        sessions.use("raw7", BERT)
        sessions.use("raw10", BERT)
        assert ended[-1] == "raw8"
        sessions.use("page", ANNA)


def test_a_page_is_over_when_its_last_connection_ends(sessions, ended):
    sessions.use("a", ANNA)
    with sessions.connected("a", True):
        with sessions.connected("a", True):
            pass
        assert ended == []
    assert ended == ["a"]
    sessions.ended("a")
    sessions.use("a", BERT)  # as new


def test_a_page_has_only_so_many_connections(sessions, ended):
    sessions.use("a", ANNA)
    with ExitStack() as stack:
        for number in range(MAX_CONNECTIONS):
            stack.enter_context(sessions.connected("a", number == 0))
        with pytest.raises(SessionRefused, match="queue_full_here"), sessions.connected("a", False):
            pass
    assert ended == ["a"]
    sessions.use("b", ANNA)
    with sessions.connected("b", False):
        pass
    assert ended == ["a"], "fetching results is not an open page"


def test_a_log_out_ends_the_pages_of_that_browser(sessions, ended):
    sessions.use("a", ANNA)
    sessions.use("c", BERT)
    sessions.use("b", ANNA)
    with sessions.connected("a", True):
        sessions.end_all_of(ANNA)
        assert ended == ["a", "b"]
    assert ended == ["a", "b"], "once each"
    sessions.use("c", BERT)


def test_the_name_of_a_session_that_is_over_is_nobody_else_s_until_it_is_wiped(sessions, ended):
    with opened(sessions, ANNA, "a"):
        pass
    assert ended == ["a"]
    assert refused(sessions, "a", BERT) == "foreign_page"
    sessions.use("a", ANNA)
    sessions.end_all_of(ANNA)
    assert refused(sessions, "a", BERT) == "foreign_page"
    sessions.ended("a")
    sessions.use("a", BERT)
