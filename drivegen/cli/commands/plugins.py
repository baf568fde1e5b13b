"""`drivegen plugins …`: list, show, check or begin plugins."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drivegen.cli.arguments import Out, PluginInputs, PluginOptions, path
from drivegen.cli.command import FAILED, guarded, quiet, screen

plugins = typer.Typer(
    name="plugins", help="List, show, check or begin plugins.", invoke_without_command=True, rich_markup_mode=None
)


@plugins.callback()
@guarded
def list_plugins(context: typer.Context) -> None:
    """List the installed plugins: kind, hooks, parameters, origin. Imports none of them."""
    if context.invoked_subcommand is None:
        from drivegen.cli.show import show_plugins

        show_plugins(screen())


@plugins.command("show")
@guarded
def show_plugin(kind: Annotated[str, typer.Argument(help="Kind of plugin, such as image_prompt.")]) -> None:
    """Show one plugin: what it does, its parameters, and what may be given to it with --input."""
    from drivegen.cli.show import show_plugin as show

    show(screen(), kind)


@plugins.command("new")
@guarded
def new_plugin(
    name: Annotated[str, typer.Argument(help="What the new kind is called, such as ego_plan.")],
    kind: Annotated[str, typer.Option(help="How it enters: tokens, residuals, tap or raster.")],
    out: Annotated[Path | None, typer.Option(parser=path, help="New or empty folder. Default: drivegen-NAME.")] = None,
) -> None:
    """Write the package of a new condition: a module that works, its entry point, a test, a training configuration."""
    from drivegen.catalog.scaffold import new_package

    folder = new_package(name, kind, out)
    screen().line(f"wrote {folder}; now: pip install -e {folder}, then: drivegen plugins check {name}")


@plugins.command("check")
@guarded
def check_plugin(
    kind: Annotated[str, typer.Argument(help="Kind of an installed plugin.")],
    options: PluginOptions = None,
    data: Annotated[
        Path | None, typer.Option(parser=path, help="Dataset whose frames are taken; without it, two built-in ones.")
    ] = None,
    given: PluginInputs = None,
    beside: Annotated[
        list[str] | None, typer.Option(metavar="KIND", help="A plugin that stands before it, such as text; may be repeated.")
    ] = None,
    model: Annotated[str, typer.Option(help="Whose networks it is attached to: 'tiny' or a model folder.")] = "tiny",
) -> None:
    """Check what every plugin promises, on the networks of a model. The status is 1 when a promise is broken."""
    from drivegen.cli.plugins import check

    quiet()
    if check(screen(), kind, options or (), given or (), beside or (), data, model):
        raise typer.Exit(FAILED)


@plugins.command("preview")
@guarded
def preview_plugin(
    kind: Annotated[str, typer.Argument(help="Kind of an installed plugin.")],
    data: Annotated[Path, typer.Option(parser=path, help="Dataset whose frame is drawn.")],
    out: Out,
    options: PluginOptions = None,
    given: PluginInputs = None,
    sample: Annotated[str | None, typer.Option(help="Sample token. Default: the first.")] = None,
    model: Annotated[str, typer.Option(help="'tiny' or a model folder; sheets are made where it has the plugin.")] = "tiny",
    steps: Annotated[int | None, typer.Option(help="Denoising steps of the sheets.")] = None,
) -> None:
    """Draw what a plugin prepares of a frame over its pictures, and views with the condition, null and absent."""
    from drivegen.cli.plugins import preview

    quiet()
    preview(screen(), kind, data, out, options or (), given or (), sample, model, steps)
