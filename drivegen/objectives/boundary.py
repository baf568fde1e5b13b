"""The boundary between training and objectives: what an author's code returns is checked, and named where it is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from drivegen.objectives.contract import Objective
from drivegen.objectives.lesson import Lesson
from drivegen.support.errors import InputError


def losses(objective: Objective, host: Any, lesson: Lesson) -> dict[str, Tensor]:
    """Call `step`, and return its losses and what plugins added, by name.

    Args:
        objective: what is minimised.
        host: the network that learns.
        lesson: the batch.
    """
    where = f"objective {type(objective).__name__}.step"
    found = objective.step(host, lesson)
    if not isinstance(found, Mapping) or not found:
        raise InputError(f"{where} gave {type(found).__name__}; expected losses by name, such as {{'noise': loss}}")
    for name, loss in found.items():
        if not isinstance(loss, Tensor) or loss.ndim != 0 or not loss.is_floating_point():
            what = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise InputError(f"{where}: the loss {name!r} is {what}; expected a scalar tensor, as .mean() gives")
    added = {(f"plugin {name}" if name in found else name): term for name, term in lesson.terms.items()}
    own = {name: host.tuner(name).penalty() for name in host.tuners}
    for name, term in own.items():
        if term is not None and (not isinstance(term, Tensor) or term.ndim != 0):
            raise InputError(f"tuner {name!r}: penalty gave {type(term).__name__}; expected a scalar tensor, or None")
    return {**found, **added, **{f"tuner {name}": term for name, term in own.items() if term is not None}}


def groups(objective: Objective) -> dict[str, Any]:
    """Call `groups`, and check that every beginning of names is of a parameter that trains."""
    found = dict(objective.groups())
    names = [name for name, p in objective.named_parameters() if p.requires_grad]
    for prefix in found:
        if not any(name.startswith(prefix) for name in names):
            own = ", ".join(names[:5]) or "none"
            raise InputError(
                f"objective {type(objective).__name__}.groups names {prefix!r}, with which none of its parameters begins: {own}"
            )
    return found
