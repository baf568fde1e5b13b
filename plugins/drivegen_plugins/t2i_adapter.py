"""T2I-Adapter: any diffusers `T2IAdapter` over a picture per camera (Mou 2023), and the files it is released in.

Its features are the same at every step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from drivegen.plugin import Context, Released, ReleasedFile, Residuals, Signal
from drivegen.plugin.picture_plugin import GIVEN, PicturePlugin, network_arguments
from drivegen.support.errors import InputError

_CHANNELS = (320, 640, 1280, 1280)

_XL = "full_adapter_xl"
"""diffusers' word for the adapters of SDXL, whose UNet has three levels and no attention at the first."""


class T2IAdapter(PicturePlugin):
    """Features of a picture per camera, added inside the UNet's down blocks; null, like a camera without one, adds nothing.

    A gain per channel, zero at first and one in a released adapter, lets training begin at the model without it.

    Args:
        picture: one of `raster.PICTURES`, or "given".
        network: a T2IAdapter's configuration; None = a fresh one that fits the UNet.
        size: of a fresh one, "full_adapter" or "light_adapter".
        channels: of the picture; None = those of its kind, or of the network.
    """

    def __init__(
        self, picture: str = GIVEN, network: Mapping[str, Any] | None = None,
        size: Literal["full_adapter", "light_adapter"] = "full_adapter", channels: int | None = None,
    ) -> None:  # fmt: skip
        if network is not None:
            reads = int(network.get("in_channels", 3))
            if channels not in (None, reads):
                raise InputError(f"t2i_adapter: channels {channels} is given, and the network reads {reads}; leave it out")
            channels = reads
        super().__init__(picture, channels)
        if size not in ("full_adapter", "light_adapter"):
            raise InputError(f"t2i_adapter: size {size!r} must be 'full_adapter' or 'light_adapter'")
        self.size = size
        if network is not None:
            self._hold(network)

    @classmethod
    def read_released(cls, file: ReleasedFile) -> Released | None:
        if file.config is not None:
            if file.config.get("_class_name") != "T2IAdapter":
                return None
            network, state = {k: v for k, v in file.config.items() if not k.startswith("_")}, dict(file.state)
        else:
            if "style_embedding" in file.state:
                raise InputError("it is a T2I-Adapter of style, which appends tokens of a picture, and is not read")
            if any(key.startswith("spatial_feat_mapping.") for key in file.state):
                raise InputError("it is a CoAdapter's fuser, which joins several T2I-Adapters, and is not read")
            bare = {key.removeprefix("adapter."): value for key, value in file.state.items()}
            full = "conv_in.weight" in bare and any(key.startswith("body.0.") for key in bare)
            if not full and not ("body.0.in_conv.weight" in bare and "body.0.out_conv.weight" in bare):
                return None
            network, named = _read_full(bare) if full else _read_light(bare)
            state = {f"adapter.{key}": value for key, value in named.items()}
        widths = _widths(list(network.get("channels", _CHANNELS)), network.get("adapter_type", "full_adapter"))
        gains = {f"gains.{i}": torch.ones(width, 1, 1) for i, width in enumerate(widths)}
        named = {f"adapter.{key}": value for key, value in state.items()}
        return Released({"network": network, "picture": GIVEN}, {**gains, **named}, {"drop": 0})

    def _hold(self, network: Mapping[str, Any]) -> None:
        self.config["network"] = dict(network)
        self.adapter = _build(network)
        widths = _widths(list(self.adapter.config.channels), self.adapter.config.adapter_type)
        self.gains = nn.ParameterList(torch.zeros(c, 1, 1) for c in widths)

    def attach(self, backbone: Any) -> None:
        levels, factor = backbone.family.levels, int(backbone.vae_factor)
        channels, later = [level.width for level in levels], _begins_without_attention(levels)
        if "adapter" not in self._modules:
            self._hold(self._fresh(channels, factor, later))
        config = self.adapter.config
        if config.adapter_type == _XL:
            if not later:
                raise InputError("the T2I-Adapter is one for SDXL, and this model's UNet has attention at its first level")
            channels, factor = [*channels, channels[-1]], 2 * factor  # its last feature is for the middle
        for what, ours, theirs in (
            ("channels", _widths(list(config.channels), config.adapter_type), channels),
            ("pixels per latent", int(config.downscale_factor), factor),
        ):
            if ours != theirs:
                raise InputError(f"the T2I-Adapter has {what} {ours}, this model's UNet {theirs}; it was made for another base")
        for i, level in enumerate(levels):
            # diffusers adds to a block without cross-attention after its down-sampler, where the features are too large.
            if config.adapter_type != _XL and level.halves and not level.attends:
                raise InputError(
                    f"a T2I-Adapter adds before each down-sampler, and down block {i} of this model's UNet has one and no "
                    "cross-attention, where diffusers adds after it; take a ControlNet"
                )

    def _fresh(self, channels: list[int], factor: int, later: bool) -> dict[str, Any]:
        """Configure a new network.

        Args:
            channels: of the UNet's levels.
            factor: pixels per latent.
            later: whether the UNet begins as SDXL's does, so that its first feature comes after a down-sampler.
        """
        if later and self.size == "full_adapter":
            wide = {"channels": [*channels, channels[-1]], "num_res_blocks": 2, "downscale_factor": 2 * factor}
            return {"in_channels": self.channels, "adapter_type": _XL, **wide}
        light = self.size == "light_adapter"
        return {
            "in_channels": self.channels, "channels": channels[:-1] if light else channels, "num_res_blocks": 4 if light else 2,
            "downscale_factor": factor, "adapter_type": self.size,
        }  # fmt: skip

    def read(self, picture: Tensor) -> tuple[Tensor, ...]:
        return tuple(gain * feature for gain, feature in zip(self.gains, self.adapter(picture), strict=True))

    def residuals(self, x: Tensor, t: Tensor, context: Context, signal: Signal) -> Residuals | None:
        return None if signal.data is None else signal.data.masked(Residuals(intrablock=signal.data.features))


def _begins_without_attention(levels: Sequence[Any]) -> bool:
    """Tell a UNet of SDXL's form: three levels, the first without attention and with a down-sampler."""
    first, *others = levels
    return len(others) == 2 and first.halves and not first.attends and all(level.attends for level in others)


def _widths(channels: list[int], kind: str) -> list[int]:
    """Channels of each feature map; a light adapter has one more level, as wide as its last."""
    return [int(c) for c in (channels + channels[-1:] if kind == "light_adapter" else channels)]


def _build(network: Mapping[str, Any]) -> Any:
    from diffusers import T2IAdapter as Network

    network = network_arguments("t2i_adapter", Network, network)
    kind = network.get("adapter_type", "full_adapter")
    if kind not in ("full_adapter", "light_adapter", _XL):
        raise InputError(f"t2i_adapter: adapter_type {kind!r} is not one of full_adapter, light_adapter, {_XL}")
    try:
        return Network(**network)
    except (TypeError, ValueError) as error:
        raise InputError(f"t2i_adapter: the network's configuration is refused: {error}") from error


def _read_full(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Give the configuration and diffusers' names of a full adapter, from those (`body.0.resnets.…`) or the original ones.

    The original numbers all residual blocks in a row, diffusers those of each level.
    """
    blocks = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("body."))
    channels, factor = _pixels(state["conv_in.weight"].shape[1])
    named = dict(state)
    if "body.0.resnets.0.block1.weight" in state:
        per_level = len({key.split(".")[3] for key in state if key.startswith("body.0.resnets.")})
        widths = [int(state[f"body.{i}.resnets.0.block1.weight"].shape[0]) for i in range(blocks)]
    else:
        each = [int(state[f"body.{i}.block1.weight"].shape[0]) for i in range(blocks)]
        # A level begins where the width changes, and all have as many blocks.
        per_level = math.gcd(blocks, *(i for i in range(1, blocks) if each[i] != each[i - 1]))
        widths = each[::per_level]
        named = {_renumbered(key, per_level): value for key, value in state.items()}
    return {
        "in_channels": channels, "channels": widths, "num_res_blocks": per_level, "downscale_factor": factor,
        "adapter_type": _XL if factor == 16 else "full_adapter",
    }, named  # fmt: skip


def _read_light(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Give the configuration and diffusers' names of a light adapter, from those (`body.0.resnets.…`) or `body.0.body.…`."""
    named = {}
    for key, value in state.items():
        parts = key.split(".")
        named[".".join([*parts[:2], "resnets", *parts[3:]]) if parts[2:3] == ["body"] else key] = value
    blocks = 1 + max(int(key.split(".")[1]) for key in named if key.startswith("body."))
    channels, factor = _pixels(named["body.0.in_conv.weight"].shape[1])
    widths = [int(named[f"body.{i}.out_conv.weight"].shape[0]) for i in range(blocks)]
    return {
        "in_channels": channels, "channels": widths[:-1], "downscale_factor": factor, "adapter_type": "light_adapter",
        "num_res_blocks": len({key.split(".")[3] for key in named if key.startswith("body.0.resnets.")}),
    }, named  # fmt: skip


def _renumbered(key: str, per_level: int) -> str:
    if not key.startswith("body."):
        return key
    level, block = divmod(int(key.split(".")[1]), per_level)
    rest = key.split(".", 2)[2]
    return f"body.{level}.{rest}" if rest.startswith("in_conv.") else f"body.{level}.resnets.{block}.{rest}"


def _pixels(inputs: int) -> tuple[int, int]:
    """Split the channels of unshuffled pixels into those of the picture, 3 or 1, and the factor of its size."""
    for channels in (3, 1):
        factor = math.isqrt(inputs // channels)
        if channels * factor**2 == inputs and factor & (factor - 1) == 0:
            return channels, factor
    raise InputError(f"it is a T2I-Adapter of {inputs} unshuffled channels, which are those of no picture of 1 or 3 channels")
