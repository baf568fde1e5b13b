"""The LightningModule: a host that learns to predict noise (or v) under conditions that drop out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from drivegen.diffusion.schedule import NoiseSchedule
from drivegen.host.array_boundary import augment
from drivegen.host.host import Host
from drivegen.objectives import GroupOptions, Lesson, Objective, boundary
from drivegen.objectives.noise import Noise
from drivegen.plugin import Grid
from drivegen.sampling.noise import generator_of
from drivegen.support.errors import InputError
from drivegen.training.base import TrainedModule
from drivegen.training.config import DropGroup, TrainConfig
from drivegen.training.fill import to_unit
from drivegen.training.frames import TrainBatch
from drivegen.training.frozen import frozen_digests, own_digest
from drivegen.training.noise import Rigs, training_noise
from drivegen.training.randomness import same_randomness

VALIDATION_TIMESTEPS = 4
"""Timesteps per validated frame, evenly apart: early and late ones differ tenfold in loss."""


class DriveModule(TrainedModule):
    """Training of a host; works with any `pytorch_lightning.Trainer` that agrees with the settings.

    UNet and text encoder are trained where the settings say so. Raises InputError for an unknown name.

    Args:
        host: networks and plugins.
        settings: how it trains.
        drop: probability of null by plugin name; missing = 0; None = 0 for all.
        drop_groups: plugins that become null together.
        train_plugins: names of the plugins to train, None = all; those of a loaded model, which are frozen, become trainable
            again.
        objective: what a step minimises; None = the error of the prediction (`objectives.noise.Noise`).
    """

    def __init__(
        self, host: Host, settings: TrainConfig, drop: Mapping[str, float] | None = None,
        drop_groups: Sequence[DropGroup] = (), train_plugins: Collection[str] | None = None,
        objective: Objective | None = None,
    ) -> None:  # fmt: skip
        super().__init__(settings)
        host.backbone.check()
        self.host, self.drop, self.drop_groups = host, dict(drop or {}), tuple(drop_groups)
        for name in (*self.drop, *(n for group in self.drop_groups for n in group.names), *(train_plugins or ())):
            host.plugin(name)
        self.schedule = NoiseSchedule.trained(host.backbone.scheduler)
        if settings.weighting == "min_snr" and self.schedule.terminal_snr == 0:
            raise InputError("weighting min_snr is 0 where a zero-terminal-SNR schedule starts to sample; use weighting: plain")
        if self.schedule.prediction_type == "epsilon" and self.schedule.terminal_snr < 1e-6:
            raise InputError(
                "the scheduler has zero terminal SNR (rescale_betas_zero_snr) and prediction_type epsilon: its last timestep is"
                " noise alone, of which a predicted noise says nothing; use v_prediction, or a schedule without the rescaling"
            )
        backbone = host.backbone
        backbone.requires_grad_(False)
        backbone.unet.requires_grad_(settings.unet)
        encoders = [tower.encoder for tower in backbone.texts]
        for encoder in encoders:
            encoder.requires_grad_(settings.text_encoder)
        trains = ((backbone.unet, settings.unet), *((encoder, settings.text_encoder) for encoder in encoders))
        self._frozen = [network for network, on in trains if not on]
        self._frozen += [backbone.vae, *backbone.components.values()]
        for name in host.plugins:
            if train_plugins is not None and name not in train_plugins:
                self._frozen.append(host.plugin(name).requires_grad_(False))
            else:
                host.plugin(name).unfreeze()
        if settings.gradient_checkpointing:
            host.enable_gradient_checkpointing()
        self.objective = Noise() if objective is None else objective
        self.objective.attach(host, self.schedule)  # a teacher is the host as it is now, before a checkpoint is loaded
        self._frozen += [part for part in self.objective.children() if not any(p.requires_grad for p in part.parameters())]

    def train(self, mode: bool = True) -> DriveModule:
        """Switch to training mode; frozen parts stay in evaluation mode."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def digest_frozen(self) -> dict[str, str]:
        """Return a digest per part of the host that is not trained."""
        own = own_digest(self.objective, self.host, (value for _, value in self.objective.remembered()))
        return frozen_digests(self.host) | ({"the objective's networks": own} if own else {})

    def training_step(self, batch: TrainBatch, batch_idx: int) -> Tensor:
        """Return the loss of one batch: what the objective minimises, and what plugins add."""
        clean = self.latents(batch)
        grid = batch.conditions.grid
        t = self._timesteps(grid).to(clean.device)
        noise = self._noise(clean, grid, batch.cameras)
        draw = partial(self._noise, clean, grid, batch.cameras)
        keep, plugins = self.draw_keep(grid), self.host.plugins
        given = {name: augment(name, self.host.plugin(name), batch.conditions.arrays[name]) for name in plugins}
        lesson = self._lesson(clean, replace(batch, conditions=replace(batch.conditions, arrays=given)), t, noise, draw, keep)
        losses = boundary.losses(self.objective, self.host, lesson)
        for name, loss in losses.items():
            self.log(f"loss_{name}", loss.detach())
        return self.checked(sum(losses.values()), batch.conditions.samples, losses)  # type: ignore[arg-type]

    def _lesson(
        self, clean: Tensor, batch: TrainBatch, t: Tensor, noise: Tensor, draw: Callable[[], Tensor],
        keep: Mapping[str, Tensor],
    ) -> Lesson:  # fmt: skip
        gamma = self.settings.gamma if self.settings.weighting == "min_snr" else None
        conditions = batch.conditions
        return Lesson(
            clean, conditions.grid, conditions.arrays, keep, t, noise, self.schedule, draw, gamma, batch.prior, batch.root
        )

    def stepped(self) -> None:
        """Let the objective follow the host."""
        self.objective.after(self.host)

    def groups(self) -> Mapping[str, GroupOptions]:
        """Return how the objective's own parameters are optimised."""
        return {f"objective.{prefix}": options for prefix, options in boundary.groups(self.objective).items()}

    def averaged(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Name the host's parameters alone: the objective's own are left behind when the training ends."""
        return ((name, p) for name, p in self.trained() if name.startswith("host."))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if remembered := {name: value.detach().clone() for name, value in self.objective.remembered()}:
            checkpoint["objective"] = remembered

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        own, saved = dict(self.objective.remembered()), checkpoint.get("objective", {})
        if {n: v.shape for n, v in own.items()} != {n: v.shape for n, v in saved.items()}:
            raise InputError("the checkpoint's objective is another, or has other options, than the one here")
        with torch.no_grad():
            for name, value in saved.items():
                own[name].copy_(value)

    def validation_step(self, batch: TrainBatch, batch_idx: int) -> None:
        """Log ``val_loss``, its mean over the held-out frames."""
        frames = batch.conditions.grid.scenes * batch.conditions.grid.frames
        self.log("val_loss", self.validation_loss(batch), batch_size=frames, prog_bar=True, sync_dist=True)

    @torch.no_grad()
    def validation_loss(self, batch: TrainBatch) -> Tensor:
        """Return the objective with every condition present, and noise and timesteps that depend on the frames' tokens alone.

        The same weights have the same value in every run, and nothing is drawn from torch's own generators.
        """
        conditions = batch.conditions
        grid = conditions.grid
        clean = self.latents(batch, mean=True)
        one, views = Grid(1, 1, grid.views), grid.views
        generators = [generator_of(f"validation/{token}") for token in conditions.samples]
        starts = torch.cat([torch.rand(1, generator=generator) for generator in generators])

        def draw() -> Tensor:
            noise = []
            for i, generator in enumerate(generators):
                rig = None if batch.cameras is None else [batch.cameras[i]]
                noise.append(training_noise(self.settings.noise, one, _shape(clean), rig, generator))
            return torch.cat(noise).to(clean)

        losses = []
        for k in range(VALIDATION_TIMESTEPS):
            t = ((starts + k / VALIDATION_TIMESTEPS) % 1 * self.schedule.steps).long().clamp(max=self.schedule.steps - 1)
            at = t.repeat_interleave(views).to(clean.device)
            lesson = self._lesson(clean, batch, at, draw(), draw, {})
            with same_randomness():  # what an objective draws besides depends on the first frame
                torch.manual_seed(generator_of(f"validation/{conditions.samples[0]}/{k}").initial_seed())
                losses.append(self.objective.validate(self.host, lesson) + sum(lesson.terms.values()))
        return torch.stack(losses).mean()

    @torch.no_grad()
    def latents(self, batch: TrainBatch, mean: bool = False) -> Tensor:
        """Return scaled latents (N, C, h, w): the mean of the VAE's posterior, or a sample of it where settings say so."""
        first_stage = self.host.backbone.first_stage
        if batch.moments is not None:
            middle, std = batch.moments.float().chunk(2, dim=1)
        else:
            assert batch.pixels is not None
            middle, std = first_stage.moments(to_unit(batch.pixels)).float().chunk(2, dim=1)
        if self.settings.sample_posterior and not mean:
            middle = middle + std * torch.randn(middle.shape).to(middle)
        return first_stage.scale(middle)

    def _timesteps(self, grid: Grid) -> Tensor:
        groups = grid.scenes * grid.frames if self.settings.same_t else grid.rows
        # One draw spread evenly: each t is uniform, and every batch holds early and late ones, so losses vary less.
        spread = (torch.rand(()) + torch.arange(groups) / groups) % 1
        t = (spread * self.schedule.steps).long().clamp(max=self.schedule.steps - 1)
        return t.repeat_interleave(grid.rows // groups)

    def _noise(self, clean: Tensor, grid: Grid, cameras: Rigs | None = None) -> Tensor:
        noise = training_noise(self.settings.noise, grid, _shape(clean), cameras)
        if self.settings.noise_offset:
            noise = noise + self.settings.noise_offset * torch.randn(grid.rows, clean.shape[1], 1, 1)
        return noise.to(clean)

    def draw_keep(self, grid: Grid) -> dict[str, Tensor]:
        """Draw which conditions (B,) are kept: one draw per plugin, and one per group of plugins."""
        scenes = grid.scenes * grid.frames
        keep = {name: torch.rand(scenes) >= self.drop.get(name, 0.0) for name in self.host.plugins}
        for group in self.drop_groups:
            kept = torch.rand(scenes) >= group.probability
            for name in group.names:
                keep[name] = keep[name] & kept
        return {name: value.to(self.device) for name, value in keep.items()}


def _shape(latents: Tensor) -> tuple[int, int, int]:
    return latents.shape[1], latents.shape[2], latents.shape[3]
