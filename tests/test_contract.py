"""The battery on every installed plugin."""

import pytest

from drivegen import registry
from drivegen.testing import CHECKS, Case

OPTIONS = {
    "bev_map": [
        {"pixels": [40, 40], "channels": [8, 8, 16, 16]},
        {"pixels": [40, 40], "channels": [8, 8, 16, 16], "width": 0.5},
    ],
    "boxes": [{}, {"masked": False, "in_image": False, "frame": "lidar", "learn_classes": False}, {"corners": "cxyz"}],
    "camera": [{}, {"normalised": False, "half": True}],
    "cross_view": [{}, {"attention": "concat", "connector": "gated"}, {"attention": "self"}],
    "layout": [{"channels": [8, 16]}],
}
"""Small widths, and each variant that changes the network."""

CASES = [(kind, options) for kind in registry.kinds() for options in OPTIONS.get(kind, [{}])]


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize(("kind", "options"), CASES, ids=[f"{k}-{i}" for i, (k, _) in enumerate(CASES)])
def test_contract(kind: str, options: dict[str, object], check: str) -> None:
    CHECKS[check](Case(registry.load(kind), options))
