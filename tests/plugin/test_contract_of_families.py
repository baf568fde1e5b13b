"""The battery's shortest checks on conditions attached to SDXL and its refiner."""

from functools import partial

import pytest

from drivegen.catalog import registry
from drivegen.testing import CHECKS, Case, tiny_backbone
from tests.plugin.test_contract import NEEDS, OPTIONS

KINDS = ("text", "pooled_text", "picture_size", "camera", "boxes", "layout", "cross_view")
SHORT = ("has_an_effect", "null_leaks_nothing", "works_on_clips")


@pytest.mark.slow
@pytest.mark.parametrize("check", SHORT)
@pytest.mark.parametrize("family", ["sdxl", "sdxl_refiner"])
@pytest.mark.parametrize("kind", KINDS)
def test_contract(kind: str, family: str, check: str) -> None:
    needs = {**NEEDS.get(kind, {}), "backbone": partial(tiny_backbone, family=family)}
    CHECKS[check](Case(registry.load(kind), OPTIONS.get(kind, [{}])[0], **needs))
