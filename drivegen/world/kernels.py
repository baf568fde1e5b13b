"""Keeps numba's cache honest: it knows the file of a compiled function, but not those of the functions that it calls."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

_STAMP = "drivegen-world.sha256"


def drop_stale(cache: str | Path) -> bool:
    """Remove this package's compiled functions from a cache folder unless its sources are those they were compiled from.

    Returns whether anything had to go. A folder that cannot be written is left alone.
    """
    cache, sources = Path(cache), sorted(Path(__file__).parent.glob("*.py"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    stamp = cache / _STAMP
    with contextlib.suppress(OSError):
        if stamp.is_file() and stamp.read_text() == digest:
            return False
        for path in cache.glob("*.nb[ic]"):
            if path.name.split(".")[0] in {source.stem for source in sources}:
                path.unlink(missing_ok=True)
        cache.mkdir(parents=True, exist_ok=True)
        temporary = cache / f"{_STAMP}.{os.getpid()}"
        temporary.write_text(digest)
        os.replace(temporary, stamp)
        return True
    return False
