"""A clip of a run's previews: all of them, in the order of their steps."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_clip.py"


def clip(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *map(str, words)], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("kind", ["webp", "gif"])
def test_previews_follow_each_other_by_their_steps(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "previews"
    folder.mkdir()
    for step, level in ((0, 20), (500, 120), (10_000, 220)):
        Image.new("RGB", (64, 40), (level, level, level)).save(folder / f"step-{step:08d}.png")
    (folder / "step-half.png").write_bytes(b"not one of them")
    done = clip(tmp_path, "--out", tmp_path / "new" / f"clip.{kind}", "--width", 32)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "new" / f"clip.{kind}") as made:
        levels = []
        for number in range(made.n_frames):  # type: ignore[attr-defined]
            made.seek(number)
            levels.append(made.convert("RGB").getpixel((5, 5))[0])  # type: ignore[index]
        assert made.width == 32
    assert levels == pytest.approx([20, 120, 220], abs=6)


def test_what_is_no_run_and_no_clip_is_said(tmp_path: Path) -> None:
    done = clip(tmp_path)
    assert (done.returncode, "no previews step-*.png" in done.stderr) == (2, True)
    done = clip(tmp_path, "--out", tmp_path / "clip.mp4")
    assert (done.returncode, "must end in .webp or .gif" in done.stderr) == (2, True)
