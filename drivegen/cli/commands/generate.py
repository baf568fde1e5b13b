"""`drivegen generate` and `drivegen edit`: pictures of scenes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from drivegen.cli import options
from drivegen.cli.arguments import ComputeDtype, Data, Device, Model, Offload, Out, Version, path
from drivegen.cli.command import guarded, quiet, screen


@guarded
@options.generation_options()
def generate(
    out: Out,
    data: Data = None,
    version: Version = None,
    scene: Annotated[str | None, typer.Option(help="Scene name or token.")] = None,
    sample: Annotated[list[str] | None, typer.Option(help="Sample token; may be repeated. Default: the first.")] = None,
    all_samples: Annotated[bool, typer.Option("--all", help="Every sample of the scene, or of the dataset.")] = False,
    num: Annotated[int | None, typer.Option(help="At most this many samples.")] = None,
    model: Model = "tiny",
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda or mps; several, which share the frames, as cuda:0,cuda:1.")
    ] = "auto",
    dtype: ComputeDtype = "auto",
    offload: Offload = False,
    **given: Any,
) -> None:
    """Generate what every camera of a scene would see."""
    added, settings = options.split(given)
    read = options.read(settings)

    from drivegen.cli import generate as work
    from drivegen.support.runtime import choose_devices

    selection = work.Selection(data, version, scene, tuple(sample or ()), all_samples, num)
    quiet()
    devices = choose_devices(device)
    where = work.Where(model, devices[0], dtype, offload, **added)
    others = None if len(devices) == 1 else work.Others.of(devices, out, selection, where, settings)
    work.generate(out, selection, read, where, screen(), others)


@guarded
@options.generation_options(without=("repeats",))
def edit(
    out: Out,
    data: Data = None,
    version: Version = None,
    sample: Annotated[str | None, typer.Option(help="Sample token. Default: the first.")] = None,
    remove: Annotated[list[str] | None, typer.Option(metavar="INSTANCE", help="Take an object away; may be repeated.")] = None,
    insert: Annotated[
        list[str] | None,
        typer.Option(metavar="CLASS:X,Y,YAW", help="Put an object in: metres ahead and to the left, degrees; may be repeated."),
    ] = None,
    move: Annotated[
        list[str] | None,
        typer.Option(metavar="INSTANCE:DX,DY,DYAW", help="Move an object ahead and to the left, and turn it; may be repeated."),
    ] = None,
    replace: Annotated[
        list[str] | None,
        typer.Option(metavar="INSTANCE:CLASS", help="Put an object of another class in one's place; may be repeated."),
    ] = None,
    mask: Annotated[
        list[str] | None,
        typer.Option(metavar="CAMERA[:FILE]", help="Draw what is white in a file anew, or all of a picture; may be repeated."),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CAMERA[:FILE]", help="Leave what is white as recorded: the vehicle's body, say; may be repeated."
        ),
    ] = None,
    script: Annotated[
        Path | None,
        typer.Option(parser=path, metavar="EDITS.YAML", help="Edits of many frames, in place of those above."),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="Text in place of the frame's description; alone, the whole frame is generated again.")
    ] = None,
    invert: Annotated[
        bool, typer.Option("--invert", help="Generate the whole frame again, from the noise of the recorded pictures.")
    ] = False,
    iterations: Annotated[int, typer.Option(min=1, max=100, help="Evaluations per step of the inversion.")] = 4,
    model: Model = "tiny",
    device: Device = "auto",
    dtype: ComputeDtype = "auto",
    offload: Offload = False,
    **given: Any,
) -> None:
    """Edit a recorded frame: put objects in, take them away, move or replace them in every camera; the rest stays."""
    from drivegen.cli import edit as work
    from drivegen.cli.generate import Selection, Where
    from drivegen.edit.script import Entry, read_script
    from drivegen.support.errors import InputError

    added, settings = options.split(given)
    how = options.read(settings)
    edits = {"remove": remove, "insert": insert, "move": move, "replace": replace, "mask": mask, "keep": keep}
    if script is not None:
        said = [f"--{name}" for name, value in {"sample": sample, "prompt": prompt, **edits}.items() if value]
        if said:
            raise InputError(f"--script says what is edited of which frame, and {said[0]} does too; write it in {script}")
        entries = read_script(script)
    else:
        words = {name: tuple(value or ()) for name, value in edits.items()}
        entries = [Entry(sample=sample, prompt=prompt, **words)]  # type: ignore[arg-type]
    quiet()
    where = Where(model, device, dtype, offload, **added)
    work.edit(out, Selection(data, version), entries, where, screen(), how, iterations if invert else None)
