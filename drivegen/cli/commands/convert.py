"""`drivegen convert …`: foreign checkpoints become models and plugins."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from drivegen.cli.arguments import Picture, WeightsDtype, path
from drivegen.cli.command import guarded, quiet, screen

convert = typer.Typer(
    name="convert", help="Turn foreign checkpoints into models and plugins.", no_args_is_help=True, rich_markup_mode=None
)


@convert.command()
@guarded
def controlnet(
    src: Annotated[Path, typer.Argument(parser=path, help="A ControlNet: its folder of diffusers, or its weight file.")],
    out: Annotated[Path, typer.Argument(parser=path, help="Plugin folder to write.")],
    picture: Picture = "given",
    attends_to: Annotated[
        list[str] | None, typer.Option(metavar="PLUGIN", help="Whose tokens it sees; may be repeated. Default: text.")
    ] = None,
    dtype: WeightsDtype = "float32",
) -> None:
    """Write a ControlNet as a plugin folder."""
    from drivegen.convert import networks as work
    from drivegen.support.runtime import parse_dtype

    quiet()
    work.convert(work.controlnet(src, picture, tuple(attends_to or ("text",))), out, parse_dtype(dtype))
    screen().line(f"wrote {out}")


@convert.command("t2i_adapter")
@guarded
def t2i_adapter(
    src: Annotated[Path, typer.Argument(parser=path, help="A T2I-Adapter: its folder of diffusers, or its weight file.")],
    out: Annotated[Path, typer.Argument(parser=path, help="Plugin folder to write.")],
    picture: Picture = "given",
    dtype: WeightsDtype = "float32",
) -> None:
    """Write a T2I-Adapter as a plugin folder."""
    from drivegen.convert import networks as work
    from drivegen.support.runtime import parse_dtype

    quiet()
    work.convert(work.t2i_adapter(src, picture), out, parse_dtype(dtype))
    screen().line(f"wrote {out}")


@convert.command()
@guarded
def concat(
    src: Annotated[
        Path, typer.Argument(parser=path, help="A folder of diffusers, or a single file, whose UNet has more inputs.")
    ],
    out: Annotated[Path, typer.Argument(parser=path, help="Model folder to write.")],
    picture: Picture = "given",
    scaled: Annotated[
        bool,
        typer.Option("--scaled/--unscaled", help="Unscaled: joined latents as the VAE gives them (InstructPix2Pix)."),
    ] = True,
    dtype: WeightsDtype = "float32",
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

    quiet()
    work.convert(work.read(src, picture, scaled, config, prediction_type), out, parse_dtype(dtype))
    screen().line(f"wrote {out}")


@convert.command()
@guarded
def lcm(
    src: Annotated[
        Path,
        typer.Argument(parser=path, help="A folder of diffusers whose UNet takes guidance's scale (LCM_Dreamshaper)."),
    ],
    out: Annotated[Path, typer.Argument(parser=path, help="Model folder to write.")],
    dtype: WeightsDtype = "float32",
) -> None:
    """Write a latent consistency model as a plain one and a guidance_embedding plugin."""
    from drivegen.convert import lcm as work
    from drivegen.support.runtime import parse_dtype

    quiet()
    work.convert(work.read(src), out, parse_dtype(dtype))
    screen().line(f"wrote {out}")


@convert.command()
@guarded
def magicdrive(
    src: Annotated[Path, typer.Argument(parser=path, help="Folder with unet/ and controlnet/ as MagicDrive writes them.")],
    out: Annotated[Path, typer.Argument(parser=path, help="Model folder to write.")],
    base: Annotated[Path, typer.Option(parser=path, help="The Stable Diffusion 1.5 folder that it was trained on.")],
    dtype: WeightsDtype = "float32",
    half: Annotated[
        bool, typer.Option("--half/--no-half", help="Round camera parameters to fp16, as released weights expect.")
    ] = True,
) -> None:
    """Write a MagicDrive checkpoint as a model. Its plugins are camera, text, boxes, bev_map and cross_view."""
    from drivegen.convert import magicdrive as work
    from drivegen.support.runtime import parse_dtype

    quiet()
    work.convert(src, out, base, half, parse_dtype(dtype))
    screen().line(f"wrote {out}")
