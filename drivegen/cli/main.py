"""The command line: each command imports what it needs when it runs."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from drivegen.cli import options
from drivegen.cli.options import generation_options, path
from drivegen.cli.screen import Screen, complain
from drivegen.support.errors import CannotGoOn, InputError
from drivegen.support.signals import INTERRUPTED

app = typer.Typer(
    name="drivegen", help="Camera images of driving scenes, under many conditions at once.", no_args_is_help=True,
    add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
)  # fmt: skip

FAILED, BAD_INPUT = 1, 2


def _screen() -> Screen:
    return Screen()


def _guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Turn bad input into one line and status 2, Ctrl-C into status 130; anything else is a bug and shows where it is."""

    @functools.wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> None:
        warnings.showwarning = _warn
        try:
            command(*args, **kwargs)
        except InputError as error:
            complain(f"error: {error}")
            raise typer.Exit(BAD_INPUT) from error
        except OSError as error:
            where = f" {error.filename}" if error.filename else ""
            complain(f"error: {error.strerror or error}{where}")
            raise typer.Exit(BAD_INPUT) from error
        except CannotGoOn as error:
            complain(f"error: {error}")
            raise typer.Exit(FAILED) from error
        except KeyboardInterrupt as error:
            complain("interrupted")
            raise typer.Exit(INTERRUPTED) from error

    return guarded


def _warn(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    # Deprecations are for developers; what a user can act on is a UserWarning.
    if issubclass(category, UserWarning):
        complain(f"warning: {message}")


def _quiet() -> None:
    """Keep transformers' and diffusers' remarks about themselves off the screen."""
    import transformers
    from diffusers.utils import logging

    transformers.logging.set_verbosity_error()
    logging.set_verbosity_error()


@app.command()
@_guarded
@generation_options
def generate(
    out: Annotated[Path, typer.Option(parser=path, help="Folder to write into.")],
    data: Annotated[
        Path | None, typer.Option(parser=path, help="nuScenes-format dataset; without it, a built-in scene.")
    ] = None,
    version: Annotated[str | None, typer.Option(help="Dataset version, where the root has several.")] = None,
    scene: Annotated[str | None, typer.Option(help="Scene name or token.")] = None,
    sample: Annotated[list[str] | None, typer.Option(help="Sample token; may be repeated. Default: the first.")] = None,
    all_samples: Annotated[bool, typer.Option("--all", help="Every sample of the scene, or of the dataset.")] = False,
    num: Annotated[int | None, typer.Option(help="At most this many samples.")] = None,
    model: Annotated[str, typer.Option(help="'tiny', a model folder, or a single-file checkpoint.")] = "tiny",
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
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda or mps; several, which share the frames, as cuda:0,cuda:1.")
    ] = "auto",
    dtype: Annotated[
        str, typer.Option(help="auto (bfloat16 where the processor has it), float32, bfloat16 or float16.")
    ] = "auto",
    offload: Annotated[bool, typer.Option("--offload", help="Keep text encoder and VAE in main memory until used.")] = False,
    **settings: Any,
) -> None:
    """Generate what every camera of a scene would see."""
    given = options.read(settings)

    from drivegen.cli import generate as work
    from drivegen.support.runtime import choose_devices

    selection = work.Selection(data, version, scene, tuple(sample or ()), all_samples, num)
    _quiet()
    added = (tuple(plugin or ()), tuple(lora or ()))
    devices = choose_devices(device)
    where = work.Where(model, devices[0], dtype, offload, config, *added, vae, variant, prediction_type)
    others = None if len(devices) == 1 else work.Others.of(devices, out, selection, where, settings)
    work.generate(out, selection, given, where, _screen(), others)


@app.command()
@_guarded
def edit(
    out: Annotated[Path, typer.Option(parser=path, help="Folder to write into.")],
    data: Annotated[
        Path | None, typer.Option(parser=path, help="nuScenes-format dataset; without it, a built-in scene.")
    ] = None,
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
    model: Annotated[str, typer.Option(help="'tiny', a model folder, or a single-file checkpoint.")] = "tiny",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    dtype: Annotated[
        str, typer.Option(help="auto (bfloat16 where the processor has it), float32, bfloat16 or float16.")
    ] = "auto",
) -> None:
    """Generate a recorded frame again with another prompt, or with boxes moved or taken away."""
    from drivegen.cli import edit as work
    from drivegen.cli.generate import Selection, Where

    edits = work.Edits(prompt, tuple(move or ()), tuple(remove or ()))
    _quiet()
    selection = Selection(data, None, None, () if sample is None else (sample,))
    settings = {"steps": steps, "guidance": guidance, **({} if invert else {"seed": seed})}
    work.edit(out, selection, edits, Where(model, device, dtype), _screen(), settings, iterations if invert else None)


@app.command()
@_guarded
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
    _screen().line(f"{scenes} scenes of {frames} frames in {out}")


@app.command()
@_guarded
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
            _screen().line(line)
        return
    status = training.run(config, overrides or (), resume)
    if status:
        raise typer.Exit(status)


@app.command()
@_guarded
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
    model: Annotated[str, typer.Option(help="'tiny', a model folder, or a single-file checkpoint.")] = "tiny",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps; several, one worker each, as cuda:0,cuda:1.")] = "auto",
    dtype: Annotated[
        str, typer.Option(help="auto (bfloat16 where the processor has it), float32, bfloat16 or float16.")
    ] = "auto",
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

    _quiet()
    hands = work.Hands(workers, threads, device, engine, address)
    work.synthesize(dataroot, out, recipe, plan, version, model, dtype, hands, _screen(), audit)


@app.command()
@_guarded
def verify(out: Annotated[Path, typer.Argument(parser=path, help="Folder of a dataset that synthesize made.")]) -> None:
    """Check a synthetic dataset: every file, its images' provenance, its tables. The status is 2 when there is an error."""
    from drivegen import synthesis
    from drivegen.cli.show import show_problems

    if show_problems(_screen(), synthesis.verify(out), out):
        raise typer.Exit(BAD_INPUT)


@app.command()
@_guarded
def evaluate(
    real: Annotated[Path, typer.Argument(parser=path, help="Folder of the recorded dataset.")],
    generated: Annotated[
        Path, typer.Argument(parser=path, help="Folder of a dataset that was made of it, or that generate wrote into.")
    ],
    out: Annotated[Path, typer.Option(parser=path, help="Folder of the report: report.html, report.json, audit.jsonl.")],
    version: Annotated[str | None, typer.Option(help="The recorded dataset's version, where it has several.")] = None,
    generated_version: Annotated[str | None, typer.Option(help="The generated dataset's.")] = None,
    num: Annotated[int | None, typer.Option(min=1, help="At most this many generated frames.")] = None,
    inception: Annotated[
        Path | None,
        typer.Option(parser=path, help="Weights of the FID's Inception v3. Default: features of EfficientNet-Lite0."),
    ] = None,
    referee: Annotated[
        str | None,
        typer.Option(metavar="MODULE:NAME", help="A segmentation network of your own: your code is imported and run."),
    ] = None,
    referee_command: Annotated[
        str | None,
        typer.Option(metavar="COMMAND", help="A command that segments the PNGs of {pictures} into PNGs in {labels}."),
    ] = None,
    referee_classes: Annotated[
        str | None, typer.Option(metavar="GROUP=N+N,…", help="Its class numbers: drivable=0,vehicle=13+14+15,pedestrian=11.")
    ] = None,
    found_at: Annotated[
        float, typer.Option(min=0.01, max=1.0, help="A box is found where this share of its pixels is labelled as it is.")
    ] = 0.25,
    model: Annotated[
        str | None, typer.Option(help="Also generate frames with each of this model's conditions removed, exchanged, turned.")
    ] = None,
    frames: Annotated[int, typer.Option(min=1, help="Recorded frames that are generated for that.")] = 4,
    steps: Annotated[int | None, typer.Option(min=1, help="Denoising steps of those. Default: the model's.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """Say how real generated images are, and whether their labels are in the pixels."""
    from drivegen.cli import evaluate as work

    _quiet()
    own = (referee, referee_command, referee_classes, found_at, device)
    asked = work.Asked(version, generated_version, num, inception, *own, model, frames, steps)
    work.evaluate(real, generated, out, asked, _screen())


@app.command()
@_guarded
def export(
    root: Annotated[Path, typer.Argument(parser=path, help="Folder of a nuScenes-format dataset.")],
    out: Annotated[Path, typer.Option(parser=path, help="Folder to write into; it may be ROOT, and may hold other files.")],
    format: Annotated[
        str,
        typer.Option(help="coco, mmdet3d, bevfusion, streampetr, bevformer, or another one that `drivegen exporters` lists."),
    ],
    version: Annotated[str | None, typer.Option(help="Dataset version, where the root has several.")] = None,
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
    work.export(root, out, format, options or [], version, prefix, splits, skip_missing, replace, _screen())


@app.command()
@_guarded
def compare(
    reports: Annotated[list[Path], typer.Argument(parser=path, metavar="REPORT...", help="report.json of each evaluation.")],
) -> None:
    """Put the figures of evaluations side by side; those that were measured in different ways are refused."""
    from drivegen.cli import evaluate as work

    work.compare(reports, _screen())


@app.command()
@_guarded
def exporters() -> None:
    """List the installed formats of `drivegen export` and their options. Imports none of them."""
    from drivegen.cli.show import show_exporters

    show_exporters(_screen())


convert = typer.Typer(help="Turn foreign checkpoints into models and plugins.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(convert, name="convert")


@convert.command()
@_guarded
def controlnet(
    src: Annotated[Path, typer.Argument(parser=path, help="A ControlNet: its folder of diffusers, or its weight file.")],
    out: Annotated[Path, typer.Argument(parser=path, help="Plugin folder to write.")],
    picture: Annotated[str, typer.Option(help="What it reads: layout, boxes, lanes, depth, bev …, or 'given'.")] = "given",
    attends_to: Annotated[
        list[str] | None, typer.Option(metavar="PLUGIN", help="Whose tokens it sees; may be repeated. Default: text.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="Number format of the weights: float32, bfloat16 or float16.")] = "float32",
) -> None:
    """Write a ControlNet as a plugin folder."""
    from drivegen.convert import networks as work
    from drivegen.support.runtime import parse_dtype

    _quiet()
    work.convert(work.controlnet(src, picture, tuple(attends_to or ("text",))), out, parse_dtype(dtype))
    _screen().line(f"wrote {out}")


@convert.command("t2i_adapter")
@_guarded
def t2i_adapter(
    src: Annotated[Path, typer.Argument(parser=path, help="A T2I-Adapter: its folder of diffusers, or its weight file.")],
    out: Annotated[Path, typer.Argument(parser=path, help="Plugin folder to write.")],
    picture: Annotated[str, typer.Option(help="What it reads: layout, boxes, lanes, depth, bev …, or 'given'.")] = "given",
    dtype: Annotated[str, typer.Option(help="Number format of the weights: float32, bfloat16 or float16.")] = "float32",
) -> None:
    """Write a T2I-Adapter as a plugin folder."""
    from drivegen.convert import networks as work
    from drivegen.support.runtime import parse_dtype

    _quiet()
    work.convert(work.t2i_adapter(src, picture), out, parse_dtype(dtype))
    _screen().line(f"wrote {out}")


@convert.command()
@_guarded
def concat(
    src: Annotated[
        Path, typer.Argument(parser=path, help="A folder of diffusers, or a single file, whose UNet has more inputs.")
    ],
    out: Annotated[Path, typer.Argument(parser=path, help="Model folder to write.")],
    picture: Annotated[str, typer.Option(help="What it reads: layout, boxes, lanes, depth, bev …, or 'given'.")] = "given",
    scaled: Annotated[
        bool,
        typer.Option("--scaled/--unscaled", help="Unscaled: joined latents as the VAE gives them (InstructPix2Pix)."),
    ] = True,
    dtype: Annotated[str, typer.Option(help="Number format of the weights: float32, bfloat16 or float16.")] = "float32",
    config: Annotated[
        Path | None, typer.Option(parser=path, help="For a single file: a diffusers folder with its configurations.")
    ] = None,
    prediction_type: Annotated[
        str | None, typer.Option(help="For a single file: epsilon or v_prediction, where it does not say.")
    ] = None,
) -> None:
    """Write a model with a wider UNet (inpainting, depth, HumanSD) as a plain one and a concat plugin."""
    from drivegen.convert import wider_unet as work
    from drivegen.support.runtime import parse_dtype

    _quiet()
    work.convert(work.read(src, picture, scaled, config, prediction_type), out, parse_dtype(dtype))
    _screen().line(f"wrote {out}")


@convert.command()
@_guarded
def magicdrive(
    src: Annotated[Path, typer.Argument(parser=path, help="Folder with unet/ and controlnet/ as MagicDrive writes them.")],
    out: Annotated[Path, typer.Argument(parser=path, help="Model folder to write.")],
    base: Annotated[Path, typer.Option(parser=path, help="The Stable Diffusion 1.5 folder that it was trained on.")],
    dtype: Annotated[str, typer.Option(help="Number format of the weights: float32, bfloat16 or float16.")] = "float32",
    half: Annotated[
        bool, typer.Option("--half/--no-half", help="Round camera parameters to fp16, as released weights expect.")
    ] = True,
) -> None:
    """Write a MagicDrive checkpoint as a model. Its plugins are camera, text, boxes, bev_map and cross_view."""
    from drivegen.convert import magicdrive as work
    from drivegen.support.runtime import parse_dtype

    _quiet()
    work.convert(src, out, base, half, parse_dtype(dtype))
    _screen().line(f"wrote {out}")


@app.command()
@_guarded
def validate(
    root: Annotated[Path, typer.Argument(parser=path, help="Folder of a nuScenes-format dataset.")],
    version: Annotated[str | None, typer.Option(help="Dataset version, where the root has several.")] = None,
) -> None:
    """List everything that is wrong with a dataset. The status is 2 when there is an error."""
    from drivegen.cli.show import show_problems
    from drivegen.datasets import nuscenes

    if show_problems(_screen(), nuscenes.validate(root, version), root):
        raise typer.Exit(BAD_INPUT)


plugins = typer.Typer(help="List, show, check or begin plugins.", invoke_without_command=True, rich_markup_mode=None)
app.add_typer(plugins, name="plugins")


@plugins.callback()
@_guarded
def list_plugins(context: typer.Context) -> None:
    """List the installed plugins: kind, hooks, parameters, origin. Imports none of them."""
    if context.invoked_subcommand is None:
        from drivegen.cli.show import show_plugins

        show_plugins(_screen())


@plugins.command("show")
@_guarded
def show_plugin(kind: Annotated[str, typer.Argument(help="Kind of plugin, such as image_prompt.")]) -> None:
    """Show one plugin: what it does, its parameters, and what may be given to it with --input."""
    from drivegen.cli.show import show_plugin as show

    show(_screen(), kind)


@plugins.command("new")
@_guarded
def new_plugin(
    name: Annotated[str, typer.Argument(help="What the new kind is called, such as ego_plan.")],
    kind: Annotated[str, typer.Option(help="How it enters: tokens, residuals, tap or raster.")],
    out: Annotated[Path | None, typer.Option(parser=path, help="New or empty folder. Default: drivegen-NAME.")] = None,
) -> None:
    """Write the package of a new condition: a module that works, its entry point, a test, a training configuration."""
    from drivegen.catalog.scaffold import new_package

    folder = new_package(name, kind, out)
    _screen().line(f"wrote {folder}; now: pip install -e {folder}, then: drivegen plugins check {name}")


@plugins.command("check")
@_guarded
def check_plugin(
    kind: Annotated[str, typer.Argument(help="Kind of an installed plugin.")],
    options: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="An option of it; may be repeated.")] = None,
    data: Annotated[
        Path | None, typer.Option(parser=path, help="Dataset whose frames are taken; without it, two built-in ones.")
    ] = None,
    given: Annotated[
        list[str] | None,
        typer.Option("--input", metavar="PLUGIN=VALUE", help="What a caller gives it, as to generate; may be repeated."),
    ] = None,
    beside: Annotated[
        list[str] | None, typer.Option(metavar="KIND", help="A plugin that stands before it, such as text; may be repeated.")
    ] = None,
    model: Annotated[str, typer.Option(help="Whose networks it is attached to: 'tiny' or a model folder.")] = "tiny",
) -> None:
    """Check what every plugin promises, on the networks of a model. The status is 1 when a promise is broken."""
    from drivegen.cli.plugins import check

    _quiet()
    if check(_screen(), kind, options or (), given or (), beside or (), data, model):
        raise typer.Exit(FAILED)


@app.command()
@_guarded
def samplers() -> None:
    """List the installed samplers and their options. Imports none of them."""
    from drivegen.cli.show import show_samplers

    show_samplers(_screen())


@app.command()
@_guarded
def objectives() -> None:
    """List what a training may minimise, and the options. Imports none of them."""
    from drivegen.cli.show import show_objectives

    show_objectives(_screen())


@plugins.command("preview")
@_guarded
def preview_plugin(
    kind: Annotated[str, typer.Argument(help="Kind of an installed plugin.")],
    data: Annotated[Path, typer.Option(help="Dataset whose frame is drawn.")],
    out: Annotated[Path, typer.Option(help="Folder to write into.")],
    options: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="An option of it; may be repeated.")] = None,
    given: Annotated[
        list[str] | None,
        typer.Option("--input", metavar="PLUGIN=VALUE", help="What a caller gives it, as to generate; may be repeated."),
    ] = None,
    sample: Annotated[str | None, typer.Option(help="Sample token. Default: the first.")] = None,
    model: Annotated[str, typer.Option(help="'tiny' or a model folder; sheets are made where it has the plugin.")] = "tiny",
    steps: Annotated[int | None, typer.Option(help="Denoising steps of the sheets.")] = None,
) -> None:
    """Draw what a plugin prepares of a frame over its pictures, and views with the condition, null and absent."""
    from drivegen.cli.plugins import preview

    _quiet()
    preview(_screen(), kind, data, out, options or (), given or (), sample, model, steps)


@app.command("evaluate-condition")
@_guarded
def evaluate_condition(
    kinds: Annotated[list[str], typer.Argument(metavar="KIND...", help="Kinds, or instance names, of plugins of the model.")],
    out: Annotated[Path, typer.Option(parser=path, help="Folder to write into.")],
    model: Annotated[str, typer.Option(help="'tiny' or a model folder.")] = "tiny",
    data: Annotated[
        Path | None, typer.Option(parser=path, help="Dataset that is looked at; without it, scenes of the procedural city.")
    ] = None,
    frames: Annotated[int, typer.Option(help="At most this many frames, spread over the scenes.")] = 40,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """Measure how much a model listens to a condition: its error with a frame's own, another frame's, null and absent."""
    from drivegen.cli.evaluate_condition import evaluate_condition as work

    _quiet()
    work(_screen(), kinds, model, data, out, frames, device)


@app.command()
@_guarded
def info(model: Annotated[str, typer.Argument(help="'tiny' or a model folder.")] = "tiny") -> None:
    """Say what is inside a model."""
    from drivegen.cli.show import show_model
    from drivegen.saved.model import locate

    folder = locate(model)
    if not folder.is_dir():
        raise InputError(f"{folder} is a file; info reads model folders")
    show_model(_screen(), folder)


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
