"""Keeps numba's cache valid: it checks the file of a compiled function, but not those of the functions that it calls."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

from drivegen.support.errors import InputError
from drivegen.support.files import write_atomically

_STAMP = "drivegen-world.sha256"


def sources_digest() -> str:
    """Return a digest of this package's code."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in _sources())).hexdigest()


def _sources() -> list[Path]:
    return sorted(Path(__file__).parent.glob("*.py"))


def drop_stale(cache: str | Path) -> bool:
    """Remove this package's compiled functions from a cache folder unless its sources are those they were compiled from.

    Returns whether anything had to go. A folder that cannot be written is left alone.
    """
    cache, sources, digest = Path(cache), _sources(), sources_digest()
    stamp = cache / _STAMP
    with contextlib.suppress(OSError, InputError):
        if stamp.is_file() and stamp.read_text() == digest:
            return False
        for path in cache.glob("*.nb[ic]"):
            if path.name.split(".")[0] in {source.stem for source in sources}:
                path.unlink(missing_ok=True)
        cache.mkdir(parents=True, exist_ok=True)
        write_atomically(stamp, digest.encode(), sync=False)
        return True
    return False
