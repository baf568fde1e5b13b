"""A small dataset, a tiny base and a config: what trainings here start from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from drivegen.datasets import nuscenes
from drivegen.scene import Scene
from tests.street import street_frame
from tests.tiny_models import tiny_backbone

SIZE = (32, 56)


@pytest.fixture(scope="session")
def city(tmp_path_factory) -> Path:
    """Two scenes to train on, of three and of two cameras, and one to look at; every picture is noise of its own."""
    root = tmp_path_factory.mktemp("data") / "città one"  # a path with a space and an accent
    rng = np.random.default_rng(0)
    scenes = []
    for number, (count, steps) in enumerate([(3, 3), (2, 2), (3, 1)]):
        frames = []
        for step in range(steps):
            frame = street_frame(step, scene=f"scene-{number}")
            cameras = []
            for camera in frame.cameras[:count]:
                path = root / "samples" / camera.channel / f"{number}-{step}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                coarse = Image.fromarray(rng.integers(0, 256, (9, 16, 3), dtype=np.uint8))
                coarse.resize((320, 180), Image.Resampling.BICUBIC).save(path)
                cameras.append(replace(camera, image_path=path))
            boxes = tuple(replace(b, instance=f"{b.instance}-{number}", token=f"{b.token}-{number}") for b in frame.boxes)
            frames.append(replace(frame, token=f"s{number}f{step}", cameras=tuple(cameras), boxes=boxes))
        scenes.append(
            Scene(f"scene-{number}", tuple(frames), "a street by hand, day", "boston-seaport", f"scene-{number}-token")
        )
    nuscenes.write(scenes, root)
    return root


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "model"
    tiny_backbone(prediction_type="v_prediction").save(folder)
    return folder


@pytest.fixture
def config(city, base, tmp_path) -> Path:
    """A run of six steps: dropping conditions, gathering two batches per step, with a moving average and caches."""
    return written(city, base, tmp_path)


def written(city: Path, base: Path, folder: Path) -> Path:
    """Write the config of such a run, which keeps its output and its cache in a folder."""
    values = {
        "output": str(folder / "run"),
        "model": {"base": str(base)},
        "plugins": {
            "text": {"kind": "text", "drop": 0.3},
            "boxes": {"kind": "boxes", "drop": 0.3, "options": {"max_boxes": 4}},
            "cross_view": {"kind": "cross_view", "drop": 0.0},
        },
        "drop_groups": [{"names": ["text", "boxes"], "probability": 0.2}],
        "data": {"roots": [str(city)], "size": list(SIZE), "val_scenes": ["scene-2"], "cache": str(folder / "cache")},
        "train": {
            "unet": True, "steps": 6, "images": 4, "accumulate": 2, "warmup": 2, "schedule": "cosine", "precision": "32",
            "ema": 0.9, "checkpoint_every": 3, "keep_checkpoints": 5, "noise_offset": 0.1, "log_every": 1, "device": "cpu",
        },
    }  # fmt: skip
    path = folder / "train.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path
