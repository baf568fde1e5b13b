"""A second host beside the one that learns: a teacher, or an average that follows it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch

from drivegen.diffusion.schedule import NoiseSchedule
from drivegen.host.host import Host
from drivegen.support.errors import InputError


def twin(host: Host) -> Host:
    """Return a copy of a host, without gradients and in evaluation mode, that shares every tensor which does not learn.

    It has hooks of its own, and its own copies of what learns as they are now: beside a LoRA it costs a second LoRA.
    """
    shared = {id(p): p for p in host.parameters() if not p.requires_grad} | {id(b): b for b in host.buffers()}
    memo: dict[int, Any] = {**shared, **{id(tower.tokenizer): tower.tokenizer for tower in host.backbone.texts}}
    return copy.deepcopy(host, memo).requires_grad_(False).eval()


def teacher_of(host: Host) -> Host:
    """Return a twin as a teacher: what the host is without the tuners that learn.

    A tuner may begin from the numbers of an earlier student, which a teacher must not have. One that brings words stays, as
    they could not be read without it.
    """
    other = twin(host)
    for name in host.tuners:
        tuner = host.tuner(name)
        if not tuner.words and any(p.requires_grad for p in tuner.parameters()):
            other.remove_tuner(name)
    return other


def sampling_teacher(host: Host, schedule: NoiseSchedule, steps: int, null: Sequence[str] | None) -> Host:
    """Return `teacher_of` a host, to sample with; raises InputError for steps or plugins that there are not.

    Args:
        host: the network that learns.
        schedule: of its training.
        steps: in how many the teacher samples, the option ``teacher_steps``.
        null: plugins that its guidance nulls; None = all.
    """
    if steps > schedule.steps:
        raise InputError(f"teacher_steps = {steps} are more than the {schedule.steps} timesteps of the training")
    for name in null or ():
        host.plugin(name)
    return teacher_of(host)


@torch.no_grad()
def follow(other: Host, host: Host, decay: float = 0.0) -> None:
    """Move what a twin has of its own towards what the host has learned.

    Args:
        other: the twin.
        host: the network that learns.
        decay: share of itself that the twin keeps; 0 makes it equal.
    """
    own = dict(other.named_parameters())
    for name, parameter in host.named_parameters():
        if parameter.requires_grad:
            own[name].lerp_(parameter.detach(), 1 - decay) if decay else own[name].copy_(parameter.detach())
