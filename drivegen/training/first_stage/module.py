"""The LightningModule of a first stage: one backward pass and one optimiser for the network and its discriminator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from drivegen.objectives import GroupOptions
from drivegen.support.errors import InputError
from drivegen.training.base import TrainedModule
from drivegen.training.config import TrainConfig
from drivegen.training.fill import to_unit
from drivegen.training.first_stage import perceptual
from drivegen.training.first_stage.adversary import PatchDiscriminator, adaptive_weight, hinge
from drivegen.training.first_stage.codebook import Codebook
from drivegen.training.first_stage.images import ImageBatch
from drivegen.training.first_stage.losses import colour_distance, edge_distance, random_crops
from drivegen.training.first_stage.networks import encoding_parts
from drivegen.training.first_stage.settings import AutoencoderConfig, CodebookConfig
from drivegen.training.frozen import module_digest


class FirstStageModule(TrainedModule):
    """Training of an AutoencoderKL or a VQModel on single pictures.

    The losses on the picture are L1 on pixels, on their gradients at four sizes and on colours, a distance of features, and a
    discriminator's hinge loss; on the latents the KL term or the codebook's. Gradients at the picture are summed and propagated
    through the network once, so that a discriminator adds a quarter to the cost instead of doubling it.

    Args:
        vae: the network.
        settings: how it trains.
        loss: the weights of the losses.
        redrawn: digest of the latents that a model has drawn anew; empty where there are none.
    """

    def __init__(self, vae: Any, settings: TrainConfig, loss: AutoencoderConfig, redrawn: str = "") -> None:
        super().__init__(settings)
        factor = 2 ** (len(vae.config.block_out_channels) - 1)
        if loss.crop is not None and any(n % factor for n in loss.crop):
            raise InputError(f"autoencoder.crop = {list(loss.crop)} must be multiples of {factor}, the network's factor")
        self.vae, self.loss = vae.requires_grad_(True).train(), loss
        self._redrawn = redrawn
        if loss.train == "decoder":
            for part in encoding_parts(vae):
                part.requires_grad_(False)
        if settings.gradient_checkpointing:
            vae.enable_gradient_checkpointing()
        self.codebook = Codebook(vae.quantize.embedding, loss.codebook or CodebookConfig()) if loss.kind == "vq" else None
        self.distance = perceptual.build(loss.perceptual) if loss.perceptual is not None else None
        self.discriminator = PatchDiscriminator(loss.adversarial.channels) if loss.adversarial is not None else None

    def training_step(self, batch: ImageBatch, batch_idx: int) -> Tensor:
        """Return the loss of one batch."""
        cut, redrawn = batch.pixels, batch.redrawn
        if self.loss.crop:
            cut, redrawn = random_crops(cut, self.loss.crop, redrawn)
        pixels = to_unit(cut)
        made, on_latents, parts = self._reconstruct(pixels, redrawn)
        picture = made.detach().float().requires_grad_()
        on_picture = self._distances(picture, pixels, parts)
        (gradient,) = torch.autograd.grad(on_picture, picture)
        total, judged = on_picture.detach() + on_latents, on_latents.new_zeros(())
        if self.discriminator is not None and self._begun() < 0:
            # Of every process's graph, as distributed training asks of all weights; AdamW leaves weights without gradients be.
            judged = torch.stack([0.0 * p.sum() for p in self.discriminator.parameters()]).sum()
        elif self.discriminator is not None:
            opinion = -self.discriminator.judged_by_others(picture).mean()
            (against,) = torch.autograd.grad(opinion, picture)
            weight = self._ramp() * adaptive_weight(made, self.vae.decoder.conv_out.weight, gradient.to(made), against.to(made))
            gradient = gradient + weight * against
            total = total + weight * opinion.detach()
            judged = hinge(self.discriminator(pixels), self.discriminator(picture.detach()))
            parts |= {"adversarial": opinion, "adversarial_weight": weight, "discriminator": judged}
        self.log_dict({name: value.detach() for name, value in parts.items()})
        back = (made.float() * gradient).sum()  # its gradient at the picture is `gradient`; its value is not used
        return self.checked(total + judged + (back - back.detach()), batch.samples, parts)

    def digest_frozen(self) -> dict[str, str]:
        """Return digests of the encoder where it stays, of the network whose features are compared, and of redrawn latents."""
        found = {"encoder": module_digest(self.vae)} if self.loss.train == "decoder" else {}
        if self.distance is not None:
            found["perceptual network"] = module_digest(self.distance)
        if self._redrawn:
            found["redrawn latents"] = self._redrawn
        return found

    def validation_step(self, batch: ImageBatch, batch_idx: int) -> None:
        """Log ``val_loss``, its mean over the held-out images."""
        self.log("val_loss", self.validation_loss(batch), batch_size=len(batch.samples), prog_bar=True, sync_dist=True)

    @torch.no_grad()
    def validation_loss(self, batch: ImageBatch) -> Tensor:
        """Return the losses on whole pictures and their latents, without the discriminator's; deterministic."""
        pixels = to_unit(batch.pixels)
        made, on_latents, parts = self._reconstruct(pixels)
        return self._distances(made.float(), pixels, parts) + on_latents

    def _reconstruct(self, pixels: Tensor, redrawn: Tensor | None = None) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Encode and decode: the picture, the loss on the latents, and what is logged."""
        encoded = self.vae.encode(pixels)
        if self.codebook is not None:
            latents = self._mixed(encoded.latents, redrawn)
            quantised, loss, numbers = self.codebook(latents)
            if self.training and self.loss.train == "all":
                self.codebook.learn(latents, numbers)
            used, perplexity = self.codebook.usage(numbers)
            made = self.vae.decode(quantised.to(latents.dtype), force_not_quantize=True).sample
            return made, loss, {"codes_used": used, "perplexity": perplexity, "codebook": loss}
        mean, logvar = encoded.latent_dist.mean.float(), encoded.latent_dist.logvar.float()
        if self.loss.kind == "plain":
            return self.vae.decode(self._mixed(mean, redrawn)).sample, mean.new_zeros(()), {"latent_std": mean.std()}
        latents = mean + torch.exp(0.5 * logvar) * torch.randn(mean.shape).to(mean) if self.training else mean
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(dim=(1, 2, 3)).mean()
        made = self.vae.decode(self._mixed(latents, redrawn)).sample
        return made, self.loss.kl * kl, {"kl": kl, "latent_std": mean.std()}

    def _mixed(self, latents: Tensor, redrawn: Tensor | None) -> Tensor:
        """Replace a random share of the pictures' latents (N, C, h, w) by those that a model has drawn anew."""
        if redrawn is None or self.loss.redrawn is None:
            return latents
        replaced = torch.rand(len(latents)).to(latents.device) < self.loss.redrawn.share
        return torch.where(replaced[:, None, None, None], redrawn.to(latents), latents)

    def _distances(self, picture: Tensor, pixels: Tensor, parts: dict[str, Tensor]) -> Tensor:
        weighted = {
            "l1": (self.loss.l1, (picture - pixels).abs().mean()),
            "edges": (self.loss.edges, edge_distance(picture, pixels)),
            "colour": (self.loss.colour, colour_distance(picture, pixels)),
        }
        if self.distance is not None and self.loss.perceptual is not None:
            weighted["perceptual"] = (self.loss.perceptual.weight, self.distance(picture, pixels))
        parts |= {name: value for name, (_, value) in weighted.items()}
        return torch.stack([weight * value for weight, value in weighted.values()]).sum()

    def _ramp(self) -> float:
        """Weight of the adversarial loss at this step."""
        settings = self.loss.adversarial
        assert settings is not None
        return settings.weight * (1.0 if settings.ramp == 0 else min(1.0, self._begun() / settings.ramp))

    def _begun(self) -> float:
        """Share of the steps since the discriminator began; negative before."""
        assert self.loss.adversarial is not None
        return self.global_step / self.settings.steps - self.loss.adversarial.start

    def groups(self) -> Mapping[str, GroupOptions]:
        """Return how the discriminator is optimised, where there is one; its gradients are clipped with the network's."""
        settings = self.loss.adversarial
        if self.discriminator is None or settings is None:
            return {}
        return {"discriminator.": GroupOptions(lr=settings.lr, betas=settings.betas, weight_decay=0.0)}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self.codebook is not None:
            codes = self.vae.quantize.embedding.weight.detach()
            checkpoint["codebook"] = {"codes": codes, "counts": self.codebook.counts, "sums": self.codebook.sums}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        if self.codebook is not None:
            with torch.no_grad():
                self.vae.quantize.embedding.weight.copy_(checkpoint["codebook"]["codes"])
                self.codebook.counts.copy_(checkpoint["codebook"]["counts"])
                self.codebook.sums.copy_(checkpoint["codebook"]["sums"])
