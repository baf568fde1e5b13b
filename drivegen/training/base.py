"""The common part of both stages: optimiser, warm-up, reproducible steps, divergence, checkpoints of trained parameters
alone.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from drivegen.objectives import GroupOptions
from drivegen.support.errors import Diverged, InputError
from drivegen.training.config import TrainConfig
from drivegen.training.fast import speed_up
from drivegen.training.frozen import check_frozen
from drivegen.training.own_trainer import check_data_length, check_trainer
from drivegen.training.processes import greatest
from drivegen.training.randomness import randomness, set_randomness


class TrainedModule(pl.LightningModule):
    """A LightningModule whose optimiser, checkpoints and EMA hold the parameters that require gradients, and no others."""

    def __init__(self, settings: TrainConfig) -> None:
        super().__init__()
        self.settings = settings
        self.strict_loading = False
        self.samples: tuple[str, ...] = ()
        self._randomness = randomness()
        self._frozen_digests: dict[str, str] | None = None

    def trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Name the trainable parameters."""
        return ((name, p) for name, p in self.named_parameters() if p.requires_grad)

    def averaged(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Name those of the trainable parameters that a moving average is kept of: all, unless overridden."""
        return self.trained()

    def groups(self) -> Mapping[str, GroupOptions]:
        """Return, by the beginning of their names, how some of the parameters are optimised otherwise than the settings say."""
        return {}

    def grouped(self) -> list[tuple[GroupOptions, list[nn.Parameter]]]:
        """Return the trainable parameters of each group, those of no group first."""
        left = dict(self.trained())
        own = []
        for prefix, options in self.groups().items():
            own.append((options, [left.pop(name) for name in list(left) if name.startswith(prefix)]))
        return [(GroupOptions(), list(left.values())), *own]

    def stepped(self) -> None:
        """Called after each step of the optimiser, except those that loss scaling skips."""

    def digest_frozen(self) -> dict[str, str]:
        """Return a digest per part that is not trained; a subclass overrides it to name its parts."""
        return {}

    def frozen_digests(self) -> dict[str, str]:
        """Return `digest_frozen`, computed once, since none of it changes."""
        if self._frozen_digests is None:
            self._frozen_digests = self.digest_frozen()
        return self._frozen_digests

    def prepare_data(self) -> None:
        """Refuse a Trainer that contradicts the settings, before data is read."""
        check_trainer(self.trainer, self.settings)

    def setup(self, stage: str) -> None:
        # Before DDP copies the layout of the parameters for their gradients: AdamW's fused kernel reads both as they lie in
        # memory, and gradients of another layout would move other weights than theirs.
        if stage == "fit":
            speed_up(self, self.trainer.strategy.root_device)

    def on_train_start(self) -> None:
        check_data_length(self.trainer, self.settings)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch.to(device)

    def configure_optimizers(self) -> Any:
        s = self.settings
        grouped = self.grouped()
        if not grouped[0][1]:
            raise InputError("nothing trains: set train.unet, train.text_encoder, or train: true for a plugin")
        groups: list[dict[str, Any]] = []
        for options, parameters in grouped:
            own = {name: value for name in ("lr", "betas") if (value := getattr(options, name)) is not None}
            if options.weight_decay is not None:
                groups.append({"params": parameters, "weight_decay": options.weight_decay, **own})
                continue
            groups.append({"params": [p for p in parameters if p.ndim > 1], "weight_decay": s.weight_decay, **own})
            groups.append({"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0, **own})
        groups = [group for group in groups if group["params"]]
        optimizer = torch.optim.AdamW(groups, lr=s.lr, betas=s.betas, fused=s.precision != "fp16")
        optimizer.register_step_post_hook(lambda *_: self.stepped())
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def rate(self, step: int) -> float:
        """Return the factor of the learning rate at a step: linear warm-up, then constant or half a cosine down to zero."""
        s = self.settings
        warm = min(1.0, (step + 1) / (s.warmup + 1))
        if s.schedule == "constant":
            return warm
        done = min(1.0, max(0.0, (step - s.warmup) / max(1, s.steps - s.warmup)))
        return warm * 0.5 * (1 + math.cos(math.pi * done))

    def on_validation_start(self) -> None:
        self._randomness = randomness()

    def on_validation_end(self) -> None:
        set_randomness(self._randomness)  # as if nothing had been measured

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed every generator from (seed, number of batches so far, rank), so that a resumed run draws what an
        uninterrupted one would.
        """
        text = f"{self.settings.seed} {self.trainer.fit_loop.total_batch_idx} {self.global_rank}"
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)

    def checked(self, loss: Tensor, samples: tuple[str, ...], parts: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return the loss; raises Diverged when it is not finite, naming which of its parts are not.

        Args:
            loss: the sum.
            samples: the frames' tokens.
            parts: what was summed, by name; None where the loss is one.
        """
        self.samples = samples
        finite = bool(torch.isfinite(loss))
        if greatest(0.0 if finite else 1.0, self.device) and finite:
            raise Diverged(f"the loss is not finite in another process at step {self.global_step}; {_ADVICE}")
        if not finite:
            wrong = [name for name, part in (parts or {}).items() if not bool(torch.isfinite(part))]
            value = float(parts[wrong[0]]) if parts and wrong else float(loss)
            named = f" of {', '.join(wrong)}" if len(parts or {}) > 1 and wrong else ""
            where = f"at step {self.global_step}, samples {', '.join(samples)}"
            raise Diverged(f"the loss{named} is {value} {where}; {_ADVICE}")
        self.log("loss", loss.detach(), prog_bar=True)
        return loss

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip gradients, each group that has a limit of its own by itself; raises Diverged when one is not finite, before the
        parameters see it.

        Args:
            optimizer: not read; every parameter that trains is clipped.
            gradient_clip_val: the Trainer's limit, in place of ``settings.clip``; 0 is none.
            gradient_clip_algorithm: the Trainer's, ``norm`` (the default) or ``value``.
        """
        by_itself = {prefix: options.clip for prefix, options in self.groups().items() if options.clip is not None}
        together = [p for name, p in self.trained() if not name.startswith(tuple(by_itself))]
        limit = (self.settings.clip if gradient_clip_val is None else gradient_clip_val) or math.inf
        by_value = str(getattr(gradient_clip_algorithm, "value", gradient_clip_algorithm)) == "value"
        self._clip(together, limit, by_value)
        for prefix, own in by_itself.items():
            self._clip([p for name, p in self.trained() if name.startswith(prefix)], own or math.inf, False, prefix)

    def _clip(self, parameters: list[nn.Parameter], limit: float, by_value: bool, group: str = "") -> None:
        norm = nn.utils.clip_grad_norm_(parameters, math.inf if by_value else limit)
        if by_value and limit < math.inf:
            nn.utils.clip_grad_value_(parameters, limit)
        # Loss scaling of fp16 makes infinite gradients on purpose and skips the step.
        if self.settings.precision != "fp16" and not bool(torch.isfinite(norm)):
            names, of = ", ".join(self.samples), f" of {group.rstrip('.')}" if group else ""
            raise Diverged(f"the gradient{of} is {float(norm)} at step {self.global_step}, samples {names}; {_ADVICE}")
        self.log(f"gradient_norm_{group.rstrip('.')}" if group else "gradient_norm", norm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        kept = {name for name, _ in self.trained()}
        checkpoint["state_dict"] = {name: v for name, v in checkpoint["state_dict"].items() if name in kept}
        checkpoint["frozen"] = self.frozen_digests()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        check_frozen(checkpoint.get("frozen"), self.frozen_digests(), "the checkpoint")
        own = {name: p.shape for name, p in self.trained()}
        saved = {name: v.shape for name, v in checkpoint["state_dict"].items()}
        problems = [f"missing {n}" for n in own if n not in saved] + [f"unexpected {n}" for n in saved if n not in own]
        problems += [f"{n} is {tuple(saved[n])}, expected {tuple(own[n])}" for n in own if n in saved and saved[n] != own[n]]
        if problems:
            more = f" and {len(problems) - 10} more" if len(problems) > 10 else ""
            raise InputError(f"the checkpoint does not fit what trains: {'; '.join(problems[:10])}{more}")


_ADVICE = "the last checkpoint is kept; lower train.lr, raise train.warmup, or look at those samples"
