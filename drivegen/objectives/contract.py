"""The contract of objectives: what a training step minimises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from drivegen.diffusion.schedule import NoiseSchedule
from drivegen.host.host import Host
from drivegen.objectives.lesson import Lesson


@dataclass(frozen=True, kw_only=True)
class GroupOptions:
    """How a group of parameters is optimised; None is as the training's settings say.

    Args:
        lr: learning rate at the top of the schedule, whose shape is the settings'.
        betas: of AdamW.
        weight_decay: of all its parameters; the settings' is that of matrices alone.
        clip: greatest norm of this group's gradients; None clips them together with the model's.
    """

    lr: float | None = None
    betas: tuple[float, float] | None = None
    weight_decay: float | None = None
    clip: float | None = None


class Objective(nn.Module, ABC):
    """What a training step minimises, found by entry point (``drivegen.objectives``).

    Its options are the arguments of its constructor, each with a default; a configuration states them by name. It draws what is
    random from torch's generator of the CPU, or through the lesson, so that a resumed run draws the same. Parameters of its own
    train beside the model's; networks that it only asks, such as a teacher, are `twin`s without gradients.
    """

    tells_prior: ClassVar[bool] = False
    """Whether it tells pictures of what the model knew before (`Lesson.prior`) from the others, and needs them."""

    datasets: int = 0
    """How many datasets it tells apart (`Lesson.root`), of which batches then have equally many frames; `attach` may set it. 0
    takes all as one.
    """

    def __init__(self) -> None:
        super().__init__()  # torch's takes any argument, and an option that is none must be refused

    def attach(self, host: Host, schedule: NoiseSchedule) -> None:
        """Build what is needed beside the host: twins, heads; called once, before a checkpoint is loaded.

        Raises InputError where the host or its schedule does not fit.

        Args:
            host: networks and plugins, as they are when the training begins; what trains requires gradients already.
            schedule: the noise schedule that it was trained by.
        """

    @abstractmethod
    def step(self, host: Host, lesson: Lesson) -> Mapping[str, Tensor]:
        """Return the losses of one batch by name, scalars; their sum is minimised by one backward pass.

        Args:
            host: the network that learns.
            lesson: the batch; `Lesson.loss` applies what plugins and settings say of the errors.
        """

    def validate(self, host: Host, lesson: Lesson) -> Tensor:
        """Return what is measured on held-out frames, without gradients; the sum of the losses unless overridden.

        Args:
            host: the network that learns.
            lesson: a batch with every condition, whose noise and timesteps depend on its frames alone.
        """
        return sum(self.step(host, lesson).values(), lesson.clean.new_zeros(()))

    def after(self, host: Host) -> None:
        """Follow the host after an optimiser step; not called for steps that loss scaling skips."""

    def groups(self) -> Mapping[str, GroupOptions]:
        """Return, by the beginning of their names here (``heads.``), how own parameters are optimised."""
        return {}

    def remembered(self) -> Iterator[tuple[str, Tensor]]:
        """Name the state that no gradient changes and that a resumed run cannot rebuild; a checkpoint holds it.

        Own buffers, unless overridden.
        """
        return self.named_buffers(recurse=False)

    def sampling(self) -> Mapping[str, Any]:
        """Return the sampling settings that the result asks for, such as four steps of `lcm`; a configuration may say others.

        They are saved with the model.
        """
        return {}
