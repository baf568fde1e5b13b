"""MagicDrive's own numbers, from its own weights, through the contract."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from drivegen.convert import magicdrive
from drivegen.host import Host
from drivegen.plugin import Grid, Signal

GOLDEN = Path(__file__).parents[2] / "shared" / "fixtures" / "magicdrive"
pytestmark = pytest.mark.skipif(not GOLDEN.is_dir(), reason="the golden tensors are not here")


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours.float() - theirs.float()).norm() / theirs.float().norm())


class Golden:
    """golden_a's networks with random text tokens in the place of a text encoder's."""

    def __init__(self, folder: Path) -> None:
        from tests.tiny_models import tiny_backbone

        checkpoint = magicdrive.read(folder, half=False)
        backbone = tiny_backbone()
        backbone.unet = checkpoint.unet
        plugins = checkpoint.plugins()
        self.host = Host(backbone, plugins)
        checkpoint.load_into(plugins)
        self.inputs = load_file(GOLDEN / "golden_a" / "inputs.safetensors")
        n = self.inputs["camera_param"].shape[1]
        self.grid = Grid(1, 1, n)
        i = self.inputs
        self.arrays = {
            "camera": {"camera_param": i["camera_param"]},
            "text": {"states": i["prompt_embeds"], "null_states": i["negative_prompt_embeds"]},
            "boxes": {"corners": i["bboxes"], "classes": i["classes"], "mask": i["masks"]},
            "bev_map": {"map": i["map"]},
            "cross_view": {"neighbours": torch.tensor([[(k - 1) % n, (k + 1) % n] for k in range(n)])[None]},
        }


@pytest.mark.parametrize("name", ["golden_a", "golden_a_bin"])
@torch.no_grad()
def test_step_is_reproduced_with_released_weights(name: str) -> None:
    golden = Golden(GOLDEN / name)
    theirs = load_file(GOLDEN / "golden_a" / "step.safetensors")
    conditions = golden.host.encode(golden.arrays, golden.grid)
    x = golden.inputs["view_latents"][0]
    t = golden.inputs["timestep"]
    control = golden.host.plugin("bev_map")
    seen: dict[str, torch.Tensor] = {}
    handle = control.branch.register_forward_hook(
        lambda m, a, k, out: seen.update(
            mid=out[1],
            tokens=k["encoder_hidden_states"],
            map=k["controlnet_cond"],
            **{f"down.{i}": d for i, d in enumerate(out[0])},
        ),
        with_kwargs=True,
    )
    ours = golden.host(x, t, conditions)
    handle.remove()
    pairs = {"noise_pred": ours, "encoder_hidden_states_with_cam": seen["tokens"], "map_emb": seen["map"], "mid": seen["mid"]}
    pairs |= {k: v for k, v in seen.items() if k.startswith("down.")}
    camera: Signal = conditions.signals["camera"]
    assert camera.tokens is not None
    pairs["cam_tokens"] = camera.tokens.view_as(theirs["cam_tokens"])
    features = golden.host.plugin("camera").features(golden.inputs["camera_param"])
    pairs["camera_emb"] = features.view_as(theirs["camera_emb"])
    errors = {key: relative(value, theirs[key]) for key, value in pairs.items()}
    assert max(errors.values()) <= 1e-4, errors
