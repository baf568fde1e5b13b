"""Training: from a config to a run folder; the LightningModule and LightningDataModule also work with a Trainer of your own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def run(config: str | Path, overrides: Sequence[str] = (), resume: str | Path | None = None) -> int:
    """Train as a config says; returns the exit status (0, or 130/143 after an interrupt whose state was saved).

    Args:
        config: the YAML file.
        overrides: ``key=value`` settings that replace the file's.
        resume: None starts a new run; ``auto`` continues from the output folder's last checkpoint, or starts a new run where
            there is none; a path names the checkpoint file.

    Raises InputError for bad input, before any work.
    """
    from drivegen.training.runner import run as start

    return start(Path(config), tuple(overrides), None if resume is None else str(resume))


def describe(config: str | Path, overrides: Sequence[str] = ()) -> str:
    """Return what a training would do, without doing it: every setting and its origin, what trains, parameters, memory.

    Nothing is written, and of the data only tables are read, where frames are put into buckets; raises InputError as `run`
    would before that.
    """
    from drivegen.training.dry_run import dry_run

    return "\n".join(dry_run(Path(config), tuple(overrides)))


def export(checkpoint: str | Path, out: str | Path) -> Path:
    """Write ``out/model`` from a checkpoint, as the run would have at that step; returns the folder."""
    from drivegen.training.runner import export as write

    return write(Path(checkpoint), Path(out))
