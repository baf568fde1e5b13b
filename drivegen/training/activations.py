"""How much a network keeps for its backward pass, counted without data and without arithmetic."""

from __future__ import annotations

from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from drivegen.host.evaluation import Conditions
from drivegen.host.host import Host
from drivegen.plugin import Grid
from drivegen.training.own_trainer import PRECISIONS

_CAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def kept_for_backward(host: Host, rows: int, size: tuple[int, int], precision: str) -> int:
    """Return the bytes that one pass of the UNet alone keeps, without plugins, as autograd would save them.

    Tensors have shapes and no contents. Where nothing in the UNet learns, gradients of plugins may go through all of it.

    Args:
        host: networks, of which what trains requires gradients.
        rows: images of a batch.
        size: (height, width) of the pictures, in pixels.
        precision: of the settings: ``32``, ``bf16`` or ``fp16``.
    """
    backbone, seen = host.backbone, dict[int, Tensor]()

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            seen.setdefault(tensor.untyped_storage()._cdata, tensor)  # kept alive, so that no other has its storage
        return tensor

    height, width = (n // backbone.vae_factor for n in size)
    cast = _CAST.get(PRECISIONS[precision])
    with ExitStack() as stack:
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.autocast("cpu", cast or torch.bfloat16, enabled=cast is not None))
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor))
        x = torch.zeros(rows, backbone.latent_channels, height, width, requires_grad=not backbone.learns("unet"))
        host(x, torch.zeros(rows, dtype=torch.long), Conditions(Grid(1, 1, rows), {}))
        return sum(tensor.untyped_storage().nbytes() for tensor in seen.values())
