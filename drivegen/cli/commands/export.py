"""`drivegen export` and `drivegen exporters`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drivegen.cli.arguments import Version, path
from drivegen.cli.command import guarded, screen


@guarded
def export(
    root: Annotated[Path, typer.Argument(parser=path, help="Folder of a nuScenes-format dataset.")],
    out: Annotated[Path, typer.Option(parser=path, help="Folder to write into; it may be ROOT, and may hold other files.")],
    format: Annotated[
        str,
        typer.Option(help="coco, mmdet3d, bevfusion, streampetr, bevformer, or another one that `drivegen exporters` lists."),
    ],
    version: Version = None,
    prefix: Annotated[
        str, typer.Option(help="Goes before every path: ROOT as the trainer finds it from its working folder.")
    ] = "data/nuscenes",
    train: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Split or scene to train on; may be repeated. Default: see docs.")
    ] = None,
    val: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Split or scene for validation.")] = None,
    test: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Split or scene for testing: without annotations.")
    ] = None,
    options: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="An option of the format; may be repeated.")
    ] = None,
    skip_missing: Annotated[
        bool, typer.Option("--skip-missing", help="Leave out scenes of which a picture is missing.")
    ] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Write over files of the same names.")] = False,
) -> None:
    """Write the annotation files that a detector's training code reads."""
    from drivegen.cli import export as work

    splits = {"train": train or [], "val": val or [], "test": test or []}
    work.export(root, out, format, options or [], version, prefix, splits, skip_missing, replace, screen())


@guarded
def exporters() -> None:
    """List the installed formats of `drivegen export` and their options. Imports none of them."""
    from drivegen.cli.show import show_exporters

    show_exporters(screen())
