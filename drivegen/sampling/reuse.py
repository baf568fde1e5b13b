"""Reuse between steps (Ma et al. 2023, DeepCache): deep layers are computed at some of the steps, and give their last output at
the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from drivegen.host.host import Host
from drivegen.sampling.denoiser import HostDenoiser
from drivegen.sampling.temporary import temporary_forward
from drivegen.support.errors import InputError
from drivegen.support.values import whole


@dataclass(frozen=True)
class Reuse:
    """How deep layers are reused: computed at steps 0, interval, 2·interval …; 1 computes all at every step.

    The first `depth` layers on the way down and the last depth + 1 on the way up are computed at every step; 0 keeps the least.
    """

    interval: int = 3
    depth: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "interval", whole(self.interval, "reuse interval", 1, 1000))
        object.__setattr__(self, "depth", whole(self.depth, "reuse depth", 0, 100))


@contextmanager
def reusing(predict: HostDenoiser, reuse: Reuse) -> Iterator[None]:
    """Let a denoiser's UNet, and the branches that plugins named, reuse their deep layers within the block.

    Outputs are kept for each combination of conditions, so that the halves of guidance do not take each other's. Taps and
    residuals inside of what is reused act with it; those outside act at every step.

    Args:
        predict: the denoiser, whose `step` says where the sampling is.
        reuse: how often, and from which layer on.
    """
    modules = check_reuse(predict.host, reuse)
    with temporary_forward(modules, lambda module: _kept(module.forward, predict, reuse.interval)):
        yield


def check_reuse(host: Host, reuse: Reuse) -> list[nn.Module]:
    """Return the layers of a host that are reused; raises InputError where a network has fewer layers than depth says."""
    networks: list[Any] = [host.backbone.unet, *(n for name in host.plugins for n in host.plugin(name).networks)]
    return [m for network in networks if hasattr(network, "down_blocks") for m in deep_layers(network, reuse.depth)]


def deep_layers(network: Any, depth: int) -> list[nn.Module]:
    """List the modules of a UNet, or of a branch that is its encoder, that are reused; raises InputError where none would be.

    Args:
        network: with diffusers' blocks.
        depth: how many layers of the first block are computed at every step.
    """
    first, later = network.down_blocks[0], list(network.down_blocks[1:])
    most = len(first.resnets)
    if depth > most:
        raise InputError(f"reuse depth {depth} is more than the {most} layers of the network's first block")
    deep: list[nn.Module] = [first] if depth == 0 else [*_after(first, depth), *(first.downsamplers or ())]
    deep += [*later, network.mid_block]
    ups = list(getattr(network, "up_blocks", ()))
    if ups:
        last = ups[-1]
        deep += [*ups[:-1], *_before(last, len(last.resnets) - depth - 1), *(last.upsamplers or ())]
    return deep


def _layers(block: Any) -> list[Any]:
    return [block.resnets, *([block.attentions] if getattr(block, "attentions", None) is not None else [])]


def _after(block: Any, count: int) -> list[nn.Module]:
    return [layer for layers in _layers(block) for layer in list(layers)[count:]]


def _before(block: Any, count: int) -> list[nn.Module]:
    return [layer for layers in _layers(block) for layer in list(layers)[: max(count, 0)]]


def _kept(forward: Callable[..., Any], predict: HostDenoiser, interval: int) -> Callable[..., Any]:
    kept: dict[int, Any] = {}

    def reused(*args: Any, **kwargs: Any) -> Any:
        key = id(predict.conditions)  # the denoiser holds them all, so that no other object gets the same
        if predict.step % interval == 0 or key not in kept:
            kept[key] = forward(*args, **kwargs)
        return kept[key]

    return reused
