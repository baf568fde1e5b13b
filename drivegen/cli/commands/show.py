"""`drivegen info`, `models`, `samplers`, `objectives` and `tuners`: what a model holds, and what is installed."""

from __future__ import annotations

from typing import Annotated

import typer

from drivegen.cli.command import guarded, screen


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
def info(
    model: Annotated[str, typer.Argument(help="'tiny', a model folder, or a file or folder to add to one.")] = "tiny",
) -> None:
    """Say what is inside a model, or what a file is: a LoRA, a word, a hypernetwork, a plugin's weights."""
    from drivegen.cli.show import show_brought, show_model
    from drivegen.saved.model import locate

    path = locate(model)
    if path.is_dir() and (path / "model_index.json").is_file():
        show_model(screen(), path)
    else:
        show_brought(screen(), path)
