"""Seeds that depend on what is scored and on nothing else."""

from __future__ import annotations

import hashlib

import numpy as np


def stable_seed(*parts: object) -> int:
    """A 63-bit seed from the text of `parts`: equal on every machine, Python version and process.

    Python's own `hash` is salted per process, so it cannot serve. Parts are joined with a separator that
    cannot occur in a name, so that ("ab", "c") and ("a", "bc") differ.
    """
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def stable_rng(*parts: object) -> np.random.RandomState:
    """A generator seeded by `stable_seed(*parts)`.

    `RandomState`, because numpy guarantees that its streams never change; those of `Generator` may.
    """
    seed = stable_seed(*parts)
    return np.random.RandomState(np.array([seed >> 32, seed & 0xFFFFFFFF], dtype=np.uint32))
