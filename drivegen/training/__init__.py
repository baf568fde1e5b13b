"""Training: a config in, a run folder out; the LightningModule and LightningDataModule also work with a Trainer of your own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def run(config: str | Path, overrides: Sequence[str] = (), resume: str | Path | None = None) -> int:
    """Train as a config says; returns the exit status (0, or 130/143 after an interrupt whose state was saved).

    resume is None (a new run), ``auto`` (the output folder's last checkpoint, or a new run where there is none) or a checkpoint
    file. Raises InputError for bad input, before any work.
    """
    from drivegen.training.runner import run as start

    return start(Path(config), tuple(overrides), None if resume is None else str(resume))


def export(checkpoint: str | Path, out: str | Path) -> Path:
    """Write ``out/model`` from a checkpoint: what the run would have saved, had it ended there; returns the folder."""
    from drivegen.training.runner import export as write

    return write(Path(checkpoint), Path(out))
