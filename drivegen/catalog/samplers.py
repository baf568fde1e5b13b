"""Samplers by name, from the entry points of installed packages; nothing is imported until one is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drivegen.catalog.offers import Offers

if TYPE_CHECKING:
    from drivegen.plugin.sampler import Sampler

OFFERS: Offers[Sampler] = Offers(
    "drivegen.samplers", "sampler", "drivegen.plugin.sampler:Sampler", "drivegen.sampling.", "sampler_options"
)
register, offers, load, make = OFFERS.register, OFFERS.offers, OFFERS.load, OFFERS.make
