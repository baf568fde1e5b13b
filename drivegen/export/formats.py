"""Formats by name, from the entry points of installed packages; nothing is imported until one is used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from drivegen.catalog.listing import EXPORTERS
from drivegen.catalog.offers import Offers
from drivegen.export.contract import Exporter

_OFFERS = Offers(EXPORTERS, "format", lambda: Exporter, "drivegen.export.", dict)
load = _OFFERS.load


def make(name: str, options: Mapping[str, Any] | None = None) -> Exporter:
    """Make a format's exporter with its options, each known and of its type; raises InputError otherwise.

    Args:
        name: of the format.
        options: by name, plain values; what is missing is the format's default.
    """
    return _OFFERS.make(name, options, f"options of {name}")
