"""Log-ins: who may, for how long, and how fast somebody may guess.

Passwords are checked one at a time in a thread of their own, so that no other request waits for a slow hash. After
three failures the next try has to wait, longer after each. All browsers that have not logged in yet share one count
of failures, since a guesser changes names and cookies at will; a browser that has logged in under a name has a count
of its own for it, so that a guesser does not lock out those who work here.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

import anyio
import anyio.to_thread

IDLE_SECONDS = 60 * 60
MAX_SECONDS = 12 * 60 * 60
MAX_LOGINS = 1000  # open at once; the one that was not used for longest ends first
NUM_FREE = 3  # failures before the first wait
MAX_WAIT_SECONDS = 60
FORGET_SECONDS = 15 * 60  # without a failure, and they are forgotten
MAX_LENGTH = 1000  # characters of a name or password


class TooSoon(Exception):
    """A try that has to wait for `seconds`."""

    def __init__(self, seconds: int) -> None:
        super().__init__(seconds)
        self.seconds = seconds


@dataclass
class _Login:
    user: str
    began: float
    used: float

    def is_over(self, now: float) -> bool:
        return now - self.used > IDLE_SECONDS or now - self.began > MAX_SECONDS


@dataclass
class _Failures:
    count: int = 0
    last: float = -math.inf

    def wait(self, now: float) -> float:
        """Seconds until the next try."""
        if now - self.last > FORGET_SECONDS:
            self.count = 0
        if self.count < NUM_FREE:
            return 0.0
        seconds = MAX_WAIT_SECONDS if self.count > NUM_FREE + 10 else 2 ** (self.count - NUM_FREE)
        return self.last + min(seconds, MAX_WAIT_SECONDS) - now


class Logins:
    """The log-ins of one server; for one event loop."""

    def __init__(
        self, check: Callable[[str, str], bool], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin with nobody logged in.

        Args:
            check: whether a user name and a password may log in; runs in a thread.
            clock: seconds that never run backwards.
        """
        self._check, self._clock = check, clock
        self._logins: dict[str, _Login] = {}  # by token, in the order in which they were last used
        self._strangers = _Failures()
        self._known: dict[tuple[str, str], _Failures] = {}  # by browser and user name
        self._one_at_a_time = anyio.CapacityLimiter(1)

    def user(self, token: str) -> str | None:
        """Who is logged in with this token; None if nobody is, or not any more. Counts as use."""
        now = self._clock()
        login = self._logins.pop(token, None)
        if login is None or login.is_over(now):
            return None
        login.used = now
        self._logins[token] = login
        return login.user

    async def log_in(self, name: str, password: str, browser: str) -> str | None:
        """Check a password.

        Args:
            name: of the user.
            password: as it was typed.
            browser: its cookie.

        Returns:
            A new token, or None if name or password is wrong.

        Raises:
            TooSoon: too many tries failed; this one was not looked at.
        """
        failures = self._known.get((browser, name), self._strangers)
        wait = failures.wait(self._clock())
        if wait > 0:
            raise TooSoon(math.ceil(wait))
        failures.count += 1  # until it is known better, so that tries at the same time count too
        failures.last = self._clock()
        if max(len(name), len(password)) > MAX_LENGTH:
            return None
        if not await anyio.to_thread.run_sync(self._check, name, password, limiter=self._one_at_a_time):
            return None
        failures.count = max(0, failures.count - 1)
        if browser:
            self._known.setdefault((browser, name), _Failures())
        while len(self._known) > MAX_LOGINS:
            del self._known[next(iter(self._known))]
        return self._begin(name)

    def _begin(self, user: str) -> str:
        now, token = self._clock(), secrets.token_urlsafe(32)
        self._logins = {key: login for key, login in self._logins.items() if not login.is_over(now)}
        while len(self._logins) >= MAX_LOGINS:
            del self._logins[next(iter(self._logins))]
        self._logins[token] = _Login(user, now, now)
        return token

    def log_out(self, token: str) -> None:
        """End a log-in."""
        self._logins.pop(token, None)
