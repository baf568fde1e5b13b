"""Samplers by name, from the entry points of installed packages; nothing is imported until one is used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from drivegen.catalog.offers import Offers

if TYPE_CHECKING:
    from drivegen.plugin.sampler import Sampler

GROUP = "drivegen.samplers"

_local: dict[str, type[Sampler]] = {}


def _base() -> type[Sampler]:
    from drivegen.plugin.sampler import Sampler

    return Sampler


_OFFERS = Offers(GROUP, "sampler", _base, "drivegen.sampling.", lambda: _local)
register, offers, load = _OFFERS.register, _OFFERS.offers, _OFFERS.load


def make(name: str, options: Mapping[str, Any] | None = None, where: str = "sampler_options") -> Sampler:
    """Make a sampler with its options, each known and of its type; raises InputError otherwise.

    Args:
        name: its name here.
        options: by name, plain values; what is missing is the sampler's default.
        where: what the options are called, for the error.
    """
    return _OFFERS.make(name, options, where)
