"""Objectives by name, from the entry points of installed packages; nothing is imported until one is used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from drivegen.catalog.offers import Offers

if TYPE_CHECKING:
    from drivegen.objectives import Objective

GROUP = "drivegen.objectives"

_local: dict[str, type[Objective]] = {}


def _base() -> type[Objective]:
    from drivegen.objectives import Objective

    return Objective


_OFFERS = Offers(GROUP, "objective", _base, "drivegen.objectives.", lambda: _local)
register, offers, load = _OFFERS.register, _OFFERS.offers, _OFFERS.load


def make(name: str, options: Mapping[str, Any] | None = None, where: str = "objective.options") -> Objective:
    """Make an objective with its options, each known and of its type; raises InputError otherwise.

    Args:
        name: its name here.
        options: by name, plain values; what is missing is the objective's default.
        where: what the options are called, for the error.
    """
    return _OFFERS.make(name, options, where)
