"""Render the built-in scene that `drivegen generate` shows when no data are given, as a nuScenes dataset.

python scripts/make_demo_scene.py drivegen/assets/scene --seed 7 --index 0
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

from drivegen import world
from drivegen.datasets import nuscenes
from drivegen.world.dataset import render_frame


def main() -> None:
    """Write one frame of one scene of the procedural city, as annotated: what is hidden in every view is left out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--index", type=int, default=0)
    options = parser.parse_args()
    city = world.build(options.seed, options.index)
    frame = render_frame(city, city.scene.frames[0], options.out)
    shutil.rmtree(options.out / "truth")
    nuscenes.write([replace(city.scene, frames=(frame,))], options.out)
    print(f"{options.out}: {frame.description}")


if __name__ == "__main__":
    main()
