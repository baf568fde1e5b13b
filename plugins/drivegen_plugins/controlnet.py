"""ControlNet: any diffusers `ControlNetModel` over a picture per camera (Zhang 2023), and the files it is released in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from drivegen.plugin import Context, Released, ReleasedFile, Residuals, Signal
from drivegen.plugin.control_branch import SHARED, halvings, run_branch
from drivegen.plugin.picture_plugin import GIVEN, PicturePlugin, network_arguments
from drivegen.support.errors import InputError

_SHAPED = ("in_channels", "down_block_types", "mid_block_type", "block_out_channels", "layers_per_block", "cross_attention_dim")
_UNSHAPED = (
    *(key for key in SHARED if key not in (*_SHAPED, "use_linear_projection", "transformer_layers_per_block")),
    "addition_time_embed_dim",
)
"""Settings that no weight's shape shows: a branch that was released as a file has those of the UNet that it was copied from."""

_FOREIGN = {
    "lora_controlnet": "a Control-LoRA, which needs its base's weights and is not read",
    "difference": "a ControlNet stored as the difference to a base, which is not read; take the whole one",
    "task_embedding": "a ControlNet Union of SDXL, which takes several kinds of pictures by their number, and is not read",
    "controlnet_x_embedder.weight": "a ControlNet of FLUX, and not for Stable Diffusion 1.x, 2.x and XL",
    "pos_embed_input.proj.weight": "a ControlNet of Stable Diffusion 3, and not for 1.x, 2.x and XL",
}
"""Names that tell files of other ControlNets."""


class ControlNet(PicturePlugin):
    """A ControlNet on a picture per camera; null, like a camera without a picture, adds nothing.

    Args:
        picture: one of `raster.PICTURES`, or "given".
        network: a ControlNetModel's configuration, in which None is the UNet's own setting; None = a copy of the UNet's
            encoder.
        attends_to: the plugins whose tokens it attends to; None = all.
        channels: of the picture; None = those of its kind, or of the network.
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

    @classmethod
    def read_released(cls, file: ReleasedFile) -> Released | None:
        if file.config is not None:
            if file.config.get("_class_name") != "ControlNetModel":
                return None
            network, state = network_config(file.config), dict(file.state)
        else:
            found = {key.removeprefix("control_model."): value for key, value in file.state.items()}
            if any(key.startswith("control_model.") for key in file.state):  # a whole checkpoint may be beside it
                found = {k.removeprefix("control_model."): v for k, v in file.state.items() if k.startswith("control_model.")}
            for key, what in _FOREIGN.items():
                if key in found:
                    raise InputError(f"it is {what}")
            if any(key.startswith("lllite_") for key in found):
                raise InputError("it is a ControlNet-LLLite of SDXL, which is no branch, and is not read")
            if "input_hint_block.0.weight" in found:
                state = _from_ldm(found)
            elif "controlnet_cond_embedding.conv_in.weight" in found:
                state = found
            else:
                return None
            # Nothing in Shuffle's file says that it pools over the picture; its name is how the field's interfaces know.
            network = _shaped(state) | {"global_pool_conditions": "shuffle" in file.path.stem.lower()}
        arguments = {"network": network, "picture": GIVEN}
        # diffusers' pipelines show it to both halves of guidance, but one that pools to the conditional half alone.
        training = {} if network.get("global_pool_conditions") else {"drop": 0}
        embedder = "controlnet_cond_embedding."
        names = {k: f"embedder.{k.removeprefix(embedder)}" if k.startswith(embedder) else f"branch.{k}" for k in state}
        return Released(arguments, {names[key]: value for key, value in state.items()}, training)

    def _hold(self, net: Any, network: Mapping[str, Any]) -> None:
        """Take a network apart: its embedder works once per batch, the rest of it at every step."""
        self.config["network"] = dict(network)
        self.flipped = net.config.controlnet_conditioning_channel_order == "bgr"
        # The branch gets the embedding as it is, so its own turning of channels must rest.
        net.register_to_config(controlnet_conditioning_channel_order="rgb")
        self.embedder: nn.Module = net.controlnet_cond_embedding
        net.controlnet_cond_embedding = nn.Identity()
        self.branch = net

    def attach(self, backbone: Any) -> None:
        if "branch" not in self._modules:
            stages = halvings(backbone.vae_factor) + 1
            net = backbone.family.control_network(self.channels, (*(16, 32, 96, *[256] * stages)[: stages - 1], 256))
            # The branch ends in zero convolutions: a second zero in a row would only delay the first gradient.
            net.controlnet_cond_embedding.conv_out.reset_parameters()
            self._hold(net, network_config(net.config))
        elif self.config["network"].get("attention_head_dim", "") is None:
            self._complete(backbone.family.branch_settings)
        _check_fit(self.branch, self.embedder, backbone)
        self.attends(self.branch)

    def _complete(self, settings: Mapping[str, Any]) -> None:
        """Give the branch those of the model's settings that its file could not say; its weights stay."""
        network = self.config["network"]
        network |= network_config({k: settings[k] for k in _UNSHAPED if k in settings and network.get(k, "") is None})
        weights = {f"controlnet_cond_embedding.{k}": v for k, v in self.embedder.state_dict().items()}
        with torch.device("meta"):
            net = _build(network)
        net.load_state_dict(weights | self.branch.state_dict(), assign=True)
        self._hold(net, network)

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
    network = {key: value for key, value in network.items() if value is not None or key not in _UNSHAPED}
    if "norm_num_groups" not in network and "block_out_channels" in network:  # until the UNet's are known
        network["norm_num_groups"] = math.gcd(32, *network["block_out_channels"])
    for key, hosted in (("addition_embed_type", "text_time"), ("class_embed_type", None), ("encoder_hid_dim_type", None)):
        if network.get(key) not in (None, hosted):
            raise InputError(f"controlnet: {key} {network[key]!r} is for models that are not hosted")
    order = network.get("controlnet_conditioning_channel_order", "rgb")
    if order not in ("rgb", "bgr"):
        raise InputError(f"controlnet: controlnet_conditioning_channel_order {order!r} must be 'rgb' or 'bgr'")
    try:
        return ControlNetModel(**{k: tuple(v) if isinstance(v, list) else v for k, v in network.items()})
    except (TypeError, ValueError) as error:
        raise InputError(f"controlnet: the network's configuration is refused: {error}") from error


def _check_fit(branch: Any, embedder: Any, backbone: Any) -> None:
    backbone.family.check_branch(branch)
    ours, theirs = 2 ** (len(embedder.blocks) // 2), backbone.vae_factor
    if ours != theirs:
        raise InputError(
            f"the ControlNet has pixels per latent {ours}, and this model's UNet {theirs}; it was made for another base"
        )


_LDM_RESNET = {
    "in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj", "out_layers.0": "norm2",
    "out_layers.3": "conv2", "skip_connection": "conv_shortcut",
}  # fmt: skip


def _from_ldm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a ControlNet of the original layout (`input_blocks.…`, `zero_convs.…`) as diffusers' ControlNetModel has it."""
    blocks = {int(key.split(".")[1]) for key in state if key.startswith("input_blocks.")}
    hints = sorted({int(key.split(".")[1]) for key in state if key.startswith("input_hint_block.")})
    places = {
        "time_embed.0": "time_embedding.linear_1",
        "time_embed.2": "time_embedding.linear_2",
        "input_blocks.0.0": "conv_in", "label_emb.0.0": "add_embedding.linear_1", "label_emb.0.2": "add_embedding.linear_2",
    }  # fmt: skip
    places |= {"middle_block_out.0": "controlnet_mid_block", "middle_block.1": "mid_block.attentions.0"}
    places |= {f"zero_convs.{i}.0": f"controlnet_down_blocks.{i}" for i in blocks}
    embedding = "controlnet_cond_embedding"
    places |= {f"input_hint_block.{n}": f"{embedding}.blocks.{i - 1}" for i, n in enumerate(hints)}
    places |= {f"input_hint_block.{hints[0]}": f"{embedding}.conv_in", f"input_hint_block.{hints[-1]}": f"{embedding}.conv_out"}
    resnets = {f"middle_block.{2 * i}": f"mid_block.resnets.{i}" for i in range(2)}
    level = layer = 0
    for i in sorted(blocks - {0}):
        if f"input_blocks.{i}.0.op.weight" in state:
            places[f"input_blocks.{i}.0.op"] = f"down_blocks.{level}.downsamplers.0.conv"
            level, layer = level + 1, 0
        else:
            resnets[f"input_blocks.{i}.0"] = f"down_blocks.{level}.resnets.{layer}"
            places[f"input_blocks.{i}.1"] = f"down_blocks.{level}.attentions.{layer}"
            layer += 1
    places |= {f"{ldm}.{a}": f"{ours}.{b}" for ldm, ours in resnets.items() for a, b in _LDM_RESNET.items()}
    return {_renamed(key, places): value for key, value in state.items()}


def _renamed(key: str, places: Mapping[str, str]) -> str:
    """Rename by the longest of the beginnings that are known; a name that none of them begins stays, to be refused by name."""
    parts = key.split(".")
    for end in range(len(parts), 0, -1):
        begin = ".".join(parts[:end])
        if begin in places:
            return ".".join([places[begin], *parts[end:]])
    return key


def _shaped(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read a ControlNetModel's configuration from the shapes of its weights; what they do not show is None."""
    levels = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("down_blocks."))
    attends = [any(key.startswith(f"down_blocks.{i}.attentions.") for key in state) for i in range(levels)]
    context = next((value.shape[1] for key, value in state.items() if key.endswith("attn2.to_k.weight")), None)
    if context is None:
        raise InputError("it is a ControlNet without cross-attention, and for no model that is hosted")
    embedding = "controlnet_cond_embedding"
    steps = 1 + max(int(key.split(".")[2]) for key in state if key.startswith(f"{embedding}.blocks."))
    widths = [state[f"{embedding}.blocks.{i}.weight"].shape[0] for i in range(1, steps, 2)]
    middle = any(key.startswith("mid_block.attentions.") for key in state)
    return {
        "in_channels": state["conv_in.weight"].shape[1],
        "conditioning_channels": state[f"{embedding}.conv_in.weight"].shape[1],
        "conditioning_embedding_out_channels": [state[f"{embedding}.conv_in.weight"].shape[0], *widths],
        "block_out_channels": [state[f"down_blocks.{i}.resnets.0.conv1.weight"].shape[0] for i in range(levels)],
        "down_block_types": ["CrossAttnDownBlock2D" if one else "DownBlock2D" for one in attends],
        "mid_block_type": "UNetMidBlock2DCrossAttn" if middle else "UNetMidBlock2D",
        "layers_per_block": len({key.split(".")[3] for key in state if key.startswith("down_blocks.0.resnets.")}),
        "cross_attention_dim": context,
        **_vectors(state),
        "transformer_layers_per_block": _depths(state, attends, middle),
        "use_linear_projection": any(key.endswith("0.proj_in.weight") and value.ndim == 2 for key, value in state.items()),
        **dict.fromkeys(_UNSHAPED),
    }


def _depths(state: Mapping[str, Tensor], attends: list[bool], middle: bool) -> int | list[int]:
    """Count the transformer blocks of each level: one number where all have as many, as diffusers' configurations have it.

    Args:
        state: the weights by diffusers' names.
        attends: which levels have attention.
        middle: whether the middle has, which must be as deep as the last level.
    """

    def depth(begin: str) -> int:
        begin = f"{begin}.attentions.0.transformer_blocks."
        return len({key.removeprefix(begin).split(".")[0] for key in state if key.startswith(begin)})

    # A level without attention has no blocks, and diffusers asks for a number.
    found = [depth(f"down_blocks.{i}") if there else 1 for i, there in enumerate(attends)]
    if middle and not attends[-1]:
        found[-1] = depth("mid_block")
    return found[0] if len(set(found)) == 1 else found


def _vectors(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read what a branch is given besides tokens, pooled text and numbers about the picture, where it is SDXL's."""
    weight = state.get("add_embedding.linear_1.weight")
    if weight is None:
        return {}
    return {"addition_embed_type": "text_time", "projection_class_embeddings_input_dim": int(weight.shape[-1])}
