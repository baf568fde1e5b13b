"""Faster generation on a CPU with the same results: kernels, memory and repeated work; everything is undone afterwards."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from drivegen.host.host import Host
from drivegen.plugin.attention import attention_by_parts
from drivegen.sampling.cpu.feed_forward import by_rows
from drivegen.sampling.cpu.few_pixels import by_product, few_pixels
from drivegen.sampling.cpu.linear import WideLinear, as_convolution, by_lines, is_one_pixel, wide
from drivegen.sampling.cpu.winograd import MIN_PIXELS, saves_time, winograd
from drivegen.sampling.temporary import temporary_forward

_MMAP_MAX, _MMAP_THRESHOLD, _TRIM_THRESHOLD = -4, -3, -1
"""glibc's mallopt parameters (malloc.h)."""


@contextmanager
def fast_generation(host: Host, repeats: bool = True) -> Iterator[None]:
    """Compute a host's predictions faster within the block; on other devices than a CPU nothing changes.

    Args:
        host: networks and plugins.
        repeats: whether layers that are given what they were given last give what they gave: they depend on nothing else.
    """
    with ExitStack() as stack:
        if next(host.backbone.unet.parameters()).device.type == "cpu":
            stack.enter_context(kept_memory())
            if repeats:
                stack.enter_context(repeated_once(host))
            stack.enter_context(quick_feed_forward(host))
            stack.enter_context(wide_convolutions(host))
            stack.enter_context(products_by_onednn(host))
            if any(p.dtype == torch.bfloat16 for network in _networks(host) for p in network.parameters()):
                stack.enter_context(AttentionByParts())  # it looks at every call of torch's: none where none is in bfloat16
        yield


class AttentionByParts(TorchFunctionMode):
    """Attention in bfloat16 as two matrix products and a softmax, a few rows at a time, for every caller.

    torch's fused attention does not use a CPU's bfloat16 instructions where these are AVX-512's, and is then half as fast.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        options = dict(kwargs or {})
        if func is nn.functional.scaled_dot_product_attention and _plain(args, options):
            q, k, v = args
            return attention_by_parts(q, k, v, options.get("attn_mask"))
        return func(*args, **options)


def _plain(args: Any, options: Mapping[str, Any]) -> bool:
    """Tell whether a call is one that `attention_by_parts` computes: bfloat16 on a CPU, an additive mask at most."""
    if len(args) != 3 or options.get("is_causal") or options.get("dropout_p") or options.get("scale") is not None:
        return False
    mask = options.get("attn_mask")
    if options.get("enable_gqa") or (mask is not None and (mask.ndim != 4 or not mask.is_floating_point())):
        return False
    return all(x.ndim == 4 and x.dtype == torch.bfloat16 and x.device.type == "cpu" for x in args)


@contextmanager
def repeated_once(host: Host) -> Iterator[None]:
    """Compute the layers before the first cross-attention once for all passes of guidance, whose latents are the same.

    A layer whose input equals its last one, value for value, returns its last output; hooks (taps) on it run every time.
    """
    with temporary_forward(
        [m for network in _networks(host) for m in _first_layers(network)], lambda module: _repeat(module.forward)
    ):
        yield


def _networks(host: Host) -> list[nn.Module]:
    return [host.backbone.unet, *(n for name in host.plugins for n in host.plugin(name).networks)]


def _first_layers(network: Any) -> Iterator[nn.Module]:
    """Name the costly layers of a network that lie before its first cross-attention."""
    from diffusers.models.attention_processor import Attention
    from diffusers.models.resnet import ResnetBlock2D

    for block in getattr(network, "down_blocks", ()):
        crossed = getattr(block, "attentions", None)
        for i, resnet in enumerate(block.resnets):
            if isinstance(resnet, ResnetBlock2D):
                yield resnet
            if crossed is not None and i < len(crossed):
                found = next((m for m in crossed[i].modules() if isinstance(m, Attention)), None)
                if found is not None and not found.is_cross_attention:
                    yield found
                return


def _repeat(forward: Callable[..., Any]) -> Callable[..., Any]:
    last: list[Any] = []

    def repeating(*args: Any, **kwargs: Any) -> Any:
        given = (*args, *kwargs.values())
        if torch.is_grad_enabled() or torch.is_inference_mode_enabled() or not all(map(_comparable, given)):
            return forward(*args, **kwargs)
        # What somebody has changed in place since, input or output, is not what was computed.
        if last and last[2] == _versions(*last[0], last[1]) and len(last[0]) == len(given) and all(map(_equal, last[0], given)):
            return last[1]
        last.clear()  # before the next output is made, so that two are never kept
        out = forward(*args, **kwargs)
        last.extend((given, out, _versions(*given, out)))
        return out

    return repeating


def _comparable(x: Any) -> bool:
    return not isinstance(x, Tensor) or (x.device.type == "cpu" and not x.is_inference())


def _versions(*values: Any) -> list[int]:
    return [x._version for x in values if isinstance(x, Tensor)]


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    return a is b


@contextmanager
def quick_feed_forward(host: Host) -> Iterator[None]:
    """Compute feed-forwards a few rows at a time, and their linear layers, most of the linear arithmetic, as convolutions.

    torch gives linear layers in fp32 to MKL, which does not use the whole of an AMD processor, and convolutions to oneDNN.
    """
    from diffusers.models.attention import FeedForward

    found = [m for network in _networks(host) for m in network.modules() if isinstance(m, FeedForward)]
    layers = [m for one in found for m in one.modules() if type(m) is nn.Linear]
    with ExitStack() as stack:
        stack.enter_context(temporary_forward(found, lambda module: partial(by_rows, module, module.forward)))
        stack.enter_context(temporary_forward(layers if _both() else [], lambda layer: partial(_as_convolution, layer)))
        yield


def _both() -> bool:
    """Tell whether torch has two libraries to choose from."""
    return torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()


@contextmanager
def products_by_onednn(host: Host) -> Iterator[None]:
    """Compute wide linear layers and wide convolutions of one pixel in fp32 by oneDNN, whoever calls them.

    For the linear layers every call of torch's is looked at, which takes 8 % of the embedded model's time: only where attention
    is wide, since the wide layers of a narrower network are embeddings of one row, which are no work.
    """
    from diffusers.models.attention_processor import Attention

    modules = [m for network in _networks(host) for m in network.modules()]
    modules += [m for name in host.plugins for m in host.plugin(name).modules()]
    pixels = [m for m in modules if type(m) is nn.Conv2d and is_one_pixel(m)]
    layers = [m for attention in modules if isinstance(attention, Attention) for m in attention.modules()]
    linear = any(type(m) is nn.Linear and wide(m.weight) and m.weight.dtype == torch.float32 for m in layers)
    mode = WideLinear() if linear and _both() else nullcontext()
    with temporary_forward(pixels if _both() else [], lambda layer: partial(by_lines, layer)), mode:
        yield


def _as_convolution(layer: nn.Linear, x: Tensor) -> Tensor:
    if x.device.type != "cpu" or x.numel() == 0:
        return nn.functional.linear(x, layer.weight, layer.bias)
    return as_convolution(x, layer.weight, layer.bias)


@contextmanager
def wide_convolutions(host: Host) -> Iterator[None]:
    """Compute wide 3×3 convolutions as one product where pixels are few, else in fp32 by `winograd`; the VAE decoder's too."""
    networks = [*_networks(host), host.backbone.vae.decoder]
    layers = [m for network in networks for m in network.modules() if type(m) is nn.Conv2d and saves_time(m)]
    with temporary_forward(layers, lambda layer: partial(_convolved, layer)):
        yield


def _convolved(layer: nn.Conv2d, x: Tensor) -> Tensor:
    weight, dtype = layer.weight, torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    if x.ndim == 4 and x.device.type == "cpu" and dtype == weight.dtype and not torch.is_grad_enabled():
        if few_pixels(x, weight):
            return by_product(x.to(dtype), weight, layer.bias)
        if dtype == torch.float32 and len(x) * x.shape[2] * x.shape[3] >= MIN_PIXELS:
            return winograd(x, weight, layer.bias)
    return layer._conv_forward(x, weight, layer.bias)


@contextmanager
def kept_memory() -> Iterator[None]:
    """Keep freed memory for the next layer instead of returning it to the system.

    glibc maps every tensor above 32 MB anew; touching new pages then takes longer than computing on them. After the block all
    of it is returned. Other C libraries are left alone.
    """
    libc: Any = ctypes.CDLL(None) if sys.platform == "linux" else None
    if not hasattr(libc, "mallopt") or not hasattr(libc, "malloc_trim"):
        yield
        return
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        # Where glibc's own thresholds arrive by themselves after the first large tensors.
        libc.mallopt(_MMAP_MAX, 65536)
        libc.mallopt(_MMAP_THRESHOLD, 2**25)
        libc.mallopt(_TRIM_THRESHOLD, 2**26)
        libc.malloc_trim(0)
