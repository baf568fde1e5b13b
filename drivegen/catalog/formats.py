"""Formats of annotation files by name, from the entry points of installed packages; nothing is imported until one is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from drivegen.catalog.offers import Offers

if TYPE_CHECKING:
    from drivegen.export.contract import Exporter

OFFERS: Offers[Exporter] = Offers(
    "drivegen.exporters", "format", "drivegen.export.contract:Exporter", "drivegen.export.", "options of {name}"
)
offers, load, make = OFFERS.offers, OFFERS.load, OFFERS.make
