"""Missing files: looked for in every frame before any work, and reported all at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from drivegen.support.errors import InputError

NAMED = 60
"""As many missing files are named one by one; of more, each folder's count and first name."""


def refuse_missing(missing: Mapping[str, Sequence[Path]], frames: int) -> None:
    """Raise InputError that lists every missing file, where there is one.

    Args:
        missing: by sample token, the files that are not there.
        frames: how many frames were looked at.
    """
    files = [(token, path) for token, paths in missing.items() for path in paths]
    if not files:
        return
    if len(files) <= NAMED:
        lines = [f"  {path} (sample {token})" for token, path in files]
    else:
        folders = Counter(path.parent for _, path in files)
        first = {path.parent: path.name for _, path in reversed(files)}
        lines = [f"  {folder}: {count} files, {first[folder]} the first" for folder, count in folders.most_common()]
    count = "1 file is" if len(files) == 1 else f"{len(files)} files are"
    mend = "restore them, or leave these frames out with data.skip_missing=true"
    raise InputError("\n".join([f"{count} missing, of {len(missing)} of {frames} frames; {mend}:", *lines]))


def refuse_all(faults: Sequence[InputError | OSError], frames: int) -> None:
    """Raise what was wrong with frames that could not be read: the fault itself where it is one, else one that lists all."""
    if len(faults) == 1:
        raise faults[0]
    if faults:
        lines = list(dict.fromkeys(f"  {fault}" for fault in faults))
        more = [f"  … and {len(lines) - NAMED} more"] if len(lines) > NAMED else []
        raise InputError("\n".join([f"{len(faults)} of {frames} frames cannot be read:", *lines[:NAMED], *more]))
