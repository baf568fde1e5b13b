"""`drivegen info`, `models`, `samplers`, `objectives` and `tuners`: what a model holds, and what is installed."""

from __future__ import annotations

from typing import Annotated

import typer

from drivegen.cli.command import guarded, screen
from drivegen.support.errors import InputError


@guarded
def samplers() -> None:
    """List the installed samplers and their options. Imports none of them."""
    from drivegen.cli.show import show_samplers

    show_samplers(screen())


@guarded
def objectives() -> None:
    """List what a training may minimise, and the options. Imports none of them."""
    from drivegen.cli.show import show_objectives

    show_objectives(screen())


@guarded
def tuners() -> None:
    """List the small things that may be trained inside frozen networks, and their options. Imports none of them."""
    from drivegen.cli.show import show_tuners

    show_tuners(screen())


@guarded
def models() -> None:
    """List the models that come with the package: size, images, conditions, measured figures. Loads no weights."""
    from drivegen.cli.show import show_models

    show_models(screen())


@guarded
def info(model: Annotated[str, typer.Argument(help="'tiny' or a model folder.")] = "tiny") -> None:
    """Say what is inside a model."""
    from drivegen.cli.show import show_model
    from drivegen.saved.model import locate

    folder = locate(model)
    if not folder.is_dir():
        raise InputError(f"{folder} is a file; info reads model folders")
    show_model(screen(), folder)
