"""The quick kernels give the numbers of torch's own attention."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from drivegen.plugin.attention import SHORT, attention


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("length", [7, SHORT + 1])
def test_attention_and_its_gradients_are_torch_s(dtype: torch.dtype, tolerance: float, length: int) -> None:
    torch.manual_seed(0)
    user_input = [torch.randn(2, 3, length, 8, dtype=dtype) for _ in range(3)]
    results = []
    for function in (attention, F.scaled_dot_product_attention):
        q, k, v = (z.clone().requires_grad_(True) for z in user_input)
        out = function(q, k, v)
        out.float().square().sum().backward()
        results.append([out, q.grad, k.grad, v.grad])
    for ours, theirs in zip(*results, strict=True):
        assert ours is not None
        assert theirs is not None
        assert (ours - theirs).float().norm() <= tolerance * theirs.float().norm()
