"""Random draws that depend on their purpose alone: not on order, process, or other draws."""

from __future__ import annotations

import hashlib
import random


def seed_of(*parts: object) -> int:
    """Return the first 63 bits of the SHA-256 of the parts, as a seed."""
    found = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(found[:8], "big") >> 1


def draw(*parts: object) -> random.Random:
    """Return a generator for one purpose, named by the parts."""
    return random.Random(seed_of(*parts))
