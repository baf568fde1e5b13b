"""Attention between views computes the same whether its projections are multiplied out or not."""

from __future__ import annotations

import pytest
import torch

from drivegen.catalog import registry
from drivegen.host.host import Host
from drivegen.plugin import Grid
from drivegen.testing.models import randomize, tiny_backbone

RING = [[1, 2], [2, 0], [0, 1]]
LINE = [[1, -1], [0, -1], [-1, -1]]


@pytest.mark.slow
@pytest.mark.parametrize("keep", [[True, True], [False, True]])
@pytest.mark.parametrize("second", [RING, LINE], ids=["ring", "line"])
@pytest.mark.parametrize("connector", ["zero_linear", "gated", "none"])
@pytest.mark.parametrize("attention", ["add", "concat", "self"])
def test_what_does_not_learn_has_the_numbers_of_what_learns(attention: str, connector: str, second: list, keep: list) -> None:
    host = Host(tiny_backbone(), {"cross_view": registry.load("cross_view")(attention, connector)}).eval()
    randomize(host.plugin("cross_view"))
    neighbours = torch.tensor([RING, second])
    x = torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    def predict() -> torch.Tensor:
        conditions = host.encode({"cross_view": {"neighbours": neighbours}}, Grid(2, 1, 3), {"cross_view": torch.tensor(keep)})
        first = host(x, torch.tensor(5), conditions)
        assert torch.equal(first, host(x, torch.tensor(5), conditions))
        return first

    learning = predict()
    with torch.no_grad():
        assert (predict() - learning).norm() <= 1e-6 * learning.norm()
        absent = host.encode({"cross_view": {"neighbours": neighbours}}, Grid(2, 1, 3), scales={"cross_view": 0.0})
        assert (host(x, torch.tensor(5), absent) - learning).norm() > 1e-3 * learning.norm()
