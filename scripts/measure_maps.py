"""Time of reading a map expansion, beside nuscenes-devkit's `NuScenesMap`, in turns in one process.

    python scripts/measure_maps.py --blocks 400 --rounds 5

The map is made: streets with lanes, crossings, walkways and dividers, about 250 nodes for each block.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from drivegen.datasets.nuscenes.vectormap import map_json, read_map
from drivegen.scene import MapLine, MapPolygon, VectorMap

CORNERS = {
    "drivable_area": 40, "road_segment": 12, "lane": 24, "lane_connector": 24, "walkway": 24, "ped_crossing": 8, "stop_line": 5,
    "road_block": 8, "carpark_area": 4,
}  # fmt: skip


def ring(x: float, y: float, width: float, height: float, corners: int) -> np.ndarray:
    turn = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return np.stack([x + width * np.cos(turn), y + height * np.sin(turn)], -1)


def made(blocks: int) -> VectorMap:
    polygons: dict[str, list[MapPolygon]] = {}
    lines: dict[str, list[MapLine]] = {}
    for i in range(blocks):
        x, y = 100.0 * (i % 20), 100.0 * (i // 20)
        for layer, corners in CORNERS.items():
            polygons.setdefault(layer, []).append(MapPolygon(ring(x, y, 40 + corners, 30, corners), token=f"{layer}-{i}"))
        for layer in ("road_divider", "lane_divider"):
            along = np.linspace(x, x + 90, 40)
            lines.setdefault(layer, []).append(MapLine(np.stack([along, y + np.sin(along)], -1), f"{layer}-{i}"))
    grouped = {name: tuple(group) for name, group in polygons.items()}
    return VectorMap("boston-seaport", grouped, {name: tuple(group) for name, group in lines.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    from nuscenes.map_expansion.map_api import NuScenesMap

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "maps" / "expansion" / "boston-seaport.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(map_json(made(given.blocks))))
        took: dict[str, list[float]] = {"devkit": [], "drivegen": []}
        for number in range(given.rounds + 1):
            for who in ("devkit", "drivegen") if number % 2 else ("drivegen", "devkit"):
                gc.collect()  # what the other has left behind is not this one's
                began = time.process_time()
                if who == "devkit":
                    NuScenesMap(folder, "boston-seaport")
                else:
                    read_map(path, "boston-seaport")
                if number:  # the first round meets what is imported and compiled once
                    took[who].append(time.process_time() - began)
        ratios = [ours / theirs for ours, theirs in zip(took["drivegen"], took["devkit"], strict=True)]
        theirs, ours = (statistics.median(took[who]) for who in ("devkit", "drivegen"))
        print(
            f"{path.stat().st_size / 1e6:.1f} MB; processor seconds: devkit {theirs:.3f}, drivegen {ours:.3f}; ratio "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) in {given.rounds} rounds"
        )


if __name__ == "__main__":
    main()
