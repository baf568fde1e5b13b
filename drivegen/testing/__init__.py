"""The contract battery that any plugin author runs: `CHECKS` by name, each on a `Case`.

@pytest.mark.parametrize("check", CHECKS)
def test_contract(check):
    CHECKS[check](Case(MyCondition))
"""

from drivegen.testing.battery import CHECKS, Case
from drivegen.testing.models import tiny_backbone

__all__ = ["CHECKS", "Case", "tiny_backbone"]
