"""MagicDrive's `unet/` and `controlnet/` folders as a UNet and the plugins camera, boxes, bev_map and cross_view."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from drivegen.backbones.stable_diffusion import Backbone
from drivegen.catalog import registry
from drivegen.convert import magicdrive_config
from drivegen.convert.magicdrive_config import Described
from drivegen.host.host import Host
from drivegen.plugin import Plugin
from drivegen.sampling import Sampling
from drivegen.saved import model
from drivegen.support import weight_folders, weights
from drivegen.support.errors import InputError
from drivegen.support.weights import State

SAMPLING = Sampling("unipc", steps=20, guidance=2.0, null=("camera", "text", "boxes"), noise="shared")
"""MagicDrive's defaults: guidance nulls camera, text and boxes but keeps the map; all views start from one noise."""


_ORDER = ("camera", "text", "boxes", "bev_map", "cross_view")
_STEM = "diffusion_pytorch_model"
_VIEW_PARTS = ("norm4", "attn4", "connector")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A MagicDrive checkpoint taken apart: the plain UNet, what the configurations say, and each plugin's weights.

    places tells for each weight of theirs ("unet.…", "controlnet.…") its plugin ("" = the UNet) and its key there.
    """

    unet: nn.Module
    described: Described
    states: Mapping[str, State]
    places: Mapping[str, tuple[str, str]]

    def plugins(self) -> dict[str, Plugin]:
        """Build the plugins in MagicDrive's token order: camera, text, boxes."""
        return {name: registry.load(name)(**self.described.options[name]) for name in _ORDER}

    def load_into(self, plugins: Mapping[str, Plugin]) -> None:
        """Load the weights into plugins that are attached to this UNet, strictly."""
        for name, state in self.states.items():
            weights.load_strict(plugins[name], state, f"MagicDrive's {name}")


def read(folder: str | Path, half: bool = True) -> Checkpoint:
    """Read `folder/unet` and `folder/controlnet`, in fp32; half is MagicDrive's cast of camera parameters to fp16.

    Raises InputError on a folder that is not a MagicDrive checkpoint, or that names anything outside the closed tables.
    """
    folder = Path(folder)
    for name in ("unet", "controlnet"):
        if not (folder / name / "config.json").is_file():
            raise InputError(
                f"{folder} is not a MagicDrive checkpoint: there is no {name}/config.json; name the folder of both"
            )
    of_unet, of_control = (weights.read_json(folder / name / "config.json") for name in ("unet", "controlnet"))
    described = magicdrive_config.describe(of_unet, of_control, half, folder)
    unet, control = (
        {k: v.float() for k, v in weight_folders.load_state(folder / n, _STEM).items()} for n in ("unet", "controlnet")
    )
    return take_apart(described, unet, control, str(folder / "unet"))


def take_apart(described: Described, unet_state: State, control_state: State, where: str = "unet") -> Checkpoint:
    """Split the weights of both networks into a plain UNet and the plugins.

    Args:
        described: the configurations.
        unet_state: weights of MagicDrive's UNet.
        control_state: weights of its ControlNet.
        where: names the UNet in the error.

    Raises InputError when the UNet's weights do not fit.
    """
    states: dict[str, State] = {name: {} for name in _ORDER if name != "text"}
    plain: State = {}
    places = {}
    for network, state in (("unet", unet_state), ("controlnet", control_state)):
        for key, value in state.items():
            plugin, own = places[f"{network}.{key}"] = place(network, key)
            (states[plugin] if plugin else plain)[own] = value
    unet = magicdrive_config.build_unet(described, f"{where}/config.json")
    weights.load_strict(unet, plain, where)
    return Checkpoint(unet, described, states, places)


def place(network: str, key: str) -> tuple[str, str]:
    """Tell where a weight of MagicDrive's "unet" or "controlnet" lives here: plugin name ("" = the UNet itself) and key."""
    head, _, rest = key.partition(".")
    if network == "unet":
        block, found, inside = key.partition(".transformer_blocks.")
        number, _, inner = inside.partition(".")
        if found and inner.split(".")[0] in _VIEW_PARTS:
            site = f"{block}.transformer_blocks.{number}.attn2".replace(".", "-")
            return "cross_view", f"taps.{site}.{inner}"
        return "", key
    if head in ("cam2token", "uncond_cam"):
        return "camera", key
    if head == "bbox_embedder":
        return "boxes", rest
    if head == "controlnet_cond_embedding":
        return "bev_map", f"embedder.{rest}"
    return "bev_map", f"branch.{key}"


def convert(src: str | Path, out: str | Path, base: str | Path, half: bool = True, dtype: torch.dtype | None = None) -> Path:
    """Write a model folder from a MagicDrive checkpoint and the Stable Diffusion folder it was trained on; returns it.

    VAE, text encoder, tokenizer and scheduler are the base's.

    Args:
        src: folder with `unet/` and `controlnet/`.
        out: the model folder.
        base: the Stable Diffusion folder.
        half: cast camera parameters to fp16, as MagicDrive does.
        dtype: of the weights; None is fp32.

    Raises InputError when the two do not belong together, when the view pairs are not the ring that calibration gives, or when
    the size of the images is stated nowhere.
    """
    checkpoint = read(src, half)
    described = checkpoint.described
    if described.image_size is None:
        raise InputError(
            f"{Path(src) / 'unet' / 'config.json'}: img_size is null, and the map embedder does not say either how large the "
            "images are; write the [height, width] in pixels that it was trained on there, such as [224, 400]"
        )
    _check_ring(described.neighbours, src)
    try:
        backbone = Backbone.from_folder(base, unet=checkpoint.unet)
    except InputError as error:
        raise InputError(f"{base} cannot be the base of {src}: {error}") from error
    plugins = checkpoint.plugins()
    host = Host(backbone, plugins)
    checkpoint.load_into(plugins)
    about = {"source": "MagicDrive (Apache-2.0)", "camera_parameters_fp16": half}
    return model.save(host, out, SAMPLING, dtype, described.image_size, about)


def _check_ring(neighbours: tuple[tuple[int, ...], ...], src: str | Path) -> None:
    count = len(neighbours)
    for view, others in enumerate(neighbours):
        if count < 3 or sorted(others) != sorted(((view - 1) % count, (view + 1) % count)):
            raise InputError(
                f"{src}: neighboring_view_pair gives view {view} the neighbours {list(others)}; only rings, where a view's "
                "neighbours are the one before and the one after, become a model whose neighbours come from the calibration"
            )
