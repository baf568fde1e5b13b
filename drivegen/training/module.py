"""The LightningModule: a host that learns to predict noise (or v) under conditions that drop out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from drivegen import lora
from drivegen.diffusion.loss_weighting import min_snr_weights
from drivegen.diffusion.schedule import NoiseSchedule
from drivegen.host import boundary
from drivegen.host.host import Host
from drivegen.plugin import Grid
from drivegen.plugin.unknown import known_part, neutral, unmarked
from drivegen.support.errors import InputError
from drivegen.training.base import TrainedModule
from drivegen.training.config import DropGroup, TrainConfig
from drivegen.training.fill import to_unit
from drivegen.training.frames import TrainBatch


class DriveModule(TrainedModule):
    """Training of a host; works with any `pytorch_lightning.Trainer`.

    drop gives the probability of null by plugin name (missing = 0), drop_groups joint draws; train_plugins names the plugins
    that train (None = all); those of a loaded model, which are frozen, are set to learn. UNet and text encoder train where
    settings say so. Raises InputError for an unknown name.
    """

    def __init__(
        self, host: Host, settings: TrainConfig, drop: Mapping[str, float] | None = None,
        drop_groups: Sequence[DropGroup] = (), train_plugins: Collection[str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(settings)
        self.host, self.drop, self.drop_groups = host, dict(drop or {}), tuple(drop_groups)
        for name in (*self.drop, *(n for group in self.drop_groups for n in group.names), *(train_plugins or ())):
            host.plugin(name)
        self.schedule = NoiseSchedule.trained(host.backbone.scheduler)
        if settings.weighting == "min_snr" and self.schedule.terminal_snr == 0:
            raise InputError("weighting min_snr is 0 where a zero-terminal-SNR schedule starts to sample; use weighting: plain")
        backbone = host.backbone
        learning = [p for _, p in lora.parameters(host) if p.requires_grad]
        backbone.requires_grad_(False)
        backbone.unet.requires_grad_(settings.unet)
        backbone.text_encoder.requires_grad_(settings.text_encoder)
        for parameter in learning:
            parameter.requires_grad_(True)
        trains = ((backbone.unet, settings.unet), (backbone.text_encoder, settings.text_encoder))
        self._frozen = [network for network, on in trains if not on]
        self._frozen += [backbone.vae, *backbone.components.values()]
        for name in host.plugins:
            if train_plugins is not None and name not in train_plugins:
                self._frozen.append(host.plugin(name).requires_grad_(False))
            else:
                host.plugin(name).unfreeze()
        if settings.gradient_checkpointing:
            host.enable_gradient_checkpointing()

    def train(self, mode: bool = True) -> DriveModule:
        """Switch to training; what is frozen stays in evaluation mode."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def training_step(self, batch: TrainBatch, batch_idx: int) -> Tensor:
        """Return the loss of one batch."""
        conditions, s = batch.conditions, self.settings
        grid = conditions.grid
        clean = self.latents(batch)
        t = self._timesteps(grid).to(clean.device)
        noise = self._noise(clean, grid)
        noisy, target = self.schedule.add_noise(clean, noise, t), self.schedule.target(clean, noise, t)
        encoded = self.host.encode(conditions.arrays, grid, self.draw_keep(grid))
        prediction = self.host(noisy, t, encoded).float()
        errors = (prediction - target).square()
        if s.weighting == "min_snr":
            errors = errors * min_snr_weights(self.schedule, t, s.gamma)[:, None, None, None]
        extra = []
        for name in self.host.plugins:
            plugin, arrays = self.host.plugin(name), conditions.arrays[name]
            size = (errors.shape[-2], errors.shape[-1])
            if (weight := boundary.weight(name, plugin, unmarked(arrays), t, size)) is not None:
                errors = errors * neutral(arrays, weight)
            part = known_part(arrays, prediction, target, t)
            if part is not None and (term := boundary.loss(name, plugin, *part)) is not None:
                extra.append(term)
                self.log(f"loss_{name}", term.detach())
        return self.checked(sum(extra, errors.mean()), conditions.samples)

    @torch.no_grad()
    def latents(self, batch: TrainBatch) -> Tensor:
        """Return scaled latents (N, C, h, w): a sample of the VAE's posterior, or its mean."""
        backbone = self.host.backbone
        if batch.moments is not None:
            mean, std = batch.moments.float().chunk(2, dim=1)
        else:
            assert batch.pixels is not None
            mean, std = backbone.moments(to_unit(batch.pixels)).float().chunk(2, dim=1)
        return backbone.scale_latents(mean + std * torch.randn(mean.shape).to(mean) if self.settings.sample_posterior else mean)

    def _timesteps(self, grid: Grid) -> Tensor:
        groups = grid.scenes * grid.frames if self.settings.same_t else grid.rows
        # One draw spread evenly: each t is uniform, and every batch holds early and late ones, so losses vary less.
        spread = (torch.rand(()) + torch.arange(groups) / groups) % 1
        t = (spread * self.schedule.steps).long().clamp(max=self.schedule.steps - 1)
        return t.repeat_interleave(grid.rows // groups)

    def _noise(self, clean: Tensor, grid: Grid) -> Tensor:
        # Drawn on the CPU, so that a seed means the same on every device.
        count = grid.scenes * grid.frames if self.settings.noise == "shared" else grid.rows
        noise = torch.randn(count, *clean.shape[1:]).repeat_interleave(grid.rows // count, dim=0)
        if self.settings.noise_offset:
            noise = noise + self.settings.noise_offset * torch.randn(grid.rows, clean.shape[1], 1, 1)
        return noise.to(clean)

    def draw_keep(self, grid: Grid) -> dict[str, Tensor]:
        """Draw which conditions (B,) are kept: one draw for each plugin, and one for each group of plugins."""
        scenes = grid.scenes * grid.frames
        keep = {name: torch.rand(scenes) >= self.drop.get(name, 0.0) for name in self.host.plugins}
        for group in self.drop_groups:
            kept = torch.rand(scenes) >= group.probability
            for name in group.names:
                keep[name] = keep[name] & kept
        return {name: value.to(self.device) for name, value in keep.items()}
