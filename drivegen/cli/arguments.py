"""Arguments and options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def path(given: str | Path) -> Path:
    """Return a path that was given; an empty one, as a shell makes of a variable that is not set, is refused."""
    if not str(given).strip():
        raise typer.BadParameter("is empty; name a folder or a file, '.' for the current folder")
    return Path(given).expanduser()


Out = Annotated[Path, typer.Option(parser=path, help="Folder to write into.")]
Data = Annotated[Path | None, typer.Option(parser=path, help="nuScenes-format dataset; without it, a built-in scene.")]
Version = Annotated[str | None, typer.Option(help="Dataset version, where the root has several.")]
Model = Annotated[str, typer.Option(help="'tiny', a model folder, or a single-file checkpoint.")]
ConfigFolder = Annotated[
    Path | None, typer.Option("--config", parser=path, help="Folder with the configurations of a single-file checkpoint.")
]
Vae = Annotated[Path | None, typer.Option(parser=path, help="Folder or file of a VAE that replaces the model's own.")]
Variant = Annotated[str | None, typer.Option(help="Which weight files of a folder, such as fp16.")]
PredictionType = Annotated[
    str | None, typer.Option(help="epsilon, v_prediction or sample, where a model does not say it, or wrongly.")
]
Refiner = Annotated[
    str | None, typer.Option(metavar="FOLDER", help="A second model that computes the last steps, as SDXL's refiner.")
]
AddedPlugins = Annotated[
    list[str] | None,
    typer.Option("--plugin", metavar="[NAME=]FOLDER", help="Add a plugin saved alone: its folder, file or hub id."),
]
Fast = Annotated[bool, typer.Option("--fast", help="Take the model's student of few steps: a tenth of the network's time.")]
Loras = Annotated[list[str] | None, typer.Option("--lora", metavar="FILE[=SCALE]", help="Add a LoRA; may be repeated.")]
Tuners = Annotated[
    list[str] | None,
    typer.Option("--tuner", metavar="FILE[=SCALE]", help="Add a hypernetwork, Custom Diffusion or another tuner."),
]
Embeddings = Annotated[
    list[str] | None,
    typer.Option("--embedding", metavar="[WORD=]FILE", help="Teach a textual inversion's word; may be repeated."),
]
Offload = Annotated[bool, typer.Option("--offload", help="Keep text encoder and VAE in main memory until used.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
ComputeDtype = Annotated[str, typer.Option(help="auto (bfloat16 where the processor has it), float32, bfloat16 or float16.")]
WeightsDtype = Annotated[str, typer.Option(help="Number format of the weights: float32, bfloat16 or float16.")]
Picture = Annotated[str, typer.Option(help="What it reads: layout, boxes, lanes, depth, bev …, or 'given'.")]
PluginOptions = Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="An option of it; may be repeated.")]
PluginInputs = Annotated[
    list[str] | None,
    typer.Option("--input", metavar="PLUGIN=VALUE", help="What a caller gives it, as to generate; may be repeated."),
]
