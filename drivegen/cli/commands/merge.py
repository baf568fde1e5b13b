"""`drivegen merge`: several LoRAs in one file, or within a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drivegen.cli.arguments import Model, WeightsDtype, path
from drivegen.cli.command import guarded, quiet, screen


@guarded
def merge(
    lora: Annotated[list[str], typer.Argument(metavar="FILE[=SCALE]...", help="LoRAs and their kin, with a scale each.")],
    out: Annotated[Path, typer.Option(parser=path, help="Folder to write.")],
    model: Model = "tiny",
    whole: Annotated[
        bool, typer.Option("--whole", help="Write a model with all of them in its weights, in place of a LoRA.")
    ] = False,
    dtype: WeightsDtype = "float32",
) -> None:
    """Merge LoRAs into one file, or into a model."""
    from drivegen.cli import merge as work
    from drivegen.support.runtime import parse_dtype

    quiet()
    screen().line(f"wrote {work.merge(lora, out, model, whole, parse_dtype(dtype))}")
