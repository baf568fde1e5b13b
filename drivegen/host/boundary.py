"""The boundary between host and plugins: every hook is called here, or beside it in `array_boundary`, and checked.

A message names the plugin, its class and the hook, what was returned and what is expected. At every step only shapes are
checked; values are not read, so that nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from drivegen.host.skip_shapes import SkipShapes
from drivegen.plugin import Arrays, Context, Denoiser, Grid, Plugin, Residuals, Signal, ToX0, TrainingStep
from drivegen.plugin.inputs import Input, described
from drivegen.support.errors import InputError

_NOT_A_MISTAKE = (MemoryError, torch.OutOfMemoryError, Warning)
"""Errors that say nothing of a plugin's code: they pass as they are."""


def label(name: str, plugin: Any, hook: str) -> str:
    """Name a hook for a message: ``plugin 'mine' (Mine).encode``.

    Args:
        name: the plugin's instance name.
        plugin: the plugin.
        hook: the hook's name.
    """
    return f"plugin {name!r} ({type(plugin).__name__}).{hook}"


@contextmanager
def calling(name: str, plugin: Any, hook: str, arrays: Mapping[str, Any] | None = None) -> Iterator[None]:
    """Report what is raised inside of a hook as InputError with plugin, class and hook in front; the cause stays attached.

    Args:
        name: the plugin's instance name.
        plugin: the plugin.
        hook: the hook's name.
        arrays: what it was given, whose shapes and dtypes the message lists.
    """
    try:
        yield
    except _NOT_A_MISTAKE:
        raise
    except InputError as error:  # a sentence for users already: which plugin says it is all that it may lack
        if str(error).startswith("plugin "):
            raise
        raise InputError(f"plugin {name!r}: {error}") from error
    except Exception as error:
        if type(error).__module__ == "torch.utils.checkpoint":  # how a recomputation ends once it has what it needs
            raise
        if str(error).startswith("DataLoader worker (pid"):  # torch's signal handler raises it wherever the main thread is
            raise
        said = " ".join(str(error).split())[:300]
        given = ", ".join(f"{key} {tuple(a.shape)} {str(a.dtype).removeprefix('torch.')}" for key, a in (arrays or {}).items())
        of = f" (its arrays: {given})" if given else ""
        raise InputError(f"{label(name, plugin, hook)} raised {type(error).__name__}: {said}{of}") from error


def check_plugin(name: str, plugin: Any) -> None:
    """Raise InputError for anything but a plugin, and for one whose constructor did not call the base class's."""
    if isinstance(plugin, type):
        raise InputError(f"plugin {name!r} is the class {plugin.__name__}; give an instance, {plugin.__name__}()")
    if not isinstance(plugin, Plugin):
        raise InputError(f"plugin {name!r} is {described(plugin)}, not a drivegen.plugin.Plugin")
    if "_modules" not in plugin.__dict__:
        raise InputError(f"{label(name, plugin, '__init__')} does not call super().__init__()")
    accepts = plugin.accepts
    if accepts is not None and not (isinstance(accepts, tuple) and all(isinstance(each, Input) for each in accepts)):
        raise InputError(f"{label(name, plugin, 'accepts')} is {described(accepts)}; expected a tuple of Input, or None")


# -- once per batch --------------------------------------------------------------------------------------------------------


def encode(
    name: str, plugin: Plugin, arrays: Arrays, keep: Tensor, grid: Grid, width: int,
    added: Mapping[str, int] = MappingProxyType({}),
) -> Signal:  # fmt: skip
    """Call `encode`, and check tokens, mask and vectors.

    Args:
        name: the plugin's instance name.
        plugin: the plugin.
        arrays: its arrays (B, …).
        keep: (B,) bool, False = null.
        grid: the batch's layout.
        width: D, the width of tokens.
        added: widths of the vectors that the network takes, by name.
    """
    with calling(name, plugin, "encode", arrays):
        found = plugin.encode(arrays, keep)
    where = label(name, plugin, "encode")
    if not isinstance(found, Signal):
        raise InputError(f"{where}: gave {described(found)}; expected a Signal, such as Signal(tokens) or Signal(data=…)")
    scenes, letter = grid.scenes * grid.frames, "B" if grid.frames == 1 else "B·T"
    sizes = f"{letter} = {scenes}, N = {grid.rows}"
    _check_added(where, found.added, added, grid)
    tokens, mask = found.tokens, found.mask
    if tokens is None:
        if mask is not None:
            raise InputError(f"{where}: gave a mask without tokens; expected both, or neither")
        return found
    wanted = f"({letter}, S, {width}) or (N, S, {width}) with {sizes}"
    if not isinstance(tokens, Tensor):
        raise InputError(f"{where}: tokens are {described(tokens)}; expected a torch tensor {wanted}")
    if tokens.ndim != 3 or tokens.shape[0] not in (scenes, grid.rows) or tokens.shape[2] != width:
        raise InputError(f"{where}: tokens have shape {tuple(tokens.shape)}; expected {wanted}")
    if not tokens.is_floating_point():
        raise InputError(f"{where}: tokens are {str(tokens.dtype).removeprefix('torch.')}; expected floating-point numbers")
    if tokens.layout != torch.strided:
        raise InputError(f"{where}: tokens are a sparse tensor; expected a dense one, as .to_dense() gives")
    devices = {keep.device, *(array.device for array in arrays.values())}
    for what, value in (("tokens are", tokens), ("the mask is", mask)):
        if isinstance(value, Tensor) and value.device not in devices:
            raise InputError(f"{where}: {what} on {value.device}; expected {keep.device}, as the arrays")
    if mask is None:
        return found
    count = tokens.shape[1]
    wanted = f"({letter}, {count}) or (N, {count}) with {sizes}"
    if not isinstance(mask, Tensor):
        raise InputError(f"{where}: the mask is {described(mask)}; expected a bool tensor {wanted}")
    if mask.dtype != torch.bool:
        raise InputError(f"{where}: the mask is {str(mask.dtype).removeprefix('torch.')}; expected bool, True = attended to")
    if mask.ndim != 2 or mask.shape[0] not in (scenes, grid.rows) or mask.shape[1] != count:
        raise InputError(f"{where}: the mask has shape {tuple(mask.shape)}; expected {wanted}")
    return found


def _check_added(where: str, given: Any, added: Mapping[str, int], grid: Grid) -> None:
    """Raise InputError unless the network takes the vectors that a plugin gives."""
    if not isinstance(given, Mapping):
        raise InputError(f"{where}: added is {described(given)}; expected a dict of tensors by name")
    scenes = grid.scenes * grid.frames
    for key, value in given.items():
        if key not in added:
            takes = f"it takes {', '.join(added)}" if added else "it takes none"
            raise InputError(f"{where}: gave the vector {key!r}, which this model's network does not take; {takes}")
        sizes = [(rows, added[key]) for rows in (scenes, grid.rows)]
        if not isinstance(value, Tensor) or tuple(value.shape) not in sizes:
            raise InputError(f"{where}: {key} is {described(value)}; expected a tensor {sizes[0]} or {sizes[1]}")


# -- every step ------------------------------------------------------------------------------------------------------------


def residuals(
    name: str, plugin: Plugin, x: Tensor, t: Tensor, context: Context, signal: Signal, shapes: Callable[[], SkipShapes]
) -> Residuals | None:
    """Call `residuals`, and check that each term fits its place.

    Args:
        name: the plugin's instance name.
        plugin: the plugin.
        x: noisy latents (N, C, h, w).
        t: timesteps (N,).
        context: the present step.
        signal: what its `encode` gave.
        shapes: gives the shapes of the UNet's places, asked for only where there is a term.
    """
    with calling(name, plugin, "residuals"):
        found = plugin.residuals(x, t, context, signal)
    if found is None:
        return None
    where = label(name, plugin, "residuals")
    if not isinstance(found, Residuals):
        what = described(found)
        raise InputError(f"{where}: gave {what}; expected Residuals(down=…, mid=…, intrablock=…) with what it adds, or None")
    places = shapes()
    for part, least, wanted in (("down", len(places.down), places.down), ("intrablock", *places.for_intrablock())):
        terms = getattr(found, part)
        if terms is None:
            continue
        if not isinstance(terms, (tuple, list)):
            raise InputError(f"{where}: {part} is {described(terms)}; expected a tuple of {least} tensors")
        if not least <= len(terms) <= len(wanted):
            raise InputError(f"{where}: {part} has {len(terms)} terms; expected {least}")
        for i, (term, shape) in enumerate(zip(terms, wanted, strict=False)):
            _check_term(where, f"{part}[{i}]", term, (len(x), *shape), x)
    if found.mid is not None:
        _check_term(where, "mid", found.mid, (len(x), *places.mid), x)
    return found


def _check_term(where: str, part: str, term: Any, wanted: tuple[int | None, ...], x: Tensor) -> None:
    shape = f"({', '.join('…' if n is None else str(n) for n in wanted)})"
    if not isinstance(term, Tensor):
        raise InputError(f"{where}: {part} is {described(term)}; expected a torch tensor {shape}")
    rows = term.ndim == 4 and all(b in (None, a) for a, b in zip(term.shape[:2], wanted[:2], strict=True))
    # A ControlNet that pools globally gives one value for all places.
    if not rows or not all(b is None or a in (1, b) for a, b in zip(term.shape[2:], wanted[2:], strict=True)):
        raise InputError(f"{where}: {part} has shape {tuple(term.shape)}; expected {shape}")
    if not term.is_floating_point() or (term.dtype == torch.float64 and x.dtype != torch.float64):
        kind = str(term.dtype).removeprefix("torch.")
        raise InputError(f"{where}: {part} is {kind}; expected {str(x.dtype).removeprefix('torch.')}, as the latents")


def check_tap(name: str, plugin: Plugin, site: str, term: Any, y: Tensor) -> None:
    """Raise InputError unless a tap's term can be added to its site's output.

    Args:
        name: the plugin's instance name.
        plugin: the plugin.
        site: the tapped module's name.
        term: what the tap's layer gave.
        y: the site's output.
    """
    if isinstance(term, Tensor) and term.shape == y.shape:
        return
    where = label(name, plugin, f"tap at {site!r}")
    if not isinstance(term, Tensor):
        raise InputError(f"{where}: gave {described(term)}; expected a torch tensor of shape {tuple(y.shape)}, or None")
    pairs = zip(reversed(term.shape), reversed(y.shape), strict=False)
    if term.ndim > y.ndim or not all(a in (1, b) for a, b in pairs):
        raise InputError(f"{where}: gave shape {tuple(term.shape)}; expected {tuple(y.shape)}, or what broadcasts to it")


# -- training and guidance -------------------------------------------------------------------------------------------------


def weight(name: str, plugin: Plugin, arrays: Arrays, step: TrainingStep) -> Tensor | None:
    """Call `weight`, and check that it gives weights for the step's latents (N, C, h, w), or None.

    Args:
        name: the plugin's instance name.
        plugin: the plugin.
        arrays: its arrays (B, …).
        step: the training step.

    Returns (N, C, h, w), (N, 1, h, w), or (N, 1, 1, 1) for one weight per row.
    """
    with calling(name, plugin, "weight", arrays):
        found = plugin.weight(arrays, step)
    rows, channels, *size = step.clean.shape
    wanted = (rows, 1, *size)
    if found is None or (
        isinstance(found, Tensor) and tuple(found.shape) in (wanted, (rows, channels, *size), (rows, 1, 1, 1))
    ):
        return found
    raise InputError(
        f"{label(name, plugin, 'weight')}: gave {described(found)}; expected a tensor (N, 1, h, w) = {wanted}, or one weight "
        f"for each of the {channels} channels"
    )


def loss(name: str, plugin: Plugin, pred: Tensor, target: Tensor, t: Tensor, arrays: Arrays) -> Tensor | None:
    """Call `loss`, and check that it gives a scalar tensor, or None.

    Args:
        name: the plugin's instance name.
        plugin: the plugin.
        pred: the prediction (N, C, h, w).
        target: what it should be.
        t: timesteps (N,).
        arrays: its arrays (B, …).
    """
    with calling(name, plugin, "loss", arrays):
        found = plugin.loss(pred, target, t, arrays)
    if found is None or (isinstance(found, Tensor) and found.ndim == 0 and found.is_floating_point()):
        return found
    raise InputError(f"{label(name, plugin, 'loss')}: gave {described(found)}; expected a scalar tensor, as .mean() gives")


def guide(name: str, plugin: Plugin, denoise: Denoiser, to_x0: ToX0) -> Denoiser:
    """Call `guide`, and give its denoiser with a check at every step; `denoise` itself where it gives None.

    Args:
        name: the plugin's instance name.
        plugin: the plugin.
        denoise: the denoiser to wrap; what it raises passes as it is.
        to_x0: gives clean latents.
    """
    outside: list[Exception] = []

    def inner(*args: Any, **kwargs: Any) -> Tensor:
        try:
            return denoise(*args, **kwargs)
        except Exception as error:
            outside.append(error)
            raise

    with calling(name, plugin, "guide"):
        guided = plugin.guide(inner, to_x0)
    if guided is None:
        return denoise
    if not callable(guided):
        raise InputError(f"{label(name, plugin, 'guide')}: gave {described(guided)}; expected a denoiser, or None")
    checked: Any = guided

    def outer(x: Tensor, t: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        outside.clear()
        try:
            with calling(name, plugin, "guide"):
                out = checked(x, t, *args, **kwargs)
        except InputError as error:
            if error.__cause__ in outside:  # what it wraps failed, not the plugin
                raise error.__cause__ from None
            raise
        if not isinstance(out, Tensor) or out.shape != x.shape:
            where = label(name, plugin, "guide")
            raise InputError(f"{where}: its denoiser gave {described(out)}; expected a tensor of shape {tuple(x.shape)}")
        return out

    return outer
