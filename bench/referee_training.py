"""Training of the referees: cross-entropy on renders, moderately changed in light, sharpness and noise."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from drivegen.evaluate.metrics.scores import overlap, ratio
from drivegen.evaluate.referee import DRIVABLE_GROUP, GROUPS, VEHICLE_GROUP, Reading, Referee, RefereeNet, to_network
from drivegen.evaluate.renders import Renders
from drivegen.support import files, runtime, weights
from drivegen.support.errors import InputError
from drivegen.support.files import sha256
from drivegen.support.progress import progress

WEIGHT_OF_GROUP = {"pole": 1.5, "vehicle": 1.5, "pedestrian": 2.0, "barrier": 2.0}
"""Small things count a little more; everything else counts 1."""

HEADS_WEIGHT = 0.1


@dataclass(frozen=True)
class Recipe:
    """How the referee is trained; saved with it."""

    steps: int = 1600
    batch: int = 24
    learning_rate: float = 4e-3
    weight_decay: float = 0.02
    warm_up: int = 60
    seed: int = 0


def augment(pixels: Tensor, groups: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Augment a batch: mirror half of it, change light by a few per cent, blur or add noise to some.

    Args:
        pixels: (N, 3, H, W) in [−1, 1].
        groups: (N, H, W) labels.
        generator: draws the changes.
    """
    count = len(pixels)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator)

    mirrored = uniform(0, 1) < 0.5
    pixels = torch.where(mirrored[:, None, None, None], pixels.flip(-1), pixels)
    groups = torch.where(mirrored[:, None, None], groups.flip(-1), groups)
    unit = (pixels / 2 + 0.5) * uniform(0.93, 1.07, 1, 1, 1) * uniform(0.97, 1.03, 3, 1, 1)
    unit = unit.clamp(1e-4, 1) ** uniform(0.93, 1.07, 1, 1, 1)
    # A blur of its own for each picture: one grouped convolution with a Gaussian of each one's width, 0 for half of them.
    sigma = (uniform(-1.2, 1.2).clamp(0) + 0.05)[:, None]
    kernel = torch.exp(-0.5 * (torch.arange(-3, 4) / sigma) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(3, 0)
    flat = unit.reshape(1, count * 3, *unit.shape[-2:])
    flat = F.conv2d(F.pad(flat, (3, 3, 0, 0), mode="replicate"), kernel[:, None, None, :], groups=count * 3)
    flat = F.conv2d(F.pad(flat, (0, 0, 3, 3), mode="replicate"), kernel[:, None, :, None], groups=count * 3)
    noise = torch.randn(unit.shape, generator=generator) * uniform(-0.02, 0.02, 1, 1, 1).clamp(0)
    return (flat.reshape(unit.shape) + noise).clamp(0, 1) * 2 - 1, groups


class Lesson(Protocol):
    """What is learned: the network, pictures with labels, and the loss of what the network says of them."""

    def __len__(self) -> int:
        """Return the number of pictures."""

    def make(self) -> nn.Module:
        """Make the network."""

    def draw(self, chosen: NDArray[np.int64], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Cut some pictures (N, H, W, 3) uint8 and their labels (N, H, W).

        Args:
            chosen: indices of the pictures.
            generator: draws the places.
        """

    def loss(self, said: Any, labels: Tensor, chosen: NDArray[np.int64]) -> Tensor:
        """Compute the loss.

        Args:
            said: the network's output.
            labels: of `draw`, as they were augmented.
            chosen: indices of the pictures.
        """


@dataclass(frozen=True, eq=False)
class RefereeLesson:
    """The referee's: groups of pixels, time of day and weather of renders."""

    renders: Renders

    def __len__(self) -> int:
        return len(self.renders)

    def make(self) -> nn.Module:
        """Make the network, `Lesson.make`."""
        return RefereeNet()

    def draw(self, chosen: NDArray[np.int64], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Cut pictures and labels, `Lesson.draw`."""
        return halves(self.renders, chosen, generator)

    def loss(self, said: Reading, labels: Tensor, chosen: NDArray[np.int64]) -> Tensor:
        """Compute the loss, `Lesson.loss`.

        Args:
            said: the network's output.
            labels: of `draw`.
            chosen: indices of the pictures.
        """
        time, weather = (torch.from_numpy(each[chosen]) for each in (self.renders.time, self.renders.weather))
        return loss_of(said, labels, time, weather)


def halves(renders: Renders, chosen: NDArray[np.int64], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Cut pictures and labels to half their width, each at a random place: more pictures per step in the same time.

    Args:
        renders: the pictures.
        chosen: indices of those to cut.
        generator: draws the places.
    """
    width = renders.images.shape[2]
    cut = max(16, width // 2 // 16 * 16)
    starts = torch.randint(0, width - cut + 1, (len(chosen),), generator=generator).tolist()
    images = np.stack([renders.images[i, :, x : x + cut] for i, x in zip(chosen, starts, strict=True)])
    groups = np.stack([renders.groups[i, :, x : x + cut] for i, x in zip(chosen, starts, strict=True)])
    return torch.from_numpy(images), torch.from_numpy(groups)


def loss_of(reading: Reading, groups: Tensor, time: Tensor, weather: Tensor) -> Tensor:
    """Sum the losses of the segmentation and of both heads.

    Args:
        reading: the network's output.
        groups: (N, H, W) true labels.
        time: (N,) true time of day.
        weather: (N,) true weather.
    """
    weight = torch.tensor([WEIGHT_OF_GROUP.get(name, 1.0) for name in GROUPS])
    segments = F.cross_entropy(reading.segments.float(), groups.long(), weight)
    heads = F.cross_entropy(reading.time.float(), time) + F.cross_entropy(reading.weather.float(), weather)
    return segments + HEADS_WEIGHT * heads


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained network, and its training data: (first step, datasets), more than one where a run was resumed with others."""

    net: nn.Module
    history: tuple[tuple[int, str], ...]


def train(lesson: Lesson, recipe: Recipe, state_path: Path, datasets: str = "", save_every: int = 100) -> Trained:
    """Train a network.

    Args:
        lesson: what it learns.
        recipe: how it is trained.
        state_path: where the state is saved; a later call with the same recipe resumes from it.
        datasets: names of the renders.
        save_every: steps between two saves.
    """
    torch.manual_seed(recipe.seed)
    net = lesson.make().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(net.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    first, history = _resume(net, optimiser, recipe, state_path)
    if not history or history[-1][1] != datasets:
        history = (*history, (first, datasets))
    device = torch.device("cpu")
    number = runtime.choose_dtype("auto", device)
    net.train()
    with progress("training the referee", recipe.steps, "steps", done=first) as advance:
        mean = math.nan
        for step in range(first, recipe.steps):
            rate = min(1.0, (step + 1) / recipe.warm_up) * (0.5 + 0.5 * math.cos(math.pi * step / recipe.steps))
            for group in optimiser.param_groups:
                group["lr"] = recipe.learning_rate * rate
            # Everything random follows from the step, so that a resumed run is the same run.
            chosen = np.random.default_rng([recipe.seed, step]).integers(len(lesson), size=recipe.batch)
            generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
            images, labels = lesson.draw(chosen, generator)
            pixels, groups = augment(to_network(images), labels, generator)
            with runtime.autocast(device, number):
                said = net(pixels.contiguous(memory_format=torch.channels_last))
            loss = lesson.loss(said, groups, chosen)
            if not bool(torch.isfinite(loss)):
                what = f"the referee's loss is {loss.item()} at step {step}"
                raise InputError(f"{what}; lower the learning rate {recipe.learning_rate}")
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimiser.step()
            now = loss.item()
            mean = now if math.isnan(mean) else 0.97 * mean + 0.03 * now
            advance(note=f"loss {mean:.3f}")
            if (step + 1) % save_every == 0 or step + 1 == recipe.steps:
                _save(Trained(net, history), optimiser, recipe, step + 1, state_path)
    return Trained(net, history)


def _save(trained: Trained, optimiser: torch.optim.Optimizer, recipe: Recipe, step: int, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    state = {"net": trained.net.state_dict(), "optimiser": optimiser.state_dict(), "recipe": asdict(recipe), "step": step}
    torch.save({**state, "history": [list(entry) for entry in trained.history]}, buffer)
    files.write_atomically(path, buffer.getbuffer())


def _resume(
    net: nn.Module, optimiser: torch.optim.Optimizer, recipe: Recipe, path: Path
) -> tuple[int, tuple[tuple[int, str], ...]]:
    if not path.is_file():
        return 0, ()
    state: dict[str, Any] = torch.load(path, weights_only=True)
    if state["recipe"] != asdict(recipe):
        made = f"{path} was made with {state['recipe']}, not with {asdict(recipe)}"
        raise InputError(f"{made}; remove it, or name another state file")
    net.load_state_dict(state["net"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["step"]), tuple((int(step), str(names)) for step, names in state["history"])


def check(referee: Referee, renders: Renders) -> dict[str, float]:
    """Measure a referee on held-out renders: IoU of each group, accuracy of time and weather per picture."""
    counts = np.zeros((len(GROUPS), 2))
    right = np.zeros(2)
    for start in range(0, len(renders), 32):
        part = slice(start, start + 32)
        verdict = referee(renders.images[part])
        for group in range(len(GROUPS)):
            counts[group] += overlap(verdict.groups, renders.groups[part], group)
        right += [(verdict.time == renders.time[part]).sum(), (verdict.weather == renders.weather[part]).sum()]
    out = {f"iou_{name}": round(float(value), 4) for name, value in zip(GROUPS, ratio(counts), strict=True)}
    time, weather = right / len(renders)
    return out | {"time_accuracy": round(float(time), 4), "weather_accuracy": round(float(weather), 4)}


def train_and_check(
    lesson: Lesson, recipe: Recipe, state: Path, data: Sequence[Path], out: Path, check: Callable[[Path], Mapping[str, Any]],
    about: Mapping[str, Any],
) -> Mapping[str, Any]:  # fmt: skip
    """Train a network and write it, and beside it what it was trained on and the figures of a check; returns these.

    Args:
        lesson: what it learns.
        recipe: how it is trained.
        state: what an interrupted run goes on from.
        data: the datasets of the renders.
        out: the weights.
        check: measures what was written, which it is given the path of.
        about: further entries of the JSON file.
    """
    trained = train(lesson, recipe, state, ", ".join(path.name for path in data))
    history = [{"from_step": step, "datasets": names} for step, names in trained.history]
    said = {**about, "recipe": vars(recipe), "trained_on": history}
    save(trained.net, out, said)
    metrics = check(out)
    save(trained.net, out, {**said, "metrics": metrics})
    return metrics


def save(net: nn.Module, path: Path, about: Mapping[str, Any]) -> None:
    """Write the weights in fp16 and, beside them, a JSON file with their sha256 and `about`.

    Args:
        net: the network.
        path: of the weights.
        about: further entries of the JSON file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {k: v.half() if v.is_floating_point() else v for k, v in net.state_dict().items()}
    weights.save_state(state, path)
    count = sum(p.numel() for p in net.parameters())
    files.write_json(path.with_suffix(".json"), {"sha256": sha256(path), "parameters": count, **about})


def meets_goal(metrics: Mapping[str, float]) -> bool:
    """Tell whether a referee is good enough to judge by: drivable IoU ≥ 0.90 and vehicle IoU ≥ 0.65 on held-out renders."""
    return metrics[f"iou_{GROUPS[DRIVABLE_GROUP]}"] >= 0.90 and metrics[f"iou_{GROUPS[VEHICLE_GROUP]}"] >= 0.65
