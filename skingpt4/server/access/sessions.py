"""The open pages of a Gradio server: whose they are, and how many there may be.

Gradio takes the name of a page's session from the request, creates a new one for each name, and keeps what it holds
for an hour. So each name belongs here to the browser (and log-in) that used it first, and there is room for only so
many.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
MAX_PAGES = 64
MAX_PAGES_OF_ONE = 16
MAX_CONNECTIONS = 8  # of one page
Owner = tuple[str, str]  # the user's name, empty where nobody logs in, and the browser's cookie


class SessionRefused(Exception):
    """A session that cannot be used; `key` names the sentence that says why."""

    def __init__(self, status: int, key: str) -> None:
        super().__init__(key)
        self.status, self.key = status, key


@dataclass
class _Session:
    owner: Owner
    num_open: int = 0  # connections that a page holds for as long as it is open
    num_connections: int = 0  # these and those by which it fetches results


class Sessions:
    """The sessions of one server, in the order in which they were last used."""

    def __init__(
        self, end: Callable[[str], None], max_pages: int = MAX_PAGES, max_of_one: int = MAX_PAGES_OF_ONE
    ) -> None:
        """Begin without any session.

        Args:
            end: is called with the name of a session that is over; it wipes what that held, then calls `ended`.
            max_pages: how many there may be.
            max_of_one: how many of them may be one owner's.
        """
        self._end, self._max_pages, self._max_of_one = end, max_pages, max_of_one
        self._sessions: dict[str, _Session] = {}
        self._ending: dict[str, Owner] = {}  # not wiped yet, since an answer is being written

    def use(self, name: object, owner: Owner) -> None:
        """Let an owner use a session, a new one if there is room.

        A page holds a connection for as long as it is open. A session without one makes room for a new session, the
        one first that was not used for longest; a session with one never does.

        Raises:
            SessionRefused: no such name, somebody else's session, or too many pages are open.
        """
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise SessionRefused(400, "no_session")
        if self._ending.get(name, owner) != owner:
            raise SessionRefused(403, "foreign_page")
        session = self._sessions.pop(name, None)
        if session is None:
            own = [other for other, one in self._sessions.items() if one.owner == owner]
            self._make_room(own, self._max_of_one, "too_many_pages_here")
            self._make_room(list(self._sessions), self._max_pages, "too_many_pages")
            session = _Session(owner)
        self._sessions[name] = session
        if session.owner != owner:
            raise SessionRefused(403, "foreign_page")

    def _make_room(self, names: list[str], limit: int, key: str) -> None:
        if len(names) < limit:
            return
        idle = [name for name in names if not self._sessions[name].num_open]
        if not idle:
            raise SessionRefused(429, key)
        self._drop(idle[0])

    def _drop(self, name: str) -> None:
        session = self._sessions.pop(name, None)
        if session is not None:
            self._ending[name] = session.owner
            self._end(name)

    def ended(self, name: str) -> None:
        """Nothing is left of a session that was over: anybody may use its name. Any thread may call this."""
        self._ending.pop(name, None)

    @contextmanager
    def connected(self, name: str, while_open: bool) -> Iterator[None]:
        """The block in which a connection of a session goes on.

        Args:
            name: of a session that is in use.
            while_open: a page holds this connection for as long as it is open; the session ends with the last one.

        Raises:
            SessionRefused: it has too many.
        """
        session = self._sessions[name]
        if session.num_connections >= MAX_CONNECTIONS:
            raise SessionRefused(429, "queue_full_here")
        session.num_connections += 1
        session.num_open += while_open
        try:
            yield
        finally:
            session.num_connections -= 1
            session.num_open -= while_open
            if while_open and not session.num_open and self._sessions.get(name) is session:
                self._drop(name)

    def end_all_of(self, owner: Owner) -> None:
        """End an owner's sessions, at log-out."""
        for name in [name for name, session in self._sessions.items() if session.owner == owner]:
            self._drop(name)
