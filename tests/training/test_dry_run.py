"""The description of a training: origins of values, counts of parameters, memory; and nothing that is written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from drivegen import training
from drivegen.cli.main import app
from drivegen.plugin import Grid
from drivegen.support.errors import InputError
from drivegen.training import config as configs
from drivegen.training.activations import kept_for_backward
from drivegen.training.stages import ModelStage
from tests.tiny_hosts import tiny_host


def test_it_says_origins_parameters_and_memory(config: Path) -> None:
    before = sorted(config.parent.rglob("*"))
    overrides = ["train.lr=2e-4", "objective.kind=lcm", "objective.options.solver_steps=20"]
    lines = training.describe(config, overrides).splitlines()
    assert sorted(config.parent.rglob("*")) == before
    for line in (
        "  train.lr = 0.0002 (command line)", "  train.steps = 6 (file)", "  train.weighting = 'plain' (default)",
        "  objective.kind = 'lcm' (command line)", "  plugins.boxes.options.max_boxes = 4 (file)",
        "  sampler = 'lcm' (objective lcm)",
    ):  # fmt: skip
        assert line in lines
    stage = ModelStage(configs.load(config, overrides))
    trained = sum(p.numel() for _, p in stage.module.trained())
    everything = sum(p.numel() for p in stage.module.parameters())
    assert f"  all: {trained:,} of {everything:,}" in lines
    unet = sum(p.numel() for p in stage.host.backbone.unet.parameters())
    assert f"  unet: {unet:,} of {unet:,}" in lines
    assert any(line.startswith("  objective teacher: 0 of ") for line in lines)
    (memory,) = (line for line in lines if line.startswith("memory: "))
    assert "MB by the UNet alone" in lines[-1]
    assert f"gradients {4 * trained / 1e6:.1f} MB, optimiser {8 * trained / 1e6:.1f} MB" in memory


@pytest.mark.parametrize(("precision", "trains"), [("32", True), ("bf16", True), ("32", False)])
def test_what_the_backward_pass_keeps_is_what_autograd_saves(precision: str, trains: bool) -> None:
    host = tiny_host(())
    host.backbone.unet.requires_grad_(trains)
    seen: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            seen[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    x = torch.randn(3, 4, 8, 16, requires_grad=not trains)
    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"), hooks:
        host(x, torch.zeros(3, dtype=torch.long), host.encode({}, Grid(1, 1, 3)))
    saved = sum(tensor.untyped_storage().nbytes() for tensor in seen.values())
    counted = kept_for_backward(host, 3, (64, 128), precision)
    assert counted == pytest.approx(saved, rel=0.02)
    assert kept_for_backward(host, 6, (64, 128), precision) > 1.5 * counted
    if trains and precision == "32":
        host.enable_gradient_checkpointing()
        host.train()
        assert kept_for_backward(host, 3, (64, 128), precision) < 0.8 * counted


@pytest.mark.slow
def test_what_belongs_to_zero_terminal_snr_is_said_together(config: Path) -> None:
    for overrides, rescaled in (([], "guidance rescaled by 0.5"), (["sampling.guidance_rescale=0"], "guidance not rescaled")):
        given = ["model.base=tiny", "plugins={}", "drop_groups=[]", "train.unet=true", *overrides]
        (line,) = (one for one in training.describe(config, given).splitlines() if "zero terminal SNR" in one)
        assert line.startswith(f"  zero terminal SNR: predicts v_prediction, sampling begins at timestep 999, {rescaled}")
    assert "zero terminal SNR" not in training.describe(config)


@pytest.mark.slow
def test_groups_and_a_lora_are_told_apart(config: Path) -> None:
    overrides = ["objective.kind=adversarial", "train.unet=false", "lora.rank=2", "plugins.boxes.train=false"]
    told = training.describe(config, overrides)
    assert "group objective.heads: " in told
    assert "at lr 0.001, gradients clipped to 1" in told
    assert "\n  tuner lora: " in told
    assert "\n  unet: 0 of " in told
    assert "\n  plugin boxes: 0 of " in told


def test_the_command_line_says_it_and_refuses_what_training_would(config: Path) -> None:
    done = CliRunner().invoke(app, ["train", str(config), "--dry-run"])
    assert done.exit_code == 0, done.output
    assert "parameters that train, of all:" in done.output
    assert not (config.parent / "run").exists()
    for wrong in (["--resume", "auto"], ["objective.kind=nois"]):
        done = CliRunner().invoke(app, ["train", str(config), "--dry-run", *wrong])
        assert done.exit_code == 2, done.output
    with pytest.raises(InputError, match="unet"):
        training.describe(config, ["train.unnet=true"])
