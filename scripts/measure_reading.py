"""Time and memory of opening and checking a dataset, beside nuscenes-devkit's own, on tables of a share of trainval's size.

    python scripts/measure_reading.py --share 0.1

The tables are made, with rows as nuScenes has them; all cameras name one small picture, so that decoding pictures, which
takes what it takes, is not what is measured. Each step runs in a process of its own.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image

SCENES, SAMPLES, SWEEPS, BOXES, TRACKS = 850, 40, 65, 34, 75
"""Of v1.0-trainval: scenes; of each scene samples and tracks; of each sample sweeps and boxes."""

CAMERAS = ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_RIGHT", "CAM_BACK", "CAM_BACK_LEFT")
SENSORS = (*CAMERAS, "LIDAR_TOP", *(f"RADAR_{i}" for i in range(5)))
STEPS = {
    "devkit": "from nuscenes.nuscenes import NuScenes; NuScenes('v1.0-made', ROOT, verbose=False)",
    "open": "from drivegen import nuscenes; nuscenes.open(ROOT)",
    "open, see all files": "from drivegen import nuscenes; d = nuscenes.open(ROOT); [d.fingerprint(t) for t in d.samples()]",
    "validate": "from drivegen import nuscenes; found = nuscenes.validate(ROOT); assert not found, found",
}


def token(*parts: object) -> str:
    return hashlib.md5(repr(parts).encode(), usedforsecurity=False).hexdigest()


def pose(i: int) -> dict[str, Any]:
    return {"rotation": [0.8, 0.0, 0.0, 0.6], "translation": [600.0 + 0.123456789 * i, 1600.0 - 0.0987654321 * i, 0.0]}


def make(root: Path, scenes: int) -> None:
    """Write the tables, a map, its mask, one picture and one lidar file."""
    tables: dict[str, list[dict[str, Any]]] = {name: [] for name in (
        "instance", "calibrated_sensor", "ego_pose", "log", "scene", "sample", "sample_data", "sample_annotation")}  # fmt: skip
    tables["category"] = [{"token": token("category"), "name": "vehicle.car", "description": ""}]
    tables["attribute"] = [{"token": token("attribute"), "name": "vehicle.moving", "description": ""}]
    levels = ("v0-40", "v40-60", "v60-80", "v80-100")
    tables["visibility"] = [{"token": str(i + 1), "level": level, "description": ""} for i, level in enumerate(levels)]
    kinds = {name: name.split("_")[0].lower().replace("cam", "camera") for name in SENSORS}
    tables["sensor"] = [{"token": token(name), "channel": name, "modality": kinds[name]} for name in SENSORS]
    for scene in range(scenes):
        make_scene(tables, scene)
    logs = [row["token"] for row in tables["log"]]
    tables["map"] = [{"token": token("map"), "log_tokens": logs, "category": "semantic_prior", "filename": "maps/mask.png"}]
    for folder in ("v1.0-made", "maps/expansion", "samples"):
        (root / folder).mkdir(parents=True)
    for name, rows in tables.items():
        (root / "v1.0-made" / f"{name}.json").write_text(json.dumps(rows))
    from drivegen.datasets.nuscenes.vectormap import map_json
    from drivegen.scene import VectorMap

    (root / "maps" / "expansion" / "here.json").write_text(json.dumps(map_json(VectorMap("here"))))
    Image.new("L", (1, 1)).save(root / "maps" / "mask.png")
    Image.new("RGB", (16, 9)).save(root / "samples" / "picture.jpg")
    (root / "samples" / "points.bin").write_bytes(b"")


def make_scene(tables: dict[str, list[dict[str, Any]]], scene: int) -> None:
    log, name = token("log", scene), f"scene-{scene:04d}"
    samples = [token("sample", scene, i) for i in range(SAMPLES)]
    tables["log"].append({"token": log, "logfile": name, "vehicle": "n", "date_captured": "2018-01-01", "location": "here"})
    tables["scene"].append({"token": token("scene", scene), "log_token": log, "nbr_samples": SAMPLES, "name": name,
                            "first_sample_token": samples[0], "last_sample_token": samples[-1],
                            "description": "Rain"})  # fmt: skip
    mounts = {name: token("mount", scene, name) for name in SENSORS}
    K = [[12.6, 0.0, 8.1], [0.0, 12.6, 4.9], [0.0, 0.0, 1.0]]
    for sensor, mount in mounts.items():
        tables["calibrated_sensor"].append(
            {"token": mount, "sensor_token": token(sensor), "camera_intrinsic": K if sensor in CAMERAS else []} | pose(0)
        )
    tracks = [token("instance", scene, i) for i in range(TRACKS)]
    seen: dict[int, list[dict[str, Any]]] = {i: [] for i in range(TRACKS)}
    for i, sample in enumerate(samples):
        now = 1_530_000_000_000_000 + scene * 10**8 + i * 500_000
        links = {"prev": samples[i - 1] if i else "", "next": samples[i + 1] if i + 1 < SAMPLES else ""}
        tables["sample"].append({"token": sample, "timestamp": now, "scene_token": token("scene", scene)} | links)
        for j in range(len(SENSORS) + SWEEPS):
            sensor, data = SENSORS[j % len(SENSORS)], token("data", scene, i, j)
            file = "picture.jpg" if sensor in CAMERAS else "points.bin"
            size = (9, 16) if sensor in CAMERAS else (0, 0)
            tables["ego_pose"].append({"token": data, "timestamp": now + j} | pose(i))
            tables["sample_data"].append({
                "token": data, "sample_token": sample, "ego_pose_token": data, "calibrated_sensor_token": mounts[sensor],
                "timestamp": now + j, "fileformat": file[-3:], "is_key_frame": j < len(SENSORS), "height": size[0],
                "width": size[1], "filename": f"samples/{file}", "prev": "", "next": "",
            })  # fmt: skip
        for j in range(BOXES):
            track = (j + 2 * i) % TRACKS
            row = {"token": token("box", scene, i, j), "sample_token": sample, "instance_token": tracks[track],
                   "visibility_token": str(1 + j % 4), "attribute_tokens": [token("attribute")], "size": [1.9, 4.5, 1.7],
                   "prev": "", "next": "", "num_lidar_pts": j, "num_radar_pts": 0} | pose(i + j)  # fmt: skip
            if seen[track]:
                row["prev"], seen[track][-1]["next"] = seen[track][-1]["token"], row["token"]
            seen[track].append(row)
            tables["sample_annotation"].append(row)
    for i, track in enumerate(tracks):
        ends = {"first_annotation_token": seen[i][0]["token"], "last_annotation_token": seen[i][-1]["token"]}
        tables["instance"].append({"token": track, "category_token": token("category"), "nbr_annotations": len(seen[i])} | ends)


def measure(code: str, root: Path) -> tuple[float, float, float]:
    """Run code in a process of its own: seconds, processor seconds and most memory in GB."""
    end = "import resource; u = resource.getrusage(resource.RUSAGE_SELF); print('used:', u.ru_utime + u.ru_stime, u.ru_maxrss)"
    start = time.monotonic()
    command = [sys.executable, "-c", f"ROOT = {str(root)!r}\n{code}\n{end}"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds, kilobytes = done.stdout.rsplit("used:", 1)[1].split()
    return time.monotonic() - start, float(seconds), float(kilobytes) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=0.1, help="share of trainval's rows")
    share = parser.parse_args().share
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make(root, max(1, round(SCENES * share)))
        size = sum(path.stat().st_size for path in root.rglob("*.json")) / 1e6
        print(f"{share:g} of trainval's rows, {size:.0f} MB of tables")
        print(f"{'step':<26}{'seconds':>9}{'processor':>11}{'GB':>7}")
        for name, code in STEPS.items():
            print(f"{name:<26}" + "{:9.1f}{:11.1f}{:7.2f}".format(*measure(code, root)), flush=True)


if __name__ == "__main__":
    main()
