"""The pooled text enters as the class embedding of a diffusers UNet does that was built with one."""

from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel

from drivegen.catalog import registry
from drivegen.host.batch import collate, prepare
from drivegen.host.host import Host
from drivegen.testing.frames import elsewhere, frame
from drivegen.testing.models import randomize, tiny_backbone


@pytest.mark.parametrize("known", [True, False])
@torch.no_grad()
def test_equals_the_projected_embedding_of_diffusers(known: bool) -> None:
    backbone = tiny_backbone()
    host = Host(backbone, {"pooled_text": registry.load("pooled_text")()}).eval()
    plugin = host.plugin("pooled_text")
    randomize(plugin)
    plugins = {"pooled_text": plugin}
    batch = collate([prepare(each, plugins) for each in (frame(0, 2), elsewhere(frame(0, 2)))], plugins, 2)
    width = backbone.text_encoder.config.hidden_size
    theirs = UNet2DConditionModel.from_config(
        backbone.unet.config, class_embed_type="projection", projection_class_embeddings_input_dim=width
    ).eval()
    state = backbone.unet.state_dict() | {
        f"class_embedding.linear_{i}.{part}": plugin.project[j].state_dict()[part]
        for i, j in ((1, 0), (2, 2))
        for part in ("weight", "bias")
    }
    theirs.load_state_dict({key: value for key, value in state.items() if not key.startswith("taps")})

    arrays = batch.arrays["pooled_text"]
    pooled = backbone.text_encoder(arrays["ids" if known else "null_ids"]).pooler_output.repeat_interleave(2, dim=0)
    x, t = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 3, 900, 900])
    nothing = torch.zeros(4, 1, backbone.token_width)
    expected = theirs(x, t, nothing, class_labels=pooled).sample
    ours = host(x, t, host.encode(batch.arrays, batch.grid, {"pooled_text": known}))
    assert (ours - expected).norm() <= 1e-6 * expected.norm()
    assert (ours - backbone.unet(x, t, nothing).sample).norm() > 1e-3 * expected.norm()
