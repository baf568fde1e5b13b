"""Checks of a generation's options: each returns the value in its stored form, or raises InputError with what is wrong."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from drivegen.support import values
from drivegen.support.errors import InputError, nearest

RECORDED = "recorded"
"""Stands for the pictures that the frame's cameras took."""


def number(value: Any, name: str) -> float:
    """Check a number."""
    return values.number(value, name)


def share(value: Any, name: str) -> float:
    """Check a share, 0 to 1."""
    return values.number(value, name, 0, 1)


def text_or_list(value: Any, name: str) -> str | tuple[str, ...]:
    """Check one text for all frames, or a list with one per frame."""
    if isinstance(value, str):
        return value
    return tuple(
        values.text(one, f"an item of {name}") for one in values.sequence(value, name, "texts, one per frame, or one text")
    )


def guidance(value: Any, name: str) -> float | dict[str, float]:
    """Check a guidance scale, or a weight per plugin."""
    if isinstance(value, Mapping):
        return {n: values.number(w, name, of=n) for n, w in values.by_name(value, name, "weights").items()}
    return values.number(value, name)


def scales(value: Any, name: str) -> dict[str, float]:
    """Check a scale per plugin."""
    return {n: values.number(x, "scale", 0, of=n) for n, x in values.by_name(value, name, "numbers").items()}


def ranges(value: Any, name: str) -> dict[str, tuple[float, float]]:
    """Check (start, end) fractions of the steps per plugin."""
    given = values.by_name(value, name, "(start, end)").items()
    return {plugin: values.fractions(ends, f"range of {plugin!r}") for plugin, ends in given}


def names(value: Any, name: str) -> tuple[str, ...]:
    """Check a list of names."""
    given = [value] if isinstance(value, str) else values.sequence(value, name, "plugin names")
    return tuple(dict.fromkeys(values.text(one, f"an item of {name}") for one in given))


def by_plugin(value: Any, name: str) -> dict[str, Any]:
    """Check a mapping from plugin names to values."""
    return values.by_name(value, name, "values")


def sampler_options(value: Any, name: str) -> dict[str, Any]:
    """Check the sampler's own options by name."""
    from drivegen.sampling.settings import plain_options

    return plain_options(value, name)


def reuse(value: Any, name: str) -> dict[str, int]:
    """Check {"interval": N, "depth": D}, of which each may be left out."""
    from drivegen.sampling import Reuse

    given = values.by_name(value, name, "whole numbers")
    for key in given:
        if key not in ("interval", "depth"):
            raise InputError(f"{name} has no {key!r}; give interval and depth, such as {{'interval': 3, 'depth': 0}}")
    found = Reuse(**given)
    return {"interval": found.interval, "depth": found.depth}


def seed(value: Any, name: str) -> int | tuple[int, ...]:
    """Check a seed, or a list of them."""
    from drivegen.sampling import check_seed

    if (isinstance(value, Sequence) and not isinstance(value, (str, bytes))) or getattr(value, "ndim", 0) == 1:
        return tuple(check_seed(one) for one in values.sequence(value, name, "whole numbers"))
    return check_seed(value)


def size(value: Any, name: str) -> tuple[int, int]:
    """Check (height, width) in pixels."""
    sides = values.sequence(value, name, "two whole numbers, (height, width)")
    if len(sides) != 2:
        raise InputError(f"{name} {value!r:.80} must be (height, width) in pixels")
    height, width = (values.whole(side, f"a side of {name}", 1, values.LONGEST_SIDE) for side in sides)
    return height, width


def timesteps(value: Any, name: str) -> tuple[int, ...]:
    """Check a decreasing list of timesteps."""
    given = tuple(values.whole(one, "a timestep", 0) for one in values.sequence(value, name, "whole numbers"))
    if not given or any(a <= b for a, b in pairwise(given)):
        raise InputError(f"{name} {list(given)!r:.80} must fall from step to step, such as [999, 750, 500, 250]")
    return given


def one_of(known: Sequence[str]) -> Callable[[Any, str], str]:
    """Return a check for one of the known words."""

    def check(value: Any, name: str) -> str:
        if not isinstance(value, str) or value not in known:
            raise InputError(f"{name} {value!r:.80} is not one of {', '.join(known)}{nearest(str(value), known)}")
        return value

    return check


def function(value: Any, name: str) -> Any:
    """Check something that can be called."""
    form = "must be a function of (pipe, step, t, {'latents': …})"
    if not callable(value):
        raise InputError(f"{name} {value!r:.80} {form}")
    try:
        inspect.signature(value).bind(None, 0, None, {})
    except TypeError as error:
        raise InputError(f"{name} {getattr(value, '__qualname__', value)!s:.80} {form}: {error}") from error
    except ValueError:
        pass  # built in, without a signature to look at
    return value


def classifier(value: Any, name: str) -> Any:
    """Check a `Classifier`."""
    from drivegen.sampling import Classifier

    if not isinstance(value, Classifier):
        raise InputError(f"{name} {value!r:.80} must be a drivegen.sampling.Classifier, not {type(value).__name__}")
    return value


def generator(value: Any, name: str) -> Any:
    """Check a torch generator."""
    import torch

    if not isinstance(value, torch.Generator):
        raise InputError(f"{name} {value!r:.80} must be a torch.Generator, which draws the seeds; or give seed=")
    return value


def pictures(value: Any, name: str) -> Any:
    """Read pictures to start from: one, a list, or by channel, each anything that `user_image` takes; or RECORDED."""
    from drivegen.scene.pictures import user_image

    if isinstance(value, str) and value == RECORDED:
        return value
    if isinstance(value, Mapping):
        return {n: user_image(one, f"{name} of {n!r}") for n, one in values.by_name(value, name, "pictures").items()}
    if isinstance(value, (list, tuple)):
        return tuple(user_image(one, f"{name} {i}") for i, one in enumerate(value))
    return user_image(value, name)


def drawn(value: Any, name: str) -> Any:
    """Check where something is drawn anew, as `raster.region_mask` takes it; what depends on the frame is checked there."""
    from drivegen.scene import Box3D

    if isinstance(value, Mapping):
        return values.by_name(value, name, "masks of cameras")
    boxes = [value] if isinstance(value, (str, Box3D)) else value
    if isinstance(boxes, (list, tuple)) and boxes and all(isinstance(one, (str, Box3D)) for one in boxes):
        return tuple(boxes)
    form = "{camera: mask}, white where something is drawn anew, or boxes, or names of their instances"
    raise InputError(f"{name} is {form}; not {value!r:.80}")


def latents(value: Any, name: str) -> Any:
    """Check noise to start from: (V, C, h, w), or (C, h, w) by channel; or a list with one of these per generation."""
    if isinstance(value, Mapping):
        return {n: _noise(one, f"{name} of {n!r}", 3) for n, one in values.by_name(value, name, "tensors").items()}
    if isinstance(value, (list, tuple)):
        return tuple(latents(one, f"{name} {i}") for i, one in enumerate(value))
    return _noise(value, name, 4)


def _noise(value: Any, name: str, dimensions: int) -> Any:
    import numpy as np
    import torch

    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        value = torch.from_numpy(value)
    if not isinstance(value, torch.Tensor) or not value.is_floating_point() or value.is_meta or value.layout != torch.strided:
        said = f"one of {value.dtype} ({value.device}, {value.layout})" if isinstance(value, torch.Tensor) else f"{value!r:.80}"
        raise InputError(f"{name} must be a plain tensor of floating-point numbers, not {said}")
    if value.ndim != dimensions:
        form = "(views, C, h, w)" if dimensions == 4 else "(C, h, w)"
        raise InputError(f"{name} has shape {tuple(value.shape)}; expected {form}")
    if not bool(torch.isfinite(value).all()):
        raise InputError(f"{name} holds numbers that are not finite")
    return value
