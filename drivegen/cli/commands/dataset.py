"""`drivegen world`, `validate`, `synthesize` and `verify`: datasets that are made, and what is wrong with one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drivegen.cli.arguments import ComputeDtype, Model, Version, path
from drivegen.cli.command import BAD_INPUT, guarded, quiet, screen


@guarded
def world(
    out: Annotated[Path, typer.Argument(parser=path, help="New or empty folder to write the dataset into.")],
    scenes: Annotated[int, typer.Option(help="Number of scenes.")] = 10,
    frames: Annotated[int, typer.Option(help="Samples of each scene, at 2 Hz.")] = 4,
    seed: Annotated[int, typer.Option(help="Which city; the same seed gives the same bytes.")] = 0,
    size: Annotated[str, typer.Option(metavar="HEIGHTxWIDTH", help="Size of each image.")] = "128x224",
    workers: Annotated[int | None, typer.Option(help="Processes; default one per core.")] = None,
    wording: Annotated[str, typer.Option(help="How scenes are described: plain, always in one form, or varied.")] = "plain",
) -> None:
    """Write a dataset of the procedural city in the nuScenes format."""
    from drivegen import world as city
    from drivegen.pipeline.spelling import read_size

    city.write(out, scenes, frames, seed, read_size(size), workers, wording)
    screen().line(f"{scenes} scenes of {frames} frames in {out}")


@guarded
def crops(
    dataroot: Annotated[Path, typer.Argument(parser=path, help="Folder of the dataset.")],
    out: Annotated[Path, typer.Argument(parser=path, help="New or empty folder for the pictures.")],
    category: Annotated[
        list[str] | None, typer.Option(help="Detection class, or a category or its beginning; may be repeated.")
    ] = None,
    size: Annotated[str, typer.Option(metavar="HEIGHTxWIDTH", help="Size of the pictures.")] = "256x256",
    margin: Annotated[float, typer.Option(help="What is shown around an object, as a share of its longer side.")] = 0.15,
    least_px: Annotated[float, typer.Option("--least", help="Least longer side of an object, in recorded pixels.")] = 48,
    visible: Annotated[float, typer.Option(help="Least share of an object that its camera sees, 0 to 1.")] = 0.6,
    num: Annotated[int | None, typer.Option(min=1, help="At most this many, the largest.")] = None,
    version: Version = None,
) -> None:
    """Cut objects out of recorded frames, of every camera, with their boxes: a dataset of a subject to train on."""
    from drivegen.cli.crops import cut
    from drivegen.crops import Wanted
    from drivegen.pipeline.spelling import read_size

    quiet()
    wanted = Wanted(categories=tuple(category or ()), size=read_size(size), margin=margin, least_px=least_px, visible=visible)
    cut(dataroot, out, wanted, version, num, screen())


@guarded
def validate(
    root: Annotated[Path, typer.Argument(parser=path, help="Folder of a nuScenes-format dataset.")],
    version: Version = None,
) -> None:
    """List everything that is wrong with a dataset. The status is 2 when there is an error."""
    from drivegen.cli.show import show_problems
    from drivegen.datasets import nuscenes

    if show_problems(screen(), nuscenes.validate(root, version), root):
        raise typer.Exit(BAD_INPUT)


@guarded
def synthesize(
    dataroot: Annotated[Path, typer.Argument(parser=path, help="Folder of the source dataset.")],
    out: Annotated[
        Path, typer.Argument(parser=path, help="Folder of the dataset that is made: new, or that of a run that was ended.")
    ],
    recipe: Annotated[Path, typer.Option(parser=path, help="YAML file that says what is made of each scene.")],
    plan: Annotated[bool, typer.Option("--plan", help="Say what would be made, and stop.")] = False,
    audit: Annotated[
        bool, typer.Option("--audit", help="Hold labels against the pictures, as the recipe's audit says; default: by flags.")
    ] = False,
    version: Annotated[str | None, typer.Option(help="Dataset version, where the source has several.")] = None,
    model: Model = "tiny",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps; several, one worker each, as cuda:0,cuda:1.")] = "auto",
    dtype: ComputeDtype = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of each worker's networks. Default: those of the plan, else 1.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes. Default: one per device; on the CPU one per core, as far as memory allows."),
    ] = None,
    engine: Annotated[str, typer.Option(help="local: processes of this machine; ray: tasks of Ray Core.")] = "local",
    address: Annotated[
        str | None, typer.Option(help="Of a Ray cluster that sees the same folders. Default: Ray is started here.")
    ] = None,
) -> None:
    """Make a labelled dataset of another one: edited scenes, generated images, annotations that follow.

    The same command goes on after an end of any kind. The status is 1 when frames failed three times and were set aside.
    """
    from drivegen.cli import synthesize as work

    quiet()
    hands = work.Hands(workers, threads, device, engine, address)
    work.synthesize(dataroot, out, recipe, plan, version, model, dtype, hands, screen(), audit)


@guarded
def verify(out: Annotated[Path, typer.Argument(parser=path, help="Folder of a dataset that synthesize made.")]) -> None:
    """Check a synthetic dataset: every file, its images' provenance, its tables. The status is 2 when there is an error."""
    from drivegen import synthesis
    from drivegen.cli.show import show_problems

    if show_problems(screen(), synthesis.verify(out), out):
        raise typer.Exit(BAD_INPUT)
