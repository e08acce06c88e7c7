"""Project keys: how they are made, and what of them is kept. No I/O.

A key is 192 random bits, so nobody can guess it or find it in a dictionary, and its SHA-256 says nothing
about it: the slow and salted hashes that passwords need would only cost time here, at every look-up. Keys
are compared by looking their hash up in an index. How long that takes depends on the hash, which a caller
cannot steer towards a stored one byte by byte, so it tells nothing about stored keys.
"""

from __future__ import annotations

import hashlib
import secrets

_RANDOM_BYTES = 24
_SCHEME = "opk_"

PREFIX_CHARACTERS = len(_SCHEME) + 8
"""What is shown of a key: enough to tell the keys of a project apart, and 144 bits short of the key."""

MIN_PREFIX_CHARACTERS = len(_SCHEME) + 4
"""As much of a key names it where no other key of the project begins so."""

MAX_KEYS = 10
"""Keys of one project that may be valid at once."""


def fresh_key() -> str:
    """A new key, such as `opk_kThRYVPEFnpVm6miA0tkfj_O4Tt1o_sH`."""
    return _SCHEME + secrets.token_urlsafe(_RANDOM_BYTES)


def key_hash(key: str) -> bytes:
    """32 bytes, for any text."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def key_prefix(key: str) -> str:
    """The part of a key that may be shown."""
    return key[:PREFIX_CHARACTERS]
