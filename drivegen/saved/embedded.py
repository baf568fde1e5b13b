"""The models that come with the package, and what was measured of them."""

from __future__ import annotations

import math
from pathlib import Path

from drivegen.saved.integrity import INDEX
from drivegen.support.errors import InputError

ASSETS = Path(__file__).parents[1] / "assets"

FIGURES = "figures.json"
"""The file of a model folder with its measured figures, as scripts/measure_model.py writes it."""


def embedded() -> dict[str, Path]:
    """Return the folders of the models in the package, by the names that they are loaded by."""
    return {path.parent.name: path.parent for path in sorted(ASSETS.glob(f"*/{INDEX}"))}


def read_figures(folder: Path) -> dict[str, float]:
    """Read the measured figures of a model folder under all conditions, by name; none where it was not measured.

    Raises InputError where the file is not one of figures.
    """
    from drivegen.support.weights import read_object

    path = folder / FIGURES
    if not path.is_file():
        return {}
    rows = read_object(path).get("figures")
    try:
        found = {str(row["name"]): row["value"] for row in rows if row["column"] == "all"}  # type: ignore[union-attr]
    except (TypeError, KeyError) as error:
        raise InputError(f"{path}: figures must be a list of objects with a name, a column and a value each") from error
    return {name: float(v) for name, v in found.items() if isinstance(v, (int, float)) and math.isfinite(v)}
