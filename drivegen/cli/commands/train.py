"""`drivegen train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drivegen.cli.arguments import path
from drivegen.cli.command import guarded, screen
from drivegen.support.errors import InputError


@guarded
def train(
    config: Annotated[Path, typer.Argument(parser=path, help="YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings in place of the file's.")
    ] = None,
    resume: Annotated[str | None, typer.Option(help="'auto' for the run's last checkpoint, or a checkpoint file.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would train, each setting's origin, parameters and memory, and stop.")
    ] = False,
) -> None:
    """Train what a configuration says."""
    from drivegen import training

    if dry_run:
        if resume is not None:
            raise InputError("--dry-run describes a training and --resume goes on with one; give one of them")
        for line in training.describe(config, overrides or ()).splitlines():
            screen().line(line)
        return
    status = training.run(config, overrides or (), resume)
    if status:
        raise typer.Exit(status)
