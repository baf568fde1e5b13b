"""Released conditioning networks (ControlNet, T2I-Adapter) as plugin folders; the plugins themselves read the formats."""

from __future__ import annotations

from pathlib import Path

import torch

from drivegen.plugin import Plugin
from drivegen.saved import plugin_folder, released
from drivegen.support.errors import InputError


def controlnet(source: str | Path, picture: str = "given", attends_to: tuple[str, ...] | None = ("text",)) -> Plugin:
    """Make a `controlnet` plugin, weights included, in fp32.

    Args:
        source: a diffusers ControlNetModel's folder, or a file of it or in the original layout.
        picture: one of `raster.PICTURES`, or "given".
        attends_to: the plugins whose tokens it was trained with; None = all.

    Raises InputError on anything else than such a folder or file.
    """
    return _make(source, "controlnet", {"picture": picture, "attends_to": attends_to})


def t2i_adapter(source: str | Path, picture: str = "given") -> Plugin:
    """Make a `t2i_adapter` plugin, weights included, in fp32.

    source is a diffusers T2IAdapter's folder, or a file of it or in the original layout; picture names one of
    `raster.PICTURES`, or "given". Raises InputError on anything else than such a folder or file.
    """
    return _make(source, "t2i_adapter", {"picture": picture})


def _make(source: str | Path, kind: str, options: dict[str, object]) -> Plugin:
    path = Path(source).expanduser()
    if not path.exists():
        raise InputError(f"there is no weight file or folder at {str(source)!r}")
    if path.is_dir() and not released.is_released(path):
        raise InputError(f"{path} has no config.json of a network of diffusers; name its folder, or its weight file")
    found = released.read(path, kind, options)
    plugin = found.make()
    plugin.__dict__["_saved"] = {"kind": kind, "name": kind, "training": dict(found.released.training)}
    return plugin


def convert(plugin: Plugin, out: str | Path, dtype: torch.dtype | None = None) -> Path:
    """Write a plugin to a folder that is new or empty; the folder's name becomes the plugin's.

    Its training is recorded as well: a network trained without null is not nulled by guidance, as in diffusers' pipelines;
    except a ControlNet that pools its terms over the picture, which diffusers' pipeline leaves out of the unconditional half.

    Args:
        plugin: with its weights.
        out: the folder.
        dtype: of the weights; None keeps theirs.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists and is not empty; name a new folder")
    plugin_folder.save_plugin(plugin, out, dtype, out.name if out.name.isidentifier() else "")
    return out
