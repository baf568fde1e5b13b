"""Objectives by name, from the entry points of installed packages; nothing is imported until one is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drivegen.catalog.offers import Offers

if TYPE_CHECKING:
    from drivegen.objectives import Objective

OFFERS: Offers[Objective] = Offers(
    "drivegen.objectives", "objective", "drivegen.objectives:Objective", "drivegen.objectives.", "objective.options"
)
register, offers, load, make = OFFERS.register, OFFERS.offers, OFFERS.load, OFFERS.make
