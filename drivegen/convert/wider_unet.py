"""Models whose UNet reads more than the latents (inpainting, depth) as a plain UNet and a `concat` plugin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from drivegen.saved import model, wide
from drivegen.support.errors import InputError

NAME = "concat"
"""The plugin's kind, and its name in the model."""


def read(
    source: str | Path, picture: str = "given", scaled: bool = True, config_folder: str | Path | None = None,
    prediction_type: str | None = None,
) -> model.Model:  # fmt: skip
    """Split a model into its UNet without the extra channels, its family's plugins and concat; fp32.

    Args:
        source: a diffusers folder (`model_index.json`) whose UNet has more input channels than latents, or a single file of
            such a model in the original layout.
        picture: one of `raster.PICTURES`, or "given".
        scaled: whether joined latents are scaled as the noisy ones are; InstructPix2Pix's are not.
        config_folder: configurations for a single file, as `Backbone.from_single_file` takes them.
        prediction_type: what a single file's UNet predicts where it does not say so.

    Raises InputError on anything else than such a folder or file.
    """
    source = Path(source).expanduser()
    options: dict[str, Any] = {} if scaled else {"scaled": False}
    if picture != "given":
        options["picture"] = picture
    if not source.is_file() and (config_folder is not None or prediction_type is not None):
        raise InputError(f"{source} is no file; --config and --prediction-type are for single files, which lack both")
    backbone, found = wide.split(source, NAME, options, config_folder, prediction_type)
    made = model.with_joined(backbone, found, source)
    made.host.eval().requires_grad_(False)
    return made


def convert(made: model.Model, out: str | Path, dtype: torch.dtype | None = None) -> Path:
    """Write such a model to a folder that is new or empty.

    Args:
        made: of `read`.
        out: the model folder.
        dtype: of the weights; None keeps theirs.
    """
    return model.save(made.host, out, made.sampling, dtype)
