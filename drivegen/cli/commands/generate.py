"""`drivegen generate` and `drivegen edit`: pictures of scenes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from drivegen.cli import options
from drivegen.cli.arguments import ComputeDtype, Data, Device, Model, Out, Version, path
from drivegen.cli.command import guarded, quiet, screen


@guarded
@options.generation_options
def generate(
    out: Out,
    data: Data = None,
    version: Version = None,
    scene: Annotated[str | None, typer.Option(help="Scene name or token.")] = None,
    sample: Annotated[list[str] | None, typer.Option(help="Sample token; may be repeated. Default: the first.")] = None,
    all_samples: Annotated[bool, typer.Option("--all", help="Every sample of the scene, or of the dataset.")] = False,
    num: Annotated[int | None, typer.Option(help="At most this many samples.")] = None,
    model: Model = "tiny",
    config: Annotated[
        Path | None, typer.Option(parser=path, help="Folder with the configurations of a single-file checkpoint.")
    ] = None,
    vae: Annotated[
        Path | None, typer.Option(parser=path, help="Folder or file of a VAE that replaces the model's own.")
    ] = None,
    variant: Annotated[str | None, typer.Option(help="Which weight files of a folder, such as fp16.")] = None,
    prediction_type: Annotated[
        str | None, typer.Option(help="epsilon, v_prediction or sample, where a model does not say it, or wrongly.")
    ] = None,
    refiner: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="A second model that computes the last steps, as SDXL's refiner.")
    ] = None,
    plugin: Annotated[
        list[str] | None, typer.Option(metavar="[NAME=]FOLDER", help="Add a plugin saved alone: its folder, file or hub id.")
    ] = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="Take the model's student of few steps: a tenth of the network's time.")
    ] = False,
    lora: Annotated[list[str] | None, typer.Option(metavar="FILE[=SCALE]", help="Add a LoRA; may be repeated.")] = None,
    tuner: Annotated[
        list[str] | None, typer.Option(metavar="FILE[=SCALE]", help="Add a hypernetwork, Custom Diffusion or another tuner.")
    ] = None,
    embedding: Annotated[
        list[str] | None, typer.Option(metavar="[WORD=]FILE", help="Teach a textual inversion's word; may be repeated.")
    ] = None,
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda or mps; several, which share the frames, as cuda:0,cuda:1.")
    ] = "auto",
    dtype: ComputeDtype = "auto",
    offload: Annotated[bool, typer.Option("--offload", help="Keep text encoder and VAE in main memory until used.")] = False,
    **settings: Any,
) -> None:
    """Generate what every camera of a scene would see."""
    given = options.read(settings)

    from drivegen.cli import generate as work
    from drivegen.support.runtime import choose_devices

    selection = work.Selection(data, version, scene, tuple(sample or ()), all_samples, num)
    quiet()
    added = (tuple(plugin or ()), tuple(lora or ()), tuple(tuner or ()), tuple(embedding or ()))
    devices = choose_devices(device)
    where = work.Where(model, devices[0], dtype, offload, config, *added, vae, variant, prediction_type, refiner, fast)
    others = None if len(devices) == 1 else work.Others.of(devices, out, selection, where, settings)
    work.generate(out, selection, given, where, screen(), others)


@guarded
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
    steps: Annotated[int | None, typer.Option(min=1, help="Denoising steps. Default: the model's.")] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Guidance scale. Default: the model's; after an inversion none.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the noise, where none is found by inversion.")] = 0,
    model: Model = "tiny",
    device: Device = "auto",
    dtype: ComputeDtype = "auto",
) -> None:
    """Edit a recorded frame: put objects in, take them away, move or replace them in every camera; the rest stays."""
    from drivegen.cli import edit as work
    from drivegen.cli.generate import Selection, Where
    from drivegen.edit.script import Entry, read_script
    from drivegen.support.errors import InputError

    given = {"remove": remove, "insert": insert, "move": move, "replace": replace, "mask": mask}
    if script is not None:
        said = [f"--{name}" for name, value in {"sample": sample, "prompt": prompt, **given}.items() if value]
        if said:
            raise InputError(f"--script says what is edited of which frame, and {said[0]} does too; write it in {script}")
        entries = read_script(script)
    else:
        words = {name: tuple(value or ()) for name, value in given.items()}
        entries = [Entry(sample=sample, prompt=prompt, **words)]  # type: ignore[arg-type]
    quiet()
    selection = Selection(data, version)
    settings = {"steps": steps, "guidance": guidance, **({} if invert else {"seed": seed})}
    work.edit(
        out, selection, entries, Where(model, device, dtype), screen(), settings,
        iterations if invert else None,
    )  # fmt: skip
