"""Where a file's layers are in a network: by their names, or by kohya's, which have `_` for every dot."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from drivegen.lora.changes import Change, Shift
from drivegen.plugin.tuner import own_layers
from drivegen.support.errors import InputError, nearest

NORMS = (nn.GroupNorm, nn.LayerNorm)


class Places:
    """The layers of a network.

    Args:
        network: its name, for errors: "unet", "text_encoder" or "text_encoder_2".
        model: the network; what PEFT has put around a layer is not looked at.
    """

    def __init__(self, network: str, model: nn.Module) -> None:
        self.network = network
        self._modules = dict(own_layers(model))
        self._flat: dict[str, str | None] = {}
        for name in self._modules:
            flat = name.replace(".", "_")
            self._flat[flat] = None if flat in self._flat else name
        for original, own in _original_names(model).items():
            for name in self._modules:
                if name == own or name.startswith(f"{own}."):
                    self._flat.setdefault(f"{original}{name.removeprefix(own).replace('.', '_')}", name)

    def named(self, name: str) -> str:
        """Return a layer's own name, from the file's; raises InputError where there is none."""
        return self._find(name)

    def factors(self, name: str, change: Change) -> tuple[str, tuple[Tensor, Tensor]]:
        """Return a layer's own name, and A and B of what changes in it.

        Args:
            name: the file's.
            change: of its weight.

        Raises InputError where there is no such layer, or where it has another shape.
        """
        own = self._find(name)
        module = self._modules[own]
        if not isinstance(module, nn.Linear | nn.Conv2d):
            raise InputError(
                f"the LoRA changes {self.network}.{name}, a {type(module).__name__}; only linear layers and convolutions can"
            )
        if isinstance(module, nn.Conv2d) and module.groups != 1:
            raise InputError(
                f"the LoRA changes {self.network}.{name}, a convolution of {module.groups} groups; those of one can be"
            )
        weight = module.weight.detach()
        try:
            a, b = change.factors(weight.float().cpu())
        except (InputError, RuntimeError) as error:
            raise InputError(f"the LoRA was made for another base: in {self.network}.{name} {_said(error)}") from error
        if (b.shape[0], *a.shape[1:]) != tuple(weight.shape):
            its = f"it changes weights of shape {(b.shape[0], *a.shape[1:])}"
            ours = f"here they have {tuple(weight.shape)}, of a {type(module).__name__}"
            raise InputError(f"the LoRA was made for another base: in {self.network}.{name} {its}, and {ours}")
        return own, (a, b)

    def shifted(self, name: str, shift: Shift) -> tuple[str, Shift]:
        """Return a layer's own name, and the difference of its bias, or of a norm.

        Args:
            name: the file's.
            shift: what is added.

        Raises InputError where there is no such layer, or where it has no such parameter of that shape.
        """
        own = self._find(name)
        module = self._modules[own]
        if shift.weight is not None and not isinstance(module, NORMS):
            raise InputError(f"the file changes {self.network}.{name} as a norm, and it is a {type(module).__name__}")
        for word, value in (("weight", shift.weight), ("bias", shift.bias)):
            there = getattr(module, word, None)
            if value is not None and (there is None or there.shape != value.shape):
                has = "none" if there is None else f"one of shape {tuple(there.shape)}"
                raise InputError(
                    f"the file was made for another base: it changes the {word} of {self.network}.{name} by "
                    f"{tuple(value.shape)} numbers, and here it has {has}"
                )
        return own, shift

    def _find(self, name: str) -> str:
        for known in (name, name.removeprefix("text_model."), f"text_model.{name}"):
            if known in self._modules:
                return known
        for flat in (name, name.removeprefix("text_model_"), f"text_model_{name}"):
            if own := self._flat.get(flat):
                return own
        near = nearest(name, self._modules if "." in name else self._flat)
        raise InputError(f"the LoRA changes {self.network}.{name}, which this model does not have{near}")


_RESNET = {
    "in_layers_0": "norm1", "in_layers_2": "conv1", "emb_layers_1": "time_emb_proj", "out_layers_0": "norm2",
    "out_layers_3": "conv2", "skip_connection": "conv_shortcut",
}  # fmt: skip


def _original_names(model: Any) -> dict[str, str]:
    """Name the parts of a UNet as the original code numbers them, with `_` for dots (`input_blocks_4_1`): kohya's for SDXL."""
    if not hasattr(model, "down_blocks") or not hasattr(model, "up_blocks"):
        return {}
    names = {
        "time_embed_0": "time_embedding.linear_1", "time_embed_2": "time_embedding.linear_2", "input_blocks_0_0": "conv_in",
        "label_emb_0_0": "add_embedding.linear_1", "label_emb_0_2": "add_embedding.linear_2", "out_0": "conv_norm_out",
        "out_2": "conv_out",
    }  # fmt: skip
    resnets: dict[str, str] = {"middle_block_0": "mid_block.resnets.0", "middle_block_2": "mid_block.resnets.1"}
    names["middle_block_1"] = "mid_block.attentions.0"
    number = 1
    for i, block in enumerate(model.down_blocks):
        for j in range(len(block.resnets)):
            resnets[f"input_blocks_{number}_0"] = f"down_blocks.{i}.resnets.{j}"
            names[f"input_blocks_{number}_1"] = f"down_blocks.{i}.attentions.{j}"
            number += 1
        if block.downsamplers:
            names[f"input_blocks_{number}_0_op"] = f"down_blocks.{i}.downsamplers.0.conv"
            number += 1
    number = 0
    for i, block in enumerate(model.up_blocks):
        attends = getattr(block, "attentions", None) is not None
        for j in range(len(block.resnets)):
            resnets[f"output_blocks_{number}_0"] = f"up_blocks.{i}.resnets.{j}"
            if attends:
                names[f"output_blocks_{number}_1"] = f"up_blocks.{i}.attentions.{j}"
            number += 1
        if block.upsamplers:
            names[f"output_blocks_{number - 1}_{2 if attends else 1}_conv"] = f"up_blocks.{i}.upsamplers.0.conv"
    inner = {f"{there}_{a}": f"{own}.{b}" for there, own in resnets.items() for a, b in _RESNET.items()}
    return names | inner


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, InputError) else f"its parts do not fit ({' '.join(str(error).split())[:160]})"
