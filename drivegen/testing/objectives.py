"""The battery that any author of an objective runs: `CHECKS` by name, each on a `Case`; they raise AssertionError.

@pytest.mark.parametrize("check", CHECKS)
def test_my_objective(check):
    CHECKS[check](Case(MyObjective))

Each trains a tiny host of random weights, two scenes of three views, as `drivegen train` would.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from drivegen.catalog.construct import construct_plugin
from drivegen.host.batch import Batch
from drivegen.host.host import Host
from drivegen.objectives import Lesson, Objective, boundary
from drivegen.plugin import Arrays, Grid, Plugin, Signal, TrainingStep
from drivegen.plugin.tuner import Tuner
from drivegen.sampling.settings import Sampling
from drivegen.support.errors import InputError
from drivegen.testing.case import refused
from drivegen.testing.models import randomize, tiny_backbone
from drivegen.testing.runs import differences, trained
from drivegen.training.config import TrainConfig
from drivegen.training.frames import TrainBatch
from drivegen.training.module import DriveModule
from drivegen.tuners.lora import LoRA

GRID, LATENTS = Grid(2, 1, 3), (4, 8, 8)


class Asked(Plugin):
    """Appends one token per scene, and counts how often the training asks it for weights and for a loss."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = {"weight": 0, "loss": 0}

    def attach(self, backbone: Any) -> None:
        """Build one layer."""
        self.embed = nn.Linear(3, backbone.token_width)

    def prepare(self, frame: Any, user_input: Any = None) -> dict[str, np.ndarray]:
        """Give three numbers."""
        return {"values": np.ones(3, np.float32)}

    def encode(self, arrays: Arrays, keep: Tensor) -> Signal:
        """Embed them; null is zero."""
        return Signal(self.embed(arrays["values"] * keep[:, None])[:, None])

    def weight(self, arrays: Arrays, step: TrainingStep) -> Tensor:
        """Weigh all alike."""
        self.asked["weight"] += 1
        return torch.ones_like(step.clean[:, :1])

    def loss(self, pred: Tensor, target: Tensor, t: Tensor, arrays: Arrays) -> Tensor:
        """Add nothing.

        Args:
            pred: the prediction (N, C, h, w).
            target: what it should be.
            t: timesteps (N,).
            arrays: its arrays.
        """
        self.asked["loss"] += 1
        return pred.sum() * 0


@dataclass(frozen=True)
class Case:
    """An objective under test.

    Args:
        objective: its class.
        options: what it is made with.
        prediction_type: what the model predicts.
        trains: what learns: ``unet`` with the plugins, a ``lora``, or the ``tuner``.
        plugins: makes further plugins that the objective needs, by instance name.
        settings: of the training, in place of those here.
        tuner: makes the tuner that learns, where `trains` says so.
    """

    objective: type[Objective]
    options: Mapping[str, Any] = field(default_factory=dict)
    prediction_type: str = "v_prediction"
    trains: str = "unet"
    plugins: Mapping[str, Callable[[], Plugin]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    tuner: Callable[[], Tuner] = lambda: LoRA(rank=2)

    def made(self) -> Objective:
        """Make the objective."""
        return construct_plugin(self.objective, self.options, self.objective.__name__)

    def module(self) -> DriveModule:
        """Make the module that trains by it; always of the same weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            backbone = tiny_backbone(prediction_type=self.prediction_type)
            host = Host(backbone, {"asked": Asked(), **{name: make() for name, make in self.plugins.items()}})
            for i, name in enumerate(host.plugins):
                randomize(host.plugin(name), 100 + i)
            if self.trains != "unet":
                host.add_tuner(self.trains, self.tuner())
            given = {"steps": 4, "images": 6, "warmup": 1, "lr": 1e-3, "precision": "32", "ema": 0.9, "device": "cpu"}
            settings = TrainConfig(**{**given, "unet": self.trains == "unet", **self.settings})
            names = [*self.plugins, *(["asked"] if self.trains == "unet" else [])]
            return DriveModule(host, settings, {"asked": 0.3}, (), names, self.made())

    def batch(self) -> TrainBatch:
        """Make the batch that is trained on."""
        generator = torch.Generator().manual_seed(5)
        moments = torch.randn(GRID.rows, 2 * LATENTS[0], *LATENTS[1:], generator=generator)
        moments[:, LATENTS[0] :] = 0.1
        arrays = {"asked": {"values": torch.randn(GRID.scenes, 3, generator=generator)}}
        for name, make in self.plugins.items():
            own: Any = make().prepare(None, None)  # type: ignore[arg-type]
            arrays[name] = {key: torch.from_numpy(np.stack([value] * GRID.scenes)) for key, value in own.items()}
        return TrainBatch(Batch(GRID, arrays, ("first", "second")), moments=moments, root=torch.tensor([0, 1]))

    def lesson(self, module: DriveModule) -> Lesson:
        """Make the lesson of the first step."""
        batch = self.batch()
        torch.manual_seed(11)
        clean = module.latents(batch)
        t = torch.tensor([100, 700]).repeat_interleave(GRID.views)
        draw: Callable[[], Tensor] = lambda: torch.randn(clean.shape)  # noqa: E731
        keep = {name: torch.tensor([True, False]) for name in module.host.plugins}
        return Lesson(clean, GRID, batch.conditions.arrays, keep, t, draw(), module.schedule, draw, root=batch.root)

    def trained(self, steps: int, start: Mapping[str, Any] | None = None) -> tuple[DriveModule, dict[str, Any]]:
        """Train; returns the module and its checkpoint.

        Args:
            steps: after which it ends, counted from the beginning of the training.
            start: a checkpoint to go on from; None begins anew.
        """
        return trained(self.module(), self.batch(), steps, start)


def gives_losses(case: Case) -> None:
    """`step` gives finite scalars by name, the same ones for the same seed."""
    module = case.module()
    found = [boundary.losses(module.objective, module.host, case.lesson(module)) for _ in range(2)]
    for name, loss in found[0].items():
        assert bool(torch.isfinite(loss)), f"the loss {name!r} is {float(loss)}"
        assert torch.equal(loss, found[1][name]), f"the loss {name!r} differs for the same batch and seed"


def gradients_reach_what_learns(case: Case) -> None:
    """One backward pass of the sum reaches the network that learns and own parameters, and nothing that is frozen."""
    module = case.module()
    losses = boundary.losses(module.objective, module.host, case.lesson(module))
    torch.stack(list(losses.values())).sum().backward()
    by_part: dict[str, list[bool]] = {"host": [], "objective": []}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            by_part[name.split(".")[0]].append(parameter.grad is not None)
        else:
            assert parameter.grad is None, f"{name} is frozen, and gets a gradient"
    assert any(by_part["host"]), "no gradient reaches the network that learns"
    assert all(by_part["objective"]), "a parameter of the objective's own gets no gradient; freeze it, or leave it out"


def asks_plugins(case: Case) -> None:
    """Plugins are asked for weights and losses: through `Lesson.loss`."""
    module = case.module()
    module.objective.step(module.host, case.lesson(module))
    plugin: Any = module.host.plugin("asked")
    missing = [hook for hook, times in plugin.asked.items() if not times]
    assert not missing, f"plugins are not asked for their {' and '.join(missing)}; return the mean error by Lesson.loss"


def leaves_its_inputs(case: Case) -> None:
    """Latents, noise, timesteps and conditions are not written to."""
    module = case.module()
    lesson = case.lesson(module)
    tensors = {"clean": lesson.clean, "noise": lesson.noise, "t": lesson.t, "arrays": lesson.arrays["asked"]["values"]}
    before = {name: value.clone() for name, value in tensors.items()}
    module.objective.step(module.host, lesson)
    for name, value in tensors.items():
        assert torch.equal(value, before[name]), f"{name} was written to"


def validates(case: Case) -> None:
    """Held-out frames are measured without gradients, and nothing of the training changes by it."""
    module = case.module()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with torch.no_grad():
        first, second = (float(module.validation_loss(case.batch())) for _ in range(2))
    assert first == second, f"the same frames measure {first} and {second}"
    changed = [name for name, value in module.state_dict().items() if not torch.equal(value, before[name])]
    assert not changed, f"measuring changes {changed[:3]}"


def shares_what_is_frozen(case: Case) -> None:
    """A twin holds no second copy of anything that does not learn."""
    module = replace(case, trains="lora").module()
    frozen = {name: p for name, p in module.host.named_parameters() if not p.requires_grad}
    for part, other in module.objective.named_modules():
        if isinstance(other, Host):
            copied = [name for name, p in other.named_parameters() if name in frozen and p is not frozen[name]]
            assert not copied, f"objective.{part} has a copy of {copied[0]}, which does not learn; make it by `twin`"


def steps_and_resumes(case: Case) -> None:
    """Four steps are the same as two, a checkpoint, and two more from a fresh start, bit for bit."""
    _, whole = case.trained(4)
    _, half = case.trained(2)
    moved = [name for name, value in half["state_dict"].items() if not torch.equal(value, whole["state_dict"][name])]
    assert any(name.startswith("host.") for name in moved), "two more steps change nothing"
    try:
        _, resumed = case.trained(4, half)
    except InputError as error:
        raise AssertionError(f"a resumed run differs in what is taken to be frozen, and must be remembered: {error}") from error
    different = differences(whole, resumed)
    assert not different, f"a resumed run differs in {different[:3]}; what cannot be rebuilt must be remembered"


def asks_for_possible_sampling(case: Case) -> None:
    """What it asks of sampling is known, and can be run on a model of this schedule."""
    module = case.module()
    asked = module.objective.sampling()
    try:
        Sampling(sampler="ddim").replaced(**asked).run(module.host.backbone.scheduler)
    except (InputError, TypeError) as error:
        raise AssertionError(f"its sampling {dict(asked)} is not possible: {error}") from error


def options_are_plain(case: Case) -> None:
    """Options are JSON values, unknown ones are refused, and every option has a default."""
    construct_plugin(case.objective, json.loads(json.dumps(dict(case.options))), "saved options")
    construct_plugin(case.objective, {}, "no options")
    refused(lambda: construct_plugin(case.objective, {"option_of_nobody": 1}, "options"), "an unknown option")


CHECKS: dict[str, Callable[[Case], None]] = {
    check.__name__: check
    for check in (
        gives_losses, gradients_reach_what_learns, asks_plugins, leaves_its_inputs, validates, shares_what_is_frozen,
        steps_and_resumes, asks_for_possible_sampling, options_are_plain,
    )
}  # fmt: skip
"""The battery, by name."""
