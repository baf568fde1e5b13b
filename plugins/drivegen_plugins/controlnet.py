"""ControlNet: any diffusers `ControlNetModel` over a picture a camera (Zhang 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from drivegen.plugin import Context, Residuals, Signal
from drivegen.plugin.control_branch import halvings, run_branch, skip_channels
from drivegen.plugin.picture_plugin import GIVEN, PicturePlugin, network_arguments
from drivegen.support.errors import InputError


class ControlNet(PicturePlugin):
    """A ControlNet on a picture a camera; null, like a camera without a picture, adds nothing.

    picture names one of `raster.PICTURES`, or "given"; network is a ControlNetModel's configuration (None = a copy of the
    UNet's encoder, for `channels` channels); attends_to names the plugins whose tokens it sees (None = all).
    """

    def __init__(
        self, picture: str = GIVEN, network: Mapping[str, Any] | None = None, attends_to: tuple[str, ...] | None = ("text",),
        channels: int | None = None,
    ) -> None:  # fmt: skip
        if network is not None:
            channels = _agreed(channels, int(network.get("conditioning_channels", 3)))
        super().__init__(picture, channels)
        self.attends_to = None if attends_to is None else tuple(attends_to)
        if network is not None:
            self._hold(_build(network), network)

    def _hold(self, net: Any, network: Mapping[str, Any]) -> None:
        """Take a network apart: its embedder works once a batch, the rest of it at every step."""
        self.config["network"] = dict(network)
        self.flipped = net.config.controlnet_conditioning_channel_order == "bgr"
        # The branch gets the embedding as it is, so its own turning of channels must rest.
        net.register_to_config(controlnet_conditioning_channel_order="rgb")
        self.embedder: nn.Module = net.controlnet_cond_embedding
        net.controlnet_cond_embedding = nn.Identity()
        self.branch = net

    def attach(self, backbone: Any) -> None:
        from diffusers import ControlNetModel

        if "branch" not in self._modules:
            stages = halvings(backbone.vae_factor) + 1
            net = ControlNetModel.from_unet(
                backbone.unet, conditioning_channels=self.channels,
                conditioning_embedding_out_channels=(*(16, 32, 96, *[256] * stages)[: stages - 1], 256),
            )  # fmt: skip
            # The branch ends in zero convolutions: a second zero in a row would only delay the first gradient.
            net.controlnet_cond_embedding.conv_out.reset_parameters()
            self._hold(net, network_config(net.config))
        _check_fit(self.branch, self.embedder, backbone)
        self.attends(self.branch)

    def read(self, picture: Tensor) -> Tensor:
        embedding: Tensor = self.embedder(picture.flip(1) if self.flipped else picture)
        return embedding

    def residuals(self, x: Tensor, t: Tensor, context: Context, signal: Signal) -> Residuals | None:
        if signal.data is None:
            return None
        return signal.data.masked(run_branch(self.branch, x, t, signal.data.features, context, self.attends_to))


def network_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a network's configuration as JSON values, without diffusers' own entries."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in config.items() if not k.startswith("_")}


def _agreed(channels: int | None, network: int) -> int:
    if channels not in (None, network):
        raise InputError(f"controlnet: channels {channels} is given, but the network reads {network}; leave channels out")
    return network


def _build(network: Mapping[str, Any]) -> Any:
    from diffusers import ControlNetModel

    network = network_arguments("controlnet", ControlNetModel, network)
    for key in ("addition_embed_type", "class_embed_type", "encoder_hid_dim_type"):
        if network.get(key) is not None:
            raise InputError(f"controlnet: {key} {network[key]!r} is for SDXL and others, not for Stable Diffusion 1.x and 2.x")
    try:
        return ControlNetModel(**{k: tuple(v) if isinstance(v, list) else v for k, v in network.items()})
    except (TypeError, ValueError) as error:
        raise InputError(f"controlnet: the network's configuration is refused: {error}") from error


def _check_fit(branch: Any, embedder: Any, backbone: Any) -> None:
    unet = backbone.unet.config
    pairs = {
        "latent channels": (int(branch.config.in_channels), int(unet.in_channels)),
        "token width": (int(branch.config.cross_attention_dim), int(unet.cross_attention_dim)),
        "skip channels": (tuple(conv.out_channels for conv in branch.controlnet_down_blocks), skip_channels(backbone.unet)),
        "pixels per latent": (2 ** (len(embedder.blocks) // 2), backbone.vae_factor),
    }
    for what, (ours, theirs) in pairs.items():
        if ours != theirs:
            raise InputError(f"the ControlNet has {what} {ours}, and this model's UNet {theirs}; it was made for another base")
