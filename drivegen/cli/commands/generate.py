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
    plugin: Annotated[
        list[str] | None, typer.Option(metavar="[NAME=]FOLDER", help="Add a plugin saved alone: its folder, file or hub id.")
    ] = None,
    lora: Annotated[list[str] | None, typer.Option(metavar="FILE[=SCALE]", help="Add a LoRA; may be repeated.")] = None,
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
    added = (tuple(plugin or ()), tuple(lora or ()), tuple(embedding or ()))
    devices = choose_devices(device)
    where = work.Where(model, devices[0], dtype, offload, config, *added, vae, variant, prediction_type)
    others = None if len(devices) == 1 else work.Others.of(devices, out, selection, where, settings)
    work.generate(out, selection, given, where, screen(), others)


@guarded
def edit(
    out: Out,
    data: Data = None,
    sample: Annotated[str | None, typer.Option(help="Sample token. Default: the first.")] = None,
    prompt: Annotated[str | None, typer.Option(help="Text in place of the frame's description.")] = None,
    move: Annotated[
        list[str] | None, typer.Option(metavar="INSTANCE=FORWARD,LEFT", help="Move a box, in metres; may be repeated.")
    ] = None,
    remove: Annotated[list[str] | None, typer.Option(metavar="INSTANCE", help="Take a box away; may be repeated.")] = None,
    invert: Annotated[
        bool, typer.Option("--invert", help="Start from the noise of the recorded pictures, which keeps what is not edited.")
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
    """Generate a recorded frame again with another prompt, or with boxes moved or taken away."""
    from drivegen.cli import edit as work
    from drivegen.cli.generate import Selection, Where

    edits = work.Edits(prompt, tuple(move or ()), tuple(remove or ()))
    quiet()
    selection = Selection(data, None, None, () if sample is None else (sample,))
    settings = {"steps": steps, "guidance": guidance, **({} if invert else {"seed": seed})}
    work.edit(out, selection, edits, Where(model, device, dtype), screen(), settings, iterations if invert else None)
