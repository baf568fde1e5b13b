"""Where a file's layers are in a network: by their names, or by kohya's, which have `_` for every dot."""

from __future__ import annotations

from torch import Tensor, nn

from drivegen.lora.changes import Change, Shift
from drivegen.support.errors import InputError, nearest

NORMS = (nn.GroupNorm, nn.LayerNorm)


class Places:
    """The layers of a network.

    Args:
        network: its name, for errors: "unet" or "text_encoder".
        model: the network, without anything added.
    """

    def __init__(self, network: str, model: nn.Module) -> None:
        self.network = network
        self._modules = dict(model.named_modules())
        self._flat: dict[str, str | None] = {}
        for name in self._modules:
            flat = name.replace(".", "_")
            self._flat[flat] = None if flat in self._flat else name

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


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, InputError) else f"its parts do not fit ({' '.join(str(error).split())[:160]})"
