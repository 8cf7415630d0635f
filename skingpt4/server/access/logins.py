"""Log-ins: who may, for how long, and how fast somebody may guess.

Passwords are checked one at a time in a thread of their own, so that no other request waits for a slow hash. After
three failures the next try has to wait, longer after each. Failures count for the user's name and for the address
they come from, since a guesser changes names and cookies at will; where all share one password, every name counts as
the same. A browser that has logged in under a name has a count of its own for it, so that a guesser does not lock out
those who work here.

Names and addresses are counted in a fixed number of places, to which a secret hash leads. No count is ever dropped to
make room for another, so nobody ends a wait by trying many other names. Two names that share a place wait together.
"""

from __future__ import annotations

import hashlib
import math
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.to_thread

from skingpt4.server.access.peer import neighbourhood
from skingpt4.server.address import Network

IDLE_SECONDS = 60 * 60
MAX_SECONDS = 12 * 60 * 60
MAX_LOGINS = 1000  # open at once; the one that was not used for longest ends first
NUM_FREE = 3  # failures before the first wait
NUM_FREE_OF_ADDRESS = 10  # the same for an address, which a ward may share
NUM_PLACES = 1 << 16  # for the failures of names, and as many for addresses
MAX_WAIT_SECONDS = 60
FORGET_SECONDS = 15 * 60  # without a failure, and they are forgotten
MAX_CHECKS = 16  # passwords that may wait for their check; it takes some seconds for all of them
BUSY_SECONDS = 5  # until another try, where that many wait
MAX_LENGTH = 1000  # characters of a name or password


class TooSoon(Exception):
    """A try that was not looked at, and has to wait for `seconds`."""

    def __init__(self, seconds: int) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class NotAllowed(Exception):
    """The password is right, but the user's role does not go with this page."""


def _ignore(event: str, **facts: Any) -> None:
    """Log nothing."""


@dataclass(frozen=True)
class Access:
    """Who may use a page.

    Attributes:
        check: whether a user name and a password belong together; runs in a thread, may raise `UserError`.
        stamp: of a user's account, another one after each change of it; None if the user may not use this page.
        per_name: whether each name has a password of its own.
        knows: whether there is a user of that name, whose failed log-ins the audit log may then name.
        message: plain text above the log-in's form.
        header: the request header, in lower case, in which a proxy names the user; then nobody logs in here.
        proxies: where such a proxy calls from.
        log: takes an event and its facts; see `AuditLog.append`.
    """

    check: Callable[[str, str], bool]
    stamp: Callable[[str], str | None] = lambda name: ""
    per_name: bool = False
    knows: Callable[[str], bool] = lambda name: False
    message: str = ""
    header: str | None = None
    proxies: tuple[Network, ...] = ()
    log: Callable[..., object] = _ignore


@dataclass
class _Login:
    user: str
    stamp: str
    began: float
    used: float

    def is_over(self, now: float) -> bool:
        return now - self.used > IDLE_SECONDS or now - self.began > MAX_SECONDS


@dataclass
class _Failures:
    num_free: int = NUM_FREE
    count: int = 0
    last: float = -math.inf

    def wait(self, now: float) -> float:
        """Seconds until the next try."""
        if now - self.last > FORGET_SECONDS:
            self.count = 0
        if self.count < self.num_free:
            return 0.0
        seconds = MAX_WAIT_SECONDS if self.count > self.num_free + 10 else 2 ** (self.count - self.num_free)
        return self.last + min(seconds, MAX_WAIT_SECONDS) - now


class Logins:
    """The log-ins of one server; for one event loop."""

    def __init__(self, access: Access, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with nobody logged in.

        Args:
            access: who may.
            clock: seconds that never run backwards.
        """
        self._access, self._clock = access, clock
        self._logins: dict[str, _Login] = {}  # by token, in the order in which they were last used
        self._failures: dict[tuple[str, int], _Failures] = {}  # by kind and place
        self._secret = secrets.token_bytes(32)  # nobody can look for names that share a place
        self._known: dict[tuple[str, str], _Failures] = {}  # by browser and user name
        self._one_at_a_time, self._num_checks = anyio.CapacityLimiter(1), 0

    def user(self, token: str) -> str | None:
        """Who is logged in with this token; None if nobody is, or not any more. Counts as use.

        Raises:
            UserError: it cannot be found out whether the user still may.
        """
        now = self._clock()
        login = self._logins.get(token)
        if login is None:
            return None
        is_revoked = self._access.stamp(login.user) != login.stamp
        del self._logins[token]
        if is_revoked or login.is_over(now):
            return None
        login.used = now
        self._logins[token] = login
        return login.user

    def revoked(self, token: str) -> str | None:
        """The user of a log-in that was taken back: disabled, or of another password or role since; else None."""
        login = self._logins.get(token)
        return login.user if login and self._access.stamp(login.user) != login.stamp else None

    async def log_in(self, name: str, password: str, browser: str, address: str = "") -> str | None:
        """Check a password.

        Args:
            name: of the user.
            password: as it was typed.
            browser: its cookie.
            address: that it calls from.

        Returns:
            A new token, or None if name or password is wrong.

        Raises:
            TooSoon: too many tries failed, or wait; this one was not looked at.
            NotAllowed: the password is right, but this user may not use this page.
            UserError: it cannot be checked now.
        """
        wait = self.wait(name, browser, address)
        if wait > 0:
            raise TooSoon(wait)
        # Whoever makes up names and addresses could else fill the line, and with it all connections of the server.
        if self._num_checks >= MAX_CHECKS and (browser, name) not in self._known:
            raise TooSoon(BUSY_SECONDS)
        counts = self._counts(name, browser, address)
        for failures in counts:
            failures.count += 1  # until it is known better, so that tries at the same time count too
            failures.last = self._clock()
        if max(len(name), len(password)) > MAX_LENGTH:
            return None
        wrong = False
        self._num_checks += 1
        try:
            check = self._access.check
            wrong = not await anyio.to_thread.run_sync(check, name, password, limiter=self._one_at_a_time)
        finally:
            self._num_checks -= 1
            if not wrong:  # right, or nobody could look
                for failures in counts:
                    failures.count = max(0, failures.count - 1)
        if wrong:
            return None
        stamp = self._access.stamp(name)
        if stamp is None:
            raise NotAllowed
        if browser:
            self._known.setdefault((browser, name), _Failures())
        while len(self._known) > MAX_LOGINS:
            del self._known[next(iter(self._known))]
        return self._begin(name, stamp)

    def wait(self, name: str, browser: str, address: str) -> int:
        """Seconds until the next try; arguments as of `log_in`."""
        now = self._clock()
        waits = [failures.wait(now) for failures in self._counts(name, browser, address)]
        return max(0, math.ceil(max(waits)))

    def _counts(self, name: str, browser: str, address: str) -> list[_Failures]:
        """Whose failures a try counts among."""
        known = self._known.get((browser, name))
        if known is not None:
            return [known]
        if not self._access.per_name:
            return [self._count("everybody", "", NUM_FREE)]
        at = self._count("address", neighbourhood(address), NUM_FREE_OF_ADDRESS)
        return [self._count("name", name[:MAX_LENGTH], NUM_FREE), at]

    def _count(self, kind: str, text: str, num_free: int) -> _Failures:
        digest = hashlib.blake2b(
            text.encode("utf-8", "surrogatepass"), key=self._secret, digest_size=8
        ).digest()
        place = int.from_bytes(digest) % NUM_PLACES
        return self._failures.setdefault((kind, place), _Failures(num_free))

    def _begin(self, user: str, stamp: str) -> str:
        now, token = self._clock(), secrets.token_urlsafe(32)
        self._logins = {key: login for key, login in self._logins.items() if not login.is_over(now)}
        while len(self._logins) >= MAX_LOGINS:
            del self._logins[next(iter(self._logins))]
        self._logins[token] = _Login(user, stamp, now, now)
        return token

    def log_out(self, token: str) -> None:
        """End a log-in."""
        self._logins.pop(token, None)
