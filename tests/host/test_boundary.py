"""Each mistake of a plugin's author gets one sentence that names plugin, class and hook, what came and what is expected."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from drivegen.diffusion.schedule import NoiseSchedule
from drivegen.host import array_boundary, boundary
from drivegen.host import batch as data
from drivegen.host.host import Host
from drivegen.plugin import Grid, Plugin, Residuals, Signal, TrainingStep
from drivegen.plugin.control_branch import control_branch, run_branch
from drivegen.support.errors import InputError
from drivegen.testing.frames import frame
from tests.tiny_models import tiny_backbone

FRAMES = (frame(0), frame(1))
BACKBONE = tiny_backbone()
GRID = Grid(2, 1, 3)


def plugin(name: str = "Mine", base: type[Plugin] = Plugin, **members: Any) -> Plugin:
    """Make a plugin of a new class with these hooks."""
    made: Plugin = type(name, (base,), members)()
    return made


def predict(mine: Plugin, keep: bool = True) -> torch.Tensor:
    """Bring both frames through a host with the plugin, and leave the backbone as it was."""
    host = Host(BACKBONE, {"mine": mine})
    try:
        prepared = [data.prepare(each, {"mine": mine}) for each in FRAMES]
        batch = data.collate(prepared, {"mine": mine}, 3, ["a", "b"])
        x = torch.zeros(6, 4, 12, 16)
        with torch.no_grad():
            return host(x, torch.full((6,), 500), host.encode(batch.arrays, batch.grid, {"mine": keep}))
    finally:
        host.remove_plugin("mine")


def says(text: str, call: Callable[[], Any]) -> InputError:
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert re.search(text, message), message
    assert "\n" not in message
    return caught.value


def giving(value: Any) -> Callable[..., Any]:
    return lambda self, *args: value


NUMBERS = np.zeros(3, np.float32)
PREPARED = {
    "None": (None, r"gave None; expected a dict"), "a list": ([NUMBERS], "gave a list"), "an array": (NUMBERS, "numpy array"),
    "a float": ({"a": 1.5}, "'a' is float '1.5'"), "a numpy number": ({"a": np.float32(1)}, "expected a numpy array"),
    "None inside": ({"a": None}, "'a' is None"), "a list inside": ({"a": [1, 2]}, "'a' is a list"),
    "a tensor": ({"a": torch.zeros(2)}, "'a' is a Tensor of shape"),
    "text": ({"a": np.array(["x"])}, "<U1; expected an array of"),
    "objects": ({"a": np.array([None, 1])}, "object; expected"),
    "dates": ({"a": np.array(["2020-01-01"], "M8[D]")}, "datetime64"),
    "complex": ({"a": np.zeros(2, complex)}, "complex128"), "a key": ({3: NUMBERS}, "has the name 3, a int"),
    "a class": (dict, "gave the class dict"),
}  # fmt: skip


@pytest.mark.parametrize(("value", "said"), PREPARED.values(), ids=PREPARED)
def test_prepare(value: Any, said: str) -> None:
    mine = plugin(prepare=giving(value), encode=giving(Signal()))
    says(rf"^plugin 'mine' \(Mine\)\.prepare: .*{said}", lambda: data.prepare(FRAMES[0], {"mine": mine}))


SHAPES = {
    "shapes": (
        [np.zeros(3), np.zeros(4)],
        r"'a' has shape \(3,\) for frame 'x' and \(4,\) for frame 'y', which the default coll",
    ),
    "ranks": ([np.zeros(3), np.zeros((3, 1))], r"\(3, 1\) for frame 'y'"),
    "dtypes": ([np.zeros(3, np.int64), np.zeros(3, np.float32)], "dtype int64 for frame 'x' and float32 for frame 'y'"),
}


@pytest.mark.parametrize(("arrays", "said"), SHAPES.values(), ids=SHAPES)
def test_frames_that_do_not_stack(arrays: list[np.ndarray], said: str) -> None:
    items = [{"mine": {"a": array}} for array in arrays]
    says(rf"\.prepare: .*{said}", lambda: data.collate(items, {"mine": plugin()}, 3, ["x", "y"]))


@pytest.mark.parametrize("first", [{}, {"a": NUMBERS, "b": NUMBERS}])
def test_frames_with_other_arrays(first: dict[str, np.ndarray]) -> None:
    items = [{"mine": first}, {"mine": {"a": NUMBERS}}]
    said = r"(no arrays|the arrays a, b) for frame 'x' and the arrays a for frame 'y'; expected the same arrays"
    says(said, lambda: data.collate(items, {"mine": plugin()}, 3, ["x", "y"]))


COLLATED = {
    "None": (None, "gave None"), "a list": ([NUMBERS], "gave a list"),
    "rows": ({"a": NUMBERS}, r"shape \(3,\); expected \(B, …\)"),
    "no rows": ({"a": np.array(1.0)}, r"shape \(\); expected"), "a tensor": ({"a": torch.zeros(2)}, "expected a numpy array"),
}  # fmt: skip


@pytest.mark.parametrize(("value", "said"), COLLATED.values(), ids=COLLATED)
def test_collate(value: Any, said: str) -> None:
    items = [{"mine": {"a": NUMBERS}}] * 2
    says(
        rf"^plugin 'mine' \(Mine\)\.collate: .*{said}", lambda: data.collate(items, {"mine": plugin(collate=giving(value))}, 3)
    )


PRECOMPUTED = {
    "a tensor": (torch.zeros(2), "expected a dict of tensors"),
    "numpy": ({"a": NUMBERS}, "expected a torch tensor"),
    "bfloat16": ({"a": torch.zeros(2, 3, dtype=torch.bfloat16)}, "bfloat16, which numpy does not have"),
    "rows": ({"a": torch.zeros(3)}, r"shape \(3,\); expected \(B, …\) with B = 2"),
}


@pytest.mark.parametrize(("value", "said"), PRECOMPUTED.values(), ids=PRECOMPUTED)
def test_precompute(value: Any, said: str) -> None:
    mine = plugin(precompute=giving(value))
    says(rf"\.precompute: .*{said}", lambda: array_boundary.precompute("mine", mine, {"b": torch.zeros(2, 5)}))


def tokens(*shape: int, mask: Any = None, **options: Any) -> Signal:
    return Signal(torch.zeros(shape, **options), mask)


ENCODED = {
    "a tensor": (torch.zeros(2, 3, 32), r"gave a Tensor of shape \(2, 3, 32\), float32; expected a Signal"),
    "None": (None, "gave None; expected a Signal"), "the class": (Signal, "gave the class Signal"),
    "a tuple": ((1, 2), "gave a tuple"),
    "no tokens axis": (tokens(2, 32), r"tokens have shape \(2, 32\); expected \(B, S, 32\) or \(N, S, 32\) with B = 2, N = 6"),
    "four axes": (tokens(2, 3, 4, 32), r"tokens have shape \(2, 3, 4, 32\)"), "width": (tokens(2, 3, 7), r"shape \(2, 3, 7\)"),
    "rows": (tokens(5, 3, 32), r"shape \(5, 3, 32\); expected .* B = 2, N = 6"),
    "numpy": (Signal(np.zeros((2, 3, 32))), "tokens are a numpy array of shape .* expected a torch tensor"),
    "arrays": (Signal({"a": 1}), "tokens are a dict"), "ids": (tokens(2, 3, 32, dtype=torch.long), "tokens are int64"),
    "elsewhere": (tokens(2, 3, 32, device="meta"), "tokens are on meta; expected cpu"),
    "mask of rows": (tokens(2, 3, 32, mask=torch.ones(2, dtype=torch.bool)), r"mask has shape \(2,\); expected \(B, 3\)"),
    "mask of other tokens": (tokens(2, 3, 32, mask=torch.ones(2, 4, dtype=torch.bool)), r"mask has shape \(2, 4\)"),
    "mask of other rows": (tokens(2, 3, 32, mask=torch.ones(5, 3, dtype=torch.bool)), r"mask has shape \(5, 3\)"),
    "float mask": (tokens(2, 3, 32, mask=torch.ones(2, 3)), "mask is float32; expected bool"),
    "numpy mask": (tokens(2, 3, 32, mask=np.ones((2, 3), bool)), "the mask is a numpy array"),
    "mask alone": (Signal(mask=torch.ones(2, 3, dtype=torch.bool)), "a mask without tokens"),
}  # fmt: skip


@pytest.mark.parametrize(("value", "said"), ENCODED.values(), ids=ENCODED)
def test_encode(value: Any, said: str) -> None:
    says(rf"^plugin 'mine' \(Mine\)\.encode: .*{said}", lambda: predict(plugin(encode=giving(value))))


def test_what_fits_passes() -> None:
    everything = torch.ones(2, 3, dtype=torch.bool)
    assert predict(plugin(encode=giving(tokens(6, 3, 32, mask=everything)))).shape == (6, 4, 12, 16)
    assert predict(plugin(encode=giving(Signal(torch.zeros(2, 0, 32)))), keep=False).shape == (6, 4, 12, 16)


DOWN = [(32, 12, 16), (32, 12, 16), (32, 6, 8), (64, 6, 8)]
"""The skips of the tiny UNet for latents of 12×16."""


def terms(shapes: list[tuple[int, ...]], **changed: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(torch.zeros(6, *changed.get(f"_{i}", shape)) for i, shape in enumerate(shapes))


TERMS = {
    "a tensor": (torch.zeros(6, 4, 12, 16), r"gave a Tensor .*; expected Residuals\(down="), "a tuple": (terms(DOWN),
    "a tuple"),
    "too few": (Residuals(terms(DOWN[:3])), "down has 3 terms; expected 4"),
    "too many": (Residuals(terms([*DOWN, DOWN[0]])), "down has 5 terms; expected 4"),
    "channels": (Residuals(terms(DOWN, _1=(16, 12, 16))), r"down\[1\] has shape \(6, 16, 12, 16\); expected \(6, 32, 12, 16\)"),
    "size": (Residuals(terms(DOWN, _2=(32, 12, 16))), r"down\[2\] has shape .*; expected \(6, 32, 6, 8\)"),
    "axes": (Residuals(terms(DOWN, _0=(32,))), r"down\[0\] has shape \(6, 32\)"),
    "rows": (Residuals(mid=torch.zeros(2, 64, 6, 8)), r"mid has shape \(2, 64, 6, 8\); expected \(6, 64, 6, 8\)"),
    "mid": (Residuals(mid=torch.zeros(6, 32, 6, 8)), r"mid has shape"), "numpy": (Residuals(mid=NUMBERS),
    "mid is a numpy array"),
    "one tensor": (Residuals(torch.zeros(6, 32, 12, 16)), "down is a Tensor .*; expected a tuple of 4 tensors"),
    "None inside": (Residuals((None,) * 4), r"down\[0\] is None"),
    "few inside": (Residuals(intrablock=(torch.zeros(6, 32, 12, 16),)), "intrablock has 1 terms; expected 2"),
    "wrong inside": (Residuals(intrablock=terms([(32, 6, 8), (64, 6, 8)])), r"intrablock\[0\] has shape \(6, 32, 6, 8\)"),
    "double": (Residuals(mid=torch.zeros(6, 64, 6, 8, dtype=torch.float64)), "mid is float64; expected float32"),
}  # fmt: skip


@pytest.mark.parametrize(("value", "said"), TERMS.values(), ids=TERMS)
def test_residuals(value: Any, said: str) -> None:
    says(rf"^plugin 'mine' \(Mine\)\.residuals: .*{said}", lambda: predict(plugin(residuals=giving(value))))


@pytest.mark.parametrize("size", [(12, 16), (13, 9), (7, 5)])
def test_the_places_of_a_unet_are_as_it_makes_them(size: tuple[int, int]) -> None:
    """What the branch of a UNet gives fits it, whatever the size of the latents."""
    branch = control_branch(BACKBONE.unet)
    embedding = torch.zeros(1, 32, *size)
    down, mid = branch(torch.zeros(1, 4, *size), 5, torch.zeros(1, 1, 32), embedding, return_dict=False)
    found = Host(BACKBONE).skip_shapes(size)
    assert [tuple(term.shape[1:]) for term in down] == list(found.down)
    assert tuple(mid.shape[1:]) == found.mid


class Layer(nn.Module):
    """A tap's layer that gives what it is told."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Any, y: Any, now: Any) -> Any:
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


def tapping(value: Any, pattern: str = "conv_in", layer: Any = Layer) -> Plugin:
    return plugin(attach=lambda self, backbone: self.tap(pattern, lambda name, site: layer(value)))


TAPS = {
    "channels": (torch.zeros(6, 3, 12, 16), r"gave shape \(6, 3, 12, 16\); expected \(6, 32, 12, 16\)"),
    "one axis more": (torch.zeros(1, 6, 32, 12, 16), "gave shape"), "a tuple": ((1, 2), "gave a tuple"),
    "numpy": (NUMBERS, "gave a numpy array"), "an error": (KeyError("colour"), "raised KeyError: 'colour'"),
}  # fmt: skip


@pytest.mark.parametrize(("value", "said"), TAPS.values(), ids=TAPS)
def test_taps(value: Any, said: str) -> None:
    says(rf"^plugin 'mine' \(Mine\)\.tap at 'conv_in':? {said}", lambda: predict(tapping(value)))
    assert predict(tapping(torch.ones(32, 1, 1))).shape == (6, 4, 12, 16)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.ones(2, 1, 12, 16), r"\(N, 1, h, w\) = \(6, 1, 12, 16\)"),
        (torch.ones(6, 3, 12, 16), "one weight for each of the 4 channels"),
        (1.0, "float"),
    ],
)
def test_weight(value: Any, said: str) -> None:
    x, t = torch.zeros(6, 4, 12, 16), torch.zeros(6, dtype=torch.long)
    step = TrainingStep(t, x, x, x, x, x, NoiseSchedule(torch.linspace(1, 0, 10), "epsilon"))
    call = lambda: boundary.weight("mine", plugin(weight=giving(value)), {}, step)  # noqa: E731
    says(rf"^plugin 'mine' \(Mine\)\.weight: .*{said}", call)


@pytest.mark.parametrize("value", [torch.zeros(6), torch.zeros(1), 0.5, torch.tensor(1)])
def test_loss(value: Any) -> None:
    x = torch.zeros(6, 4, 12, 16)
    call = lambda: boundary.loss("mine", plugin(loss=giving(value)), x, x, torch.zeros(6), {})  # noqa: E731
    says(r"^plugin 'mine' \(Mine\)\.loss: gave .*; expected a scalar tensor", call)


def test_guide() -> None:
    x, t = torch.zeros(6, 4, 12, 16), torch.tensor(5)
    says(r"\.guide: gave a Tensor", lambda: boundary.guide("mine", plugin(guide=giving(x)), lambda x, t: x, None))  # type: ignore[arg-type]
    wrong = boundary.guide("mine", plugin(guide=giving(lambda x, t: x[:3])), lambda x, t: x, None)  # type: ignore[arg-type]
    says(r"\.guide: its denoiser gave a Tensor of shape \(3, 4, 12, 16\), .*expected", lambda: wrong(x, t))

    def broken(x: Any, t: Any) -> Any:
        raise KeyError("beneath")

    through = boundary.guide("mine", plugin(guide=lambda self, denoise, to_x0: lambda x, t: denoise(x, t)), broken, None)  # type: ignore[arg-type]
    with pytest.raises(KeyError, match="beneath"):  # what it wraps failed, not the plugin
        through(x, t)


@pytest.mark.parametrize("hook", ["prepare", "collate", "encode", "residuals", "attach"])
def test_what_a_hook_raises_names_it_and_keeps_its_cause(hook: str) -> None:
    cause = ZeroDivisionError("nothing\nto divide")

    def raising(self: Any, *args: Any) -> Any:
        raise cause

    hooks = {"prepare": giving({"a": NUMBERS}), "encode": giving(Signal()), hook: raising}
    given = r" \(its arrays: a \([\d, ]+\) float32\)" if hook in ("collate", "encode") else ""
    said = rf"^plugin 'mine' \(Mine\)\.{hook} raised ZeroDivisionError: nothing to divide{given}$"
    assert says(said, lambda: predict(plugin(**hooks))).__cause__ is cause


def test_a_sentence_of_the_plugins_own_stays_one() -> None:
    def refuse(self: Any, *args: Any) -> Any:
        raise InputError("the hour 25 is none; give 0 to 24")

    says(r"^plugin 'mine': the hour 25 is none; give 0 to 24$", lambda: predict(plugin(encode=refuse)))


# -- classes ---------------------------------------------------------------------------------------------------------------

GOOD = {"prepare": giving({"a": NUMBERS}), "encode": giving(Signal())}
CLASSES = {
    "residual": ({"residual": giving(None)}, "residual is no hook, and never called .did you mean 'residuals'"),
    "encodes": ({"encodes": giving(None)}, "did you mean 'encode'"), "Prepare": ({"Prepare": giving(None)}, "mean 'prepare'"),
    "weights": ({"weights": giving(None)}, "did you mean 'weight'"),
    "pre_compute": ({"pre_compute": giving(None)}, "precompute"),
    "prepare alone": ({"prepare": giving({})}, "prepare and none of encode, weight, loss"),
    "collate alone": ({"collate": giving({})}, "it has collate and no prepare"),
    "too few arguments": ({"encode": lambda self, arrays: Signal()}, r"expected encode\(self, arrays, keep\)"),
    "accepts": ({**GOOD, "accepts": ("words",)}, r"\.accepts is a tuple; expected a tuple of Input"),
    "requires": ({"requires": "image_encoder"}, r"\.requires is str 'image_encoder'; expected a tuple of components"),
    "no user_input": ({**GOOD, "prepare": lambda self, frame: {}}, r"expected prepare\(self, frame, user_input\)"),
}  # fmt: skip


@pytest.mark.parametrize(("members", "said"), CLASSES.values(), ids=CLASSES)
def test_hooks_that_would_not_be_called(members: dict[str, Any], said: str) -> None:
    says(rf"^plugin 'mine' \(Mine\).*{said}", lambda: predict(plugin(**members)))


def test_helpers_beside_hooks_are_let_be() -> None:
    predict(plugin(**GOOD, encoder=giving(None), _residual=giving(None), prepare_views=giving(None)))


class NoSuper(Plugin):
    def __init__(self, hours: int = 24) -> None:
        self.hours = hours


class LayerFirst(Plugin):
    def __init__(self) -> None:
        self.layer = nn.Linear(1, 1)
        super().__init__()


class ParameterFirst(Plugin):
    def __init__(self) -> None:
        self.scale = nn.Parameter(torch.ones(1))


class WidthInInit(Plugin):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, self.backbone.token_width)


class TapInInit(Plugin):
    def __init__(self) -> None:
        super().__init__()
        self.tap("conv_in", lambda name, site: Layer(None))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: NoSuper(), r"\(NoSuper\)\.__init__ does not call super\(\)\.__init__\(\)"),
        (lambda: LayerFirst(), r"LayerFirst\.__init__ makes the layer 'layer' before it calls super"),
        (lambda: ParameterFirst(), "makes the layer 'scale' before"),
        (lambda: WidthInInit(), r"self\.backbone is there from attach on"),
        (lambda: TapInInit(), r"self\.tap is called outside of attach"),
        (lambda: NoSuper, r"plugin 'mine' is the class NoSuper; give an instance, NoSuper\(\)"),
        (lambda: nn.Linear(1, 1), r"plugin 'mine' is a Linear, not a drivegen\.plugin\.Plugin"),
        (lambda: tapping(None, "*.atn2"), r"no module is called 'atn2' \(did you mean 'attn2' or 'attn1'"),
        (lambda: tapping(None, "conv_on"), r"no module is called 'conv_on' \(did you mean 'conv_\w+'"),
        (lambda: tapping(None, "conv_in.attn2"), r"no module of the UNet matches the tap 'conv_in\.attn2'"),
        (lambda: tapping(3, layer=lambda value: value), "the tap 'conv_in' builds int at 'conv_in', which is no nn.Module"),
        (lambda: plugin(attach=lambda self, backbone: self.attends("branch")), "attends is given a str"),
        (lambda: plugin(attach=lambda self, backbone: setattr(self, "net", backbone.unet)), "part of the backbone's UNet"),
        (lambda: plugin(attach=lambda self, backbone: setattr(self, "w", backbone.unet.conv_in.weight)), "backbone's UNet"),
    ],
)
def test_attach(make: Callable[[], Any], said: str) -> None:
    before = [len(module._forward_hooks) for module in BACKBONE.unet.modules()]
    says(said, lambda: predict(make()))
    assert [len(module._forward_hooks) for module in BACKBONE.unet.modules()] == before


@pytest.mark.parametrize(
    "value", [Path("a"), np.zeros(2), np.float32(1), {1, 2}, float("nan"), {"a": [np.int64(1)]}, {1: 2}, b"a"]
)
def test_arguments_that_are_not_json(value: Any) -> None:
    class Takes(Plugin):
        def __init__(self, first: int = 1, second: Any = None) -> None:
            super().__init__()

    says(r"^Takes: argument second", lambda: Takes(second=value))
    says(r"^Takes: argument second", lambda: Takes(1, value))
    assert Takes(second={"a": [1, 2.5, None, ("x", True)]}).config["second"] == {"a": [1, 2.5, None, ("x", True)]}


def test_arguments_without_a_name() -> None:
    class Takes(Plugin):
        def __init__(self, *names: str) -> None:
            super().__init__()

    says("argument names has no name to be saved under", lambda: Takes("a", "b"))
    assert Takes().config == {}


# -- branches that attend --------------------------------------------------------------------------------------------------


class Branch(Plugin):
    """A branch that attends to all tokens; named says whether the contract is told of it."""

    def __init__(self, named: str = "branch") -> None:
        super().__init__()
        self.named = named

    def attach(self, backbone: Any) -> None:
        self.branch, self.other = control_branch(backbone.unet), control_branch(backbone.unet)
        if self.named:
            self.attends(getattr(self, self.named))

    def residuals(self, x: Any, t: Any, context: Any, signal: Any) -> Any:
        return run_branch(self.branch, x, t, torch.zeros(6, 32, 12, 16), context, None)


@pytest.mark.parametrize(
    ("named", "said"),
    [("", r"attach named no network with self\.attends"), ("other", r"branch\.\S+ is given the tokens of context")],
)
def test_a_branch_that_was_not_named(named: str, said: str) -> None:
    says(said, lambda: predict(Branch(named)))
    assert predict(Branch("branch")).shape == (6, 4, 12, 16)


# -- one instance, one host ------------------------------------------------------------------------------------------------


class Trained(Plugin):
    """A plugin with a weight and a tap."""

    def attach(self, backbone: Any) -> None:
        self.scale = nn.Parameter(torch.zeros(32, 1, 1))
        self.tap("conv_in", lambda name, site: Layer(None))

    def encode(self, arrays: Any, keep: Any) -> Signal:
        return Signal(self.scale.expand(32, 2, 1).permute(1, 2, 0))


def test_a_plugin_that_comes_back_keeps_its_weights() -> None:
    host = Host(tiny_backbone(), {"mine": Trained()})
    with torch.no_grad():
        host.plugin("mine").scale.fill_(0.7)
    taken: Any = host.remove_plugin("mine")
    host.add_plugin("again", taken)
    assert host.plugin("again") is taken
    assert bool((taken.scale == 0.7).all())
    assert taken.sites == (("conv_in", "conv_in"),)
    host.remove_plugin("again")
    says("was attached to another model before", lambda: Host(tiny_backbone(), {"mine": taken}))


def test_one_instance_stands_in_one_host_once() -> None:
    mine = Trained()
    host = Host(tiny_backbone(), {"mine": mine})
    says("is in this model as 'mine' already; make another instance", lambda: host.add_plugin("twice", mine))
    says("is in another model already", lambda: Host(host.backbone, {"mine": mine}))
    assert list(host.plugins) == ["mine"]
    free = Trained()
    says("argument|identifier", lambda: Host(host.backbone, {"free": free, "not a name": Trained()}))
    assert Host(host.backbone, {"free": free}).plugin("free") is free  # a host that could not be made holds nothing


def test_a_name_that_is_no_text() -> None:
    says("plugin name 3 must be an identifier", lambda: Host(BACKBONE, {3: plugin()}))  # type: ignore[dict-item]


def test_a_data_worker_that_dies_during_a_hook_is_no_mistake_of_the_plugin() -> None:
    with pytest.raises(RuntimeError, match=r"^DataLoader worker"), boundary.calling("mine", Plugin(), "encode"):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")
