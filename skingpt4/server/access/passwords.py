"""How passwords are stored: Argon2id with a salt of its own, at the cost that argon2-cffi recommends today.

Files from before Argon2 hold scrypt hashes with a salt beside each; they still let their owners in.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import secrets

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

HASHER = PasswordHasher()


def hashed(password: str) -> bytes:
    """A new hash, which holds its salt and cost."""
    return HASHER.hash(_encoded(password)).encode("ascii")


@functools.cache
def nobodys_hash() -> bytes:
    """A hash that no password has, for names that do not exist."""
    return hashed(secrets.token_urlsafe(32))


def matches(password: str, salt: bytes, stored: bytes) -> bool:
    """Whether a stored hash is this password's; no takes as long for each hash. `salt` is empty for Argon2id."""
    if salt and hmac.compare_digest(_scrypt(password, salt), stored):
        return True
    try:
        return HASHER.verify(nobodys_hash() if salt else stored, _encoded(password))
    except (VerificationError, InvalidHashError):
        return False


def is_outdated(salt: bytes, stored: bytes) -> bool:
    """Whether a hash is from before Argon2, or has another cost than today's."""
    return bool(salt) or HASHER.check_needs_rehash(stored)


def _scrypt(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(_encoded(password), salt=salt, n=2**14, r=8, p=1, dklen=32)


def _encoded(password: str) -> bytes:
    return password.encode("utf-8", "surrogatepass")
