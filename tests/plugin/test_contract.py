"""The battery on every installed plugin."""

from functools import partial
from typing import Any

import numpy as np
import pytest

from drivegen.catalog import registry
from drivegen.testing import CHECKS, Case, tiny_backbone

OPTIONS = {
    "bevcontrol": [{"channels": [8, 8]}, {"channels": [8], "coordinator": False}],
    "bev_map": [
        {"pixels": [40, 40], "channels": [8, 8, 16, 16]},
        {"pixels": [40, 40], "channels": [8, 8, 16, 16], "width": 0.5},
        {"pixels": [40, 40], "channels": [8, 8, 16], "embedder": "views"},
    ],
    "boxes": [
        {},
        {"masked": False, "in_image": False, "frame": "lidar", "upright": True, "learn_classes": False},
        {"corners": "cxyz"},
    ],
    "camera": [{}, {"normalised": False, "half": True}],
    "concat": [{"picture": "boxes"}, {"picture": "depth", "form": "resized"}, {"form": "masked"}],
    "controlnet": [{"picture": "layout"}, {"picture": "given", "attends_to": None}],
    "cross_view": [{}, {"attention": "concat", "connector": "gated"}, {"attention": "self"}],
    "image_prompt": [{}, {"plus": True, "depth": 1, "heads": 1, "tokens": 3, "fit": "whole"}, {"full": True}],
    "layout": [{"channels": [8, 16]}],
    "pose_weight": [
        {"classes": {"pedestrian": 3.0}, "far": 1.0, "small": 0.5, "schedule": "high_noise"},
        {"strength": 0.1, "error": "below"},
    ],
    "t2i_adapter": [{"picture": "depth"}, {"picture": "given", "size": "light_adapter"}],
    "text": [{}, {"weighted": True, "clip_skip": 1}],
}
"""Small widths, and each variant that changes the network."""

PHOTOS = [np.random.default_rng(i).integers(0, 256, (24, 40, 3), dtype=np.uint8) for i in range(3)]
LEFT = np.arange(64)[None].repeat(48, 0) < 32
THREE_LEVELS = {
    "block_out_channels": (32, 64, 64), "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
}  # fmt: skip
DRAWING = np.random.default_rng(9).integers(0, 256, (48, 64, 3), dtype=np.uint8)
NEEDS: dict[str, dict[str, Any]] = {
    "concat": {"user_input": {"CAM_FRONT": {"image": DRAWING, "mask": LEFT}}},
    "picture_size": {"backbone": partial(tiny_backbone, family="sdxl"), "user_input": {"original_size": [90, 160]}},
    "controlnet": {"user_input": {"CAM_FRONT": DRAWING}, "others": {"text": registry.load("text")}},
    "t2i_adapter": {"user_input": {"CAM_FRONT": DRAWING}, "backbone": partial(tiny_backbone, unet=THREE_LEVELS)},
    "image_prompt": {
        "backbone": partial(tiny_backbone, image_encoder=True),
        "user_input": {
            "CAM_FRONT": PHOTOS[:2],
            "CAM_FRONT_LEFT": {"images": PHOTOS[1:], "scale": [0.7, 1.2], "masks": [None, LEFT]},
        },
    },
}
"""What callers pass, and backbones with more than most have."""

CASES = [(kind, options) for kind in registry.kinds() for options in OPTIONS.get(kind, [{}])]
QUICK = ("bev_map", "camera", "pooled_text")
"""One plugin per way of entering (a branch on a raster, tokens, a tap); the others are checked by the whole suite."""
PARAMETERS = [
    pytest.param(kind, options, id=f"{kind}-{i}", marks=() if kind in QUICK else pytest.mark.slow)
    for i, (kind, options) in enumerate(CASES)
]


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize(("kind", "options"), PARAMETERS)
def test_contract(kind: str, options: dict[str, object], check: str) -> None:
    CHECKS[check](Case(registry.load(kind), options, **NEEDS.get(kind, {})))
