"""BEVControl and its comparison are trained by the ordinary command, from caches, and generate afterwards."""

from __future__ import annotations

import pytest
import torch
import yaml

from drivegen import training
from drivegen.pipeline.pipeline import Pipeline
from tests.street import street_frame


@pytest.mark.slow
@pytest.mark.parametrize("coordinator", [True, False])
def test_it_trains_on_a_frozen_host_and_generates(config, tmp_path, coordinator: bool) -> None:
    values = yaml.safe_load(config.read_text(encoding="utf-8"))
    sketch = {"kind": "bevcontrol", "drop": 0.3, "options": {"coordinator": coordinator, "channels": [8, 8]}}
    values["plugins"] = {"sketch": sketch} | ({} if coordinator else {"views": {"kind": "cross_view", "drop": 0.0}})
    values["drop_groups"] = []
    values["train"] |= {"unet": False, "steps": 4, "ema": 0.0}
    config.write_text(yaml.safe_dump(values), encoding="utf-8")
    assert training.run(config) == 0
    pipe = Pipeline.from_pretrained(tmp_path / "run" / "model", device="cpu", dtype="float32")
    for layer in pipe.host.plugin("sketch").taps.values():
        parts = [layer.foreground, layer.background] + ([layer.globally, layer.locally] if coordinator else [])
        assert all(part.to_out.weight.abs().sum() > 0 for part in parts)
    latents = pipe(street_frame(0), seed=0, num_inference_steps=2, output_type="latent")
    assert all(torch.isfinite(value).all() for value in latents.values())
