"""The output folder of a run is never overwritten by mistake."""

from __future__ import annotations

from pathlib import Path

from drivegen.support.errors import InputError


def resume_from(folder: Path, resume: str | None) -> Path | None:
    """Return the checkpoint to resume from, or None for a new run.

    Raises InputError when the named one is missing, and when a new run would overwrite an old one.
    """
    last = folder / "last.ckpt"
    if resume == "auto":
        return last if last.is_file() else None
    if resume is not None:
        if not Path(resume).is_file():
            raise InputError(f"there is no checkpoint {resume} to resume from")
        return Path(resume)
    if last.exists():
        raise InputError(f"{folder} holds a run already ({last.name}); go on with --resume auto, or choose another output")
    return None
