"""`drivegen generate` on several devices gives what one gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from drivegen.cli.main import app
from tests.synthesis.test_synthesis import root, tiny

__all__ = ["root", "tiny"]  # fixtures


@pytest.mark.slow
def test_two_devices_give_what_one_gives(root: Path, tiny: Path, tmp_path: Path) -> None:
    own = ["generate", "--data", str(root), "--model", str(tiny), "--dtype", "float32", "--all", "--seed", "3"]

    def made(name: str, *more: str) -> tuple[str, dict[str, bytes], list[dict[str, object]]]:
        out = tmp_path / name
        result = CliRunner().invoke(app, [*own, "--out", str(out), *more])
        assert result.exit_code == 0, (result.output, result.exception)
        pictures = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*.png")}
        lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
        return result.output, pictures, sorted(lines, key=lambda line: str(line["file"]))

    _, pictures, lines = made("one", "--device", "cpu")
    said, *shared = made("two", "--device", "cpu,cpu")
    assert "24 images of 4 frames" in said
    assert shared == [pictures, lines]
    assert "4 frames were there already" in made("two", "--device", "cpu")[0]


def test_devices_of_several_kinds_are_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["generate", "--out", str(tmp_path / "out"), "--device", "cpu,vulkan9"])
    assert result.exit_code == 2
    assert not (tmp_path / "out").exists()
