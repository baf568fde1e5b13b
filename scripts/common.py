"""What the scripts that measure have in common: their options, and how they end."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from drivegen.support.errors import InputError

Model = Annotated[str, typer.Argument(help="'tiny', a model folder, or what `drivegen generate --model` takes")]
Seed = Annotated[int, typer.Option(help="seed of the city; models must not have been trained on it")]
Steps = Annotated[int | None, typer.Option(help="sampling steps; the model's own if left out")]
TrainData = Annotated[Path, typer.Option("--data", help="dataset of the city to train on; rendered where it is missing")]
TrainScenes = Annotated[int, typer.Option(help="scenes of one frame to render there")]
DataSeed = Annotated[int, typer.Option(help="their city")]
Cache = Annotated[Path, typer.Option(help="latents and arrays; may be shared with other trainings")]
Minutes = Annotated[float | None, typer.Option(help="after which nothing more begins; all of it if left out")]
RefereeData = Annotated[list[Path], typer.Option("--data", help="dataset of `drivegen world` to train on; may be repeated")]
HeldOut = Annotated[Path, typer.Option(help="dataset of another seed to check on")]
RefereeOut = Annotated[Path, typer.Option(help="weights; a JSON file with sha256 and metrics goes beside them")]
State = Annotated[Path, typer.Option(help="what an interrupted run goes on from")]
Threads = Annotated[int, typer.Option(help="0: as many as torch takes")]
UNSEEN = 20261
"""The city's seed that models are measured on."""


def run(main: Callable[..., None]) -> None:
    """Run a script's main function: bad input ends it with one line and status 2, Ctrl-C with status 130."""
    try:
        typer.run(main)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
