"""`drivegen evaluate`, `compare` and `evaluate-condition`: figures of models and of what they made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drivegen.cli.arguments import Device, Out, path
from drivegen.cli.command import guarded, quiet, screen


@guarded
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
    device: Device = "auto",
) -> None:
    """Say how real generated images are, and whether their labels are in the pixels."""
    from drivegen.cli import evaluate as work

    quiet()
    own = (referee, referee_command, referee_classes, found_at, device)
    asked = work.Asked(version, generated_version, num, inception, *own, model, frames, steps)
    work.evaluate(real, generated, out, asked, screen())


@guarded
def compare(
    reports: Annotated[list[Path], typer.Argument(parser=path, metavar="REPORT...", help="report.json of each evaluation.")],
) -> None:
    """Put the figures of evaluations side by side; those that were measured in different ways are refused."""
    from drivegen.cli import evaluate as work

    work.compare(reports, screen())


@guarded
def evaluate_condition(
    kinds: Annotated[list[str], typer.Argument(metavar="KIND...", help="Kinds, or instance names, of plugins of the model.")],
    out: Out,
    model: Annotated[str, typer.Option(help="'tiny' or a model folder.")] = "tiny",
    data: Annotated[
        Path | None, typer.Option(parser=path, help="Dataset that is looked at; without it, scenes of the procedural city.")
    ] = None,
    frames: Annotated[int, typer.Option(help="At most this many frames, spread over the scenes.")] = 40,
    device: Device = "auto",
) -> None:
    """Measure how much a model listens to a condition: its error with a frame's own, another frame's, null and absent."""
    from drivegen.cli.evaluate_condition import evaluate_condition as work

    quiet()
    work(screen(), kinds, model, data, out, frames, device)
