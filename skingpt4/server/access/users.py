"""The people who may log in: a private JSON file with their names, roles and password hashes.

`skingpt4 users` changes the file. A running server sees a change at the next request, so a disabled user is out at
once. Users are never removed, only disabled: an audit log names them, and no name should ever mean somebody else.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from skingpt4.records.blanks import is_blank
from skingpt4.server.access import passwords
from skingpt4.server.access.logins import MAX_LENGTH
from skingpt4.support.errors import UserError, reason_of
from skingpt4.support.files import now, private_files, write_text
from skingpt4.support.parse import parse_json
from skingpt4.support.regular import MAX_TEXT, read_regular

FORMAT = 1
ROLES = {
    "clinician": "consultation page and review form",
    "reviewer": "review form",
    "administrator": "consultation page",
}
PAGE_ROLES = ("clinician", "administrator")
REVIEW_ROLES = ("reviewer", "clinician")
MIN_PASSWORD = 12
LOCK_SECONDS = 10
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


class UsersError(UserError):
    """A users file or a change of it that cannot be used; the message says why."""


@dataclass(frozen=True)
class User:
    """One person.

    Attributes:
        name: as it is typed at the log-in, and as the audit log has it.
        role: one of ROLES.
        password: Argon2id hash; None for somebody whom only a proxy lets in.
        enabled: whether the user may log in.
        stamp: another one after each change of password, role or `enabled`, which ends open log-ins.
        created: UTC.
    """

    name: str
    role: str
    password: str | None
    enabled: bool
    stamp: str
    created: str


class Users:
    """The users of one file, read again whenever it has changed."""

    def __init__(self, path: str | Path, log: Callable[[str], object] = lambda name: None) -> None:
        """Use the users of a file.

        Args:
            path: of the file.
            log: called with the account that is about to change; what it raises leaves the file as it was.
        """
        self.path, self._log = Path(path), log
        self._read: tuple[object, dict[str, User]] = (None, {})

    def all(self) -> dict[str, User]:
        """All users by name, in the order in which they were added.

        Raises:
            UsersError: there is no such file, or it is damaged.
        """
        try:
            status = os.stat(self.path)
            seen = (status.st_ino, status.st_mtime_ns, status.st_size)
            if seen != self._read[0]:
                self._read = (seen, _parse(read_regular(self.path, MAX_TEXT)))
        except FileNotFoundError:
            raise UsersError(
                f"{self.path}: there is no such users file; make one with skingpt4 users --file {self.path} add NAME"
            ) from None
        except OSError as error:
            raise UsersError(f"{self.path}: cannot be read ({reason_of(error)})") from None
        except (ValueError, KeyError, TypeError) as error:
            raise UsersError(f"{self.path}: is damaged or not a users file ({error})") from None
        return self._read[1]

    # ---- log-ins

    def check(self, name: str, password: str) -> bool:
        """Whether this is the password of an enabled user; takes as long for a name that does not exist.

        Raises:
            UsersError: the file cannot be read.
        """
        user = self.all().get(name)
        stored = user.password.encode() if user and user.password else b""
        right = passwords.matches(password, b"", stored or passwords.nobodys_hash())
        if user is None or not (right and stored and user.enabled):
            return False
        if passwords.is_outdated(b"", stored):
            with suppress(UsersError, OSError), self._changing() as users:  # it can wait for the next log-in
                if users[name].password == user.password:
                    users[name] = replace(user, password=passwords.hashed(password).decode())
        return True

    def stamp(self, name: str, roles: Collection[str]) -> str | None:
        """The user's stamp; None for somebody who is unknown, disabled or of another role.

        Raises:
            UsersError: the file cannot be read.
        """
        user = self.all().get(name)
        return user.stamp if user and user.enabled and user.role in roles else None

    # ---- changes

    def add(self, name: str, role: str, password: str | None) -> None:
        """Add a user; without a password only a proxy can let this user in.

        Raises:
            UsersError: a name, role or password that will not do, or a name that is taken.
        """
        if not NAME.fullmatch(name) or is_blank(name):
            raise UsersError(
                f"user {name!r}: a name has up to 64 letters, digits, '.', '_', '@' and '-', and begins "
                "with a letter or digit; words for nothing, such as none and na, are no names"
            )
        _check_role(role)
        hashed = _hashed(name, password)
        with self._changing(create=True) as users:
            same = next((other for other in users if other.casefold() == name.casefold()), None)
            if same is not None:
                raise UsersError(
                    f"{self.path}: there is already a user {same}; names may not differ in case alone"
                )
            users[name] = User(name, role, hashed, True, _new_stamp(), now())
            self._log(name)

    def set_password(self, name: str, password: str) -> None:
        """Give a user another password, which ends the log-ins that are open.

        Raises:
            UsersError: no such user, or a password that will not do.
        """
        self.require(name)  # before the hash is made
        self._change(name, password=_hashed(name, password))

    def set_role(self, name: str, role: str) -> None:
        """Give a user another role, which ends the log-ins that are open.

        Raises:
            UsersError: no such user or role.
        """
        _check_role(role)
        self._change(name, role=role)

    def set_enabled(self, name: str, enabled: bool) -> None:
        """Let a user log in, or no longer; no longer ends the log-ins that are open.

        Raises:
            UsersError: no such user.
        """
        self._change(name, enabled=enabled)

    def require(self, name: str) -> User:
        """A user of this name.

        Raises:
            UsersError: there is none; the message lists those that there are.
        """
        users = self.all()
        if name not in users:
            known = ", ".join(users) or "none"
            raise UsersError(f"{self.path}: there is no user {name!r}; there are: {known}")
        return users[name]

    def _change(self, name: str, **changes: Any) -> None:
        with self._changing() as users:
            users[name] = replace(self.require(name), **changes, stamp=_new_stamp())
            self._log(name)

    @contextmanager
    def _changing(self, create: bool = False) -> Iterator[dict[str, User]]:
        """The users, written when the block ends without an error; one process at a time."""
        try:
            with private_files(), FileLock(self.path.with_name(f"{self.path.name}.lock"), LOCK_SECONDS):
                users = {} if create and not self.path.exists() else dict(self.all())
                yield users
                content = {"format": FORMAT, "users": [asdict(user) for user in users.values()]}
                write_text(self.path, json.dumps(content, indent=1) + "\n")
        except Timeout:
            raise UsersError(f"{self.path}: another program is changing it; try again in a moment") from None
        except OSError as error:
            raise UsersError(f"{self.path}: cannot be written ({reason_of(error)})") from None


def _new_stamp() -> str:
    return secrets.token_hex(8)


def _check_role(role: str) -> None:
    if role not in ROLES:
        raise UsersError(f"there is no role {role!r}; the roles are {', '.join(ROLES)}")


def _hashed(name: str, password: str | None) -> str | None:
    if password is None:
        return None
    if not MIN_PASSWORD <= len(password) <= MAX_LENGTH:
        raise UsersError(f"the password of {name} needs {MIN_PASSWORD} to {MAX_LENGTH} characters")
    if name.casefold() in password.casefold() and len(password) < len(name) + MIN_PASSWORD:
        raise UsersError(f"the password of {name} is too close to the name; choose another one")
    return passwords.hashed(password).decode()


def _parse(content: bytes) -> dict[str, User]:
    data = parse_json(content)
    if data["format"] != FORMAT:
        raise ValueError(f"its format is {data['format']!r}, not {FORMAT}")
    users = {}
    for row in data["users"]:
        user = User(**row)
        texts = (user.name, user.role, user.stamp, user.created)
        if not all(isinstance(text, str) for text in texts) or not isinstance(user.enabled, bool):
            raise TypeError("a field has the wrong type")
        if not isinstance(user.password, str | None) or user.role not in ROLES or user.name in users:
            raise ValueError(f"the entry of {user.name!r} cannot be used")
        users[user.name] = user
    return users
