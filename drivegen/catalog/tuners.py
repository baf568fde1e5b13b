"""Tuners by name, from the entry points of installed packages; nothing is imported until one is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drivegen.catalog.offers import Offers
from drivegen.support.errors import InputError

if TYPE_CHECKING:
    from drivegen.plugin.tuner import Tuner

OFFERS: Offers[Tuner] = Offers(
    "drivegen.tuners", "tuner", "drivegen.plugin.tuner:Tuner", "drivegen.tuners.", "tuners.{name}.options"
)
register, offers, load, make = OFFERS.register, OFFERS.offers, OFFERS.load, OFFERS.make


def kind_of(tuner: Tuner) -> str:
    """Return the name under which a tuner's class is offered; raises InputError where there is none."""
    cls = type(tuner)
    target = f"{cls.__module__}:{cls.__qualname__}"
    for entry in offers():
        if entry.target == target:
            return entry.kind
    raise InputError(f"{target} is offered under no name; use an entry point or tuners.register")
