"""Mistakes of plugins' authors that nothing would report: names that are nearly right, layers that torch does not see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from drivegen import register
from drivegen.host import batch as data
from drivegen.host.attaching import attach
from drivegen.host.boundary import encode
from drivegen.plugin import Grid, Plugin, Signal
from drivegen.support.errors import InputError
from drivegen.testing import Case
from drivegen.testing.frames import frame
from tests.tiny_models import tiny_backbone

BACKBONE = tiny_backbone()


def token(self: Any, arrays: Any, keep: Any) -> Signal:
    return Signal(torch.zeros(len(keep), 1, BACKBONE.token_width))


def made(**members: Any) -> Plugin:
    """Make a plugin that appends a token, with members of its own."""
    mine: Plugin = type("Mine", (Plugin,), {"encode": token} | members)()
    return mine


def attaching(**attributes: Any) -> Callable[[], None]:
    """Attach a plugin that sets these attributes in `attach`."""

    def build(self: Any, backbone: Any) -> None:
        for name, value in attributes.items():
            setattr(self, name, value)

    return lambda: attach("mine", made(attach=build), BACKBONE)


class Nested(nn.Module):
    """A layer with layers in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = [nn.Linear(1, 1)]


class OnTheInstance(Plugin):
    def __init__(self) -> None:
        super().__init__()
        self.encode = lambda arrays, keep: Signal()


UNSEEN = "where torch does not see it, so that it would be neither trained nor saved"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: attach("mine", made(neighbors=(0.0, 3.0)), BACKBONE), "neighbors is no attribute.*'neighbours'"),
        (lambda: attach("mine", made(require=("x",)), BACKBONE), "require is no attribute.*'requires'"),
        (lambda: attach("mine", made(training_inputs=1), BACKBONE), "training_inputs is no attribute.*'training_input'"),
        (attaching(neighbors=3), "neighbors is no attribute.*'neighbours'"),
        (lambda: attach("mine", made(neighbours=(-1.0, 0.0)), BACKBONE), "neighbours is .*two numbers of seconds"),
        (lambda: attach("mine", made(takes_prompt="yes"), BACKBONE), "takes_prompt is str 'yes'; expected True or False"),
        (lambda: attach("mine", OnTheInstance(), BACKBONE), "self.encode is set on the instance"),
        (lambda: attach("mine", type("Mine", (Plugin,), {"forward": token})(), BACKBONE), "no effect; nothing calls forward"),
        (lambda: attach("mine", type("Mine", (Plugin,), {"setup": token})(), BACKBONE), "no effect; nothing calls setup"),
        (attaching(layers=[nn.Linear(1, 1)]), f"self.layers holds a Linear {UNSEEN}"),
        (attaching(_layers={"a": (nn.Linear(1, 1),)}), f"self._layers holds a Linear {UNSEEN}"),
        (attaching(null=torch.zeros(3, requires_grad=True)), f"self.null holds a Tensor {UNSEEN}"),
        (attaching(branch=Nested()), f"self.branch.layers holds a Linear {UNSEEN}"),
        (attaching(config={}), "sets self.config, which is the contract's own"),
        (attaching(taps=3), "sets self.taps, which is the contract's own"),
        (attaching(backbone=BACKBONE), "sets self.backbone, which is the contract's own"),
    ],
)
def test_what_would_have_no_effect_or_be_lost(call: Callable[[], None], said: str) -> None:
    with pytest.raises(InputError, match=said):
        call()


def test_layers_of_the_backbone_may_be_looked_at_and_ones_own_listed() -> None:
    attaching(seen=[BACKBONE.unet.conv_in], own=nn.ModuleList([layer := nn.Linear(1, 1)]), order=[layer])()


def test_a_layer_made_too_late() -> None:
    mine = made()
    attach("mine", mine, BACKBONE)
    with pytest.raises(InputError, match="makes the layer 'late' after attach"):
        mine.late = nn.Linear(1, 1)


def test_what_a_constructor_does_to_its_arguments_is_not_recorded() -> None:
    class Takes(Plugin):
        def __init__(self, given: dict[str, int]) -> None:
            super().__init__()
            given.clear()

    assert Takes({"a": 1}).config == {"given": {"a": 1}}


def test_sparse_tokens() -> None:
    mine = made(encode=lambda self, arrays, keep: Signal(torch.zeros(1, 1, 32).to_sparse()))
    with pytest.raises(InputError, match=r"\(Mine\)\.encode: tokens are a sparse tensor"):
        encode("mine", mine, {}, torch.ones(1, dtype=torch.bool), Grid(1, 1, 3), 32)


@pytest.mark.parametrize(
    ("array", "name", "said"),
    [
        (np.ma.masked_array(np.zeros(2), [0, 1]), "a", "'a' is a masked array, whose mask would be lost"),
        (np.zeros(2), "_known", "'_known', by which the host tells unknown frames"),
    ],
)
def test_arrays_that_would_be_misread(array: Any, name: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        data.prepare(frame(), {"mine": made(prepare=lambda self, frame, user_input=None: {name: array})})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"make": made()}, "make is an instance; give the class Mine"),
        ({"make": made, "others": {"b": made()}}, r"others\['b'\] is an instance"),
        ({"make": 3}, "make is int '3'; expected a plugin's class"),
        ({"make": made, "options": ["a"]}, "options is a list; expected the constructor's arguments by name"),
        ({"make": made, "frames": frame()}, "frames is a Frame; expected a tuple of two frames or more"),
        ({"make": made, "frames": (frame(0), frame(1, views=2))}, "other numbers or sizes of cameras"),
    ],
)
def test_a_case_that_cannot_be_tried(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Case(**arguments)


@pytest.mark.parametrize(
    ("kind", "cls", "said"),
    [
        (Plugin, None, r"given 'Plugin' and no name; write @register\("),
        ("my kind", Plugin, "'my kind' must be an identifier"),
        ("my_kind", dict, "is given to the class dict; it decorates a class"),
        ("my_kind", made(), "is given to a Mine; it decorates a class"),
    ],
)
def test_registering_what_is_no_plugin(kind: Any, cls: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        register(kind)(cls)
