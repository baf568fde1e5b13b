"""Tuners in a part of the picture: layers without places in it act through the module around them, mixed by the mask."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from drivegen.host.evaluation import Runtime, with_first
from drivegen.plugin.tuner import Tuner
from drivegen.support.errors import InputError

_BLOCKS = ("conv_in", "down_blocks", "mid_block", "up_blocks", "conv_norm_out", "conv_out")
_OF_CONTEXT = ("to_k", "to_v", "add_k_proj", "add_v_proj")


@dataclass(frozen=True)
class Reach:
    """What a tuner changes.

    Args:
        sites: (network, name of the layer) of each change.
        given: layers whose input it replaces.
        words: words that it teaches.
    """

    sites: tuple[tuple[str, str], ...]
    given: tuple[str, ...] = ()
    words: tuple[str, ...] = ()

    @classmethod
    def of(cls, tuner: Tuner) -> Reach:
        """Return that of a tuner which is attached."""
        given = tuple(name for network, name, key in tuner.sites if network == "unet" and hasattr(tuner.changes[key], "before"))
        return cls(tuple((network, name) for network, name, _ in tuner.sites), given, tuple(tuner.words))

    @property
    def reads(self) -> bool:
        """Whether it changes how prompts are read."""
        return any(network != "unet" for network, _ in self.sites)


def holder(unet: nn.Module, layer: str) -> str | None:
    """Name the module by whose output a change of a layer is held to a part of the picture.

    The layer itself, "", where that gives values with places: convolutions, and linear layers that see tokens of the picture.
    For keys and values of what is attended to, the attention; for a residual block's part of the timestep, the block. None
    where it acts on the whole network at once, as embeddings of the timestep do.
    """
    from diffusers.models.attention_processor import Attention
    from diffusers.models.resnet import ResnetBlock2D

    if layer.partition(".")[0] not in _BLOCKS:
        return None
    name = layer
    while name:
        name, _, last = name.rpartition(".")
        above: Any = unet.get_submodule(name)
        if isinstance(above, Attention):
            return name if last in _OF_CONTEXT and above.is_cross_attention else ""
        if isinstance(above, ResnetBlock2D):
            return name if last == "time_emb_proj" else ""
    return ""


def check_confined(unet: nn.Module, name: str, reach: Reach, region: bool) -> None:
    """Raise InputError where a tuner cannot be held to a range of the steps, or to a region of the picture.

    Args:
        unet: the network.
        name: the tuner's, for the error.
        reach: what it changes.
        region: whether a region is meant; else a range.
    """
    what = f"a {'region' if region else 'range'} is given for {name!r}, which"
    if reach.words:
        raise InputError(f"{what} teaches {reach.words[0]!r}: a prompt has that word or has not; leave it out")
    for network, layer in reach.sites if region else ():
        if network == "unet" and holder(unet, layer) is None:
            raise InputError(f"{what} changes unet.{layer}, and with it the whole picture at once; leave it out")
        if layer in reach.given:
            raise InputError(f"{what} changes what unet.{layer} is given, and not what it gives; leave it out")


def cross_attentions(unet: nn.Module) -> Iterator[str]:
    """Name the modules that attend to the context."""
    from diffusers.models.attention_processor import Attention

    return (name for name, module in unet.named_modules() if isinstance(module, Attention) and module.is_cross_attention)


class Mixed:
    """The hook of a module that is computed again for each tuner with a region: y + Σ mask · (y with the tuner − y).

    Args:
        runtime: of the host.
        names: tuners that change something without places inside of it, or what it attends to.
    """

    def __init__(self, runtime: Runtime, names: tuple[str, ...]) -> None:
        self.runtime, self.names = runtime, names

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        now = self.runtime.evaluation
        if now is None or not now.conditions.tuner_regions or self.runtime.confined is not None:
            return None
        y = output if isinstance(output, Tensor) else output[0]
        total = y
        for name in self.names:
            region = now.conditions.tuner_regions.get(name)
            if region is None:
                continue
            given: Mapping[str, Any] = kwargs
            if name in now.read_with and kwargs.get("encoder_hidden_states") is not None:
                given = {**kwargs, "encoder_hidden_states": now.read_with[name]}
            with confining(self.runtime, name):
                other = module.forward(*args, **given)
            other = other if isinstance(other, Tensor) else other[0]
            total = total + region.on(other - y, y, now.latent_size)
        return None if total is y else with_first(output, total)


@contextmanager
def confining(runtime: Runtime, name: str) -> Iterator[None]:
    """Let a tuner's changes without places act within the block."""
    before, runtime.confined = runtime.confined, name
    try:
        yield
    finally:
        runtime.confined = before
