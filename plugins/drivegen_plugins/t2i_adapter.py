"""T2I-Adapter: any diffusers `T2IAdapter` over a picture a camera (Mou 2023); its features are the same at every step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from drivegen.plugin import Context, Residuals, Signal
from drivegen.plugin.picture_plugin import GIVEN, PicturePlugin, network_arguments
from drivegen.support.errors import InputError


class T2IAdapter(PicturePlugin):
    """Features of a picture a camera, added inside the UNet's down blocks; null, like a camera without one, adds nothing.

    picture names one of `raster.PICTURES`, or "given"; network is a T2IAdapter's configuration (None = a fresh one of `size`
    "full_adapter" or "light_adapter" that fits the UNet, for `channels` channels). A gain a channel, zero at first and one
    in a released adapter, lets training begin at the model without it.
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

    def _hold(self, network: Mapping[str, Any]) -> None:
        self.config["network"] = dict(network)
        self.adapter = _build(network)
        widths = _widths(list(self.adapter.config.channels), self.adapter.config.adapter_type)
        self.gains = nn.ParameterList(torch.zeros(c, 1, 1) for c in widths)

    def attach(self, backbone: Any) -> None:
        channels = [int(c) for c in backbone.unet.config.block_out_channels]
        if "adapter" not in self._modules:
            light = self.size == "light_adapter"
            self._hold(
                {
                    "in_channels": self.channels, "channels": channels[:-1] if light else channels,
                    "num_res_blocks": 4 if light else 2, "downscale_factor": backbone.vae_factor, "adapter_type": self.size,
                }
            )  # fmt: skip
        config = self.adapter.config
        for what, ours, theirs in (
            ("channels", _widths(list(config.channels), config.adapter_type), channels),
            ("pixels per latent", int(config.downscale_factor), backbone.vae_factor),
        ):
            if ours != theirs:
                raise InputError(f"the T2I-Adapter has {what} {ours}, this model's UNet {theirs}; it was made for another base")

    def read(self, picture: Tensor) -> tuple[Tensor, ...]:
        return tuple(gain * feature for gain, feature in zip(self.gains, self.adapter(picture), strict=True))

    def residuals(self, x: Tensor, t: Tensor, context: Context, signal: Signal) -> Residuals | None:
        return None if signal.data is None else signal.data.masked(Residuals(intrablock=signal.data.features))


def _widths(channels: list[int], kind: str) -> list[int]:
    """Channels of each feature map; a light adapter has one more level, as wide as its last."""
    return [int(c) for c in (channels + channels[-1:] if kind == "light_adapter" else channels)]


def _build(network: Mapping[str, Any]) -> Any:
    from diffusers import T2IAdapter as Network

    network = network_arguments("t2i_adapter", Network, network)
    kind = network.get("adapter_type", "full_adapter")
    if kind not in ("full_adapter", "light_adapter"):
        raise InputError(f"t2i_adapter: adapter_type {kind!r} is not for Stable Diffusion 1.x and 2.x")
    try:
        return Network(**network)
    except (TypeError, ValueError) as error:
        raise InputError(f"t2i_adapter: the network's configuration is refused: {error}") from error
