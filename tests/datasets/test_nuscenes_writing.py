"""Writing a dataset does all or nothing: whatever ends it, the root is as it was before."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from drivegen.datasets import nuscenes
from drivegen.pipeline.settings import UsedSettings
from drivegen.pipeline.views import Views
from drivegen.raster import box_edges
from drivegen.scene import Box3D, Camera, Frame, MapPolygon, Scene, VectorMap
from drivegen.scene.geometry import SE3
from drivegen.support.errors import InputError
from tests.street import camera, rectangle

SIZE = (32, 24)
PLACE = VectorMap("here", {"walkway": (MapPolygon(rectangle(0, 0, 5, 5), token="w"),)})


def content(root: Path) -> dict[str, bytes | None]:
    """Every file's bytes; None for folders and links."""
    found = (path for path in root.rglob("*"))
    return {str(p.relative_to(root)): p.read_bytes() if p.is_file() and not p.is_symlink() else None for p in found}


def frame(token: str, folder: Path, **changes: Any) -> Frame:
    """A frame with a picture and lidar points of its own, in folder."""
    shade = sum(token.encode()) % 256
    Image.new("RGB", SIZE, (shade, 0, 0)).save(folder / f"{token}.png")
    np.full((3, 5), shade, np.float32).tofile(folder / f"{token}.bin")
    view = camera("CAM_FRONT", 0, size=SIZE, image_path=folder / f"{token}.png")
    box = Box3D("car", SE3.identity(), (2, 4, 1.5), "car")
    return replace(Frame(token, (view,), (box,), PLACE, "words", "here", lidar_path=folder / f"{token}.bin"), **changes)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    return tmp_path / "source"


@pytest.fixture
def root(source: Path) -> Path:
    """A root with a dataset and somebody's notes; one of its pictures is also the new scenes' first."""
    root = source.parent / "root"
    nuscenes.write([Scene("one", (frame("a", source),))], root, "v1.0-old")
    (root / "samples" / "notes.txt").write_text("mine")
    return root


def scenes(source: Path) -> list[Scene]:
    return [Scene("one", (frame("a", source),)), Scene("two", (frame("b", source), frame("c", source, timestamp_us=9)))]


def pictured(third: Frame, **changes: Any) -> Frame:
    return replace(third, cameras=(replace(third.cameras[0], **changes),))


def boxed(third: Frame, **changes: Any) -> Frame:
    return replace(third, boxes=(replace(third.boxes[0], **changes),))


def elsewhere(third: Frame, layer: str, token: Any) -> Frame:
    return replace(third, location="there", map=VectorMap("there", {layer: (MapPolygon(rectangle(0, 0, 1, 1), token=token),)}))


BAD: dict[str, tuple[Callable[[Frame], Frame], str]] = {
    "picture missing": (lambda f: pictured(f, image_path="no.png"), r"'three', frame 'd', camera 'CAM_FRONT': .*no\.png is m"),
    "picture of another size": (lambda f: pictured(f, width_px=64), r"d\.png has 32x24 pixels and its camera says 64x24; sc"),
    "no picture": (lambda f: pictured(f, image_path=Path(__file__)), "is not an image"),
    "grey picture too large": (lambda f: pictured(f, image_path=None, width_px=9000, height_px=9000), "9000x9000 pixels, more"),
    "channel": (lambda f: pictured(f, channel="../x"), r"'\.\./x': its name cannot name a folder"),
    "lidar missing": (lambda f: replace(f, lidar_path="no.bin"), r"frame 'd': lidar file no\.bin is missing"),
    "lidar cut": (lambda f: replace(f, lidar_path=Path(__file__)), "bytes more than whole points"),
    "box twice": (lambda f: replace(f, boxes=f.boxes * 2), "scene 'three', frame 'd': two boxes of instance 'car'"),
    "half a letter": (lambda f: boxed(f, instance="\ud800"), "box 0: instance is .* which UTF-8 cannot hold"),
    "half a word": (lambda f: replace(f, description="\udfff"), "frame 0: description is"),
    "token taken": (lambda f: replace(f, token="a"), "'a' is used twice"),
    "another map": (lambda f: elsewhere(f, "moat", "m"), "'moat' is not a layer"),
    "map of a number": (lambda f: elsewhere(f, "walkway", 4), "token of a walkway is 4"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_third_scene_leaves_the_root_as_it_was(name: str, root: Path, source: Path) -> None:
    change, message = BAD[name]
    drives = [*scenes(source), Scene("three", (change(frame("d", source)),))]
    before = content(source.parent)
    for folder in (root, source.parent / "new" / "folder"):
        with pytest.raises(InputError, match=message):
            nuscenes.write(drives, folder)
        assert content(source.parent) == before


def test_whatever_ends_it_the_root_is_as_it_was(root: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # the writing is ended at every call of a function that changes what is on the disk, before and after it does
    def ending(name: str, number: int, error: BaseException, late: bool) -> None:
        whole, calls = (lambda handle: None) if name == "fsync" else getattr(os, name), []

        def patched(*args: Any, **kwargs: Any) -> Any:
            calls.append(args)
            if len(calls) == number and not late:
                raise error
            result = whole(*args, **kwargs)
            if len(calls) == number:
                raise error
            return result

        monkeypatch.setattr(os, "fsync", lambda handle: None)  # it only takes time
        monkeypatch.setattr(os, name, patched)

    drives, before, ended = scenes(source), content(source.parent), 0
    full = OSError(errno.ENOSPC, "No space left on device")
    for folder, error, late in ((root, full, False), (source.parent / "new" / "folder", KeyboardInterrupt("stop"), True)):
        for name in ("mkdir", "replace", "fsync", "rename"):
            for number in range(1, 40):
                ending(name, number, error, late)
                said = ""
                try:
                    nuscenes.write(drives, folder)
                except (InputError, KeyboardInterrupt) as caught:
                    said = str(caught)
                monkeypatch.undo()
                assert said in ("", "stop", f"dataset {root} cannot be written: {full}")
                ended += bool(said)
                if (folder / "v1.0-mini").exists():  # after the one rename it is there as a whole, and stays
                    assert nuscenes.open(folder, "v1.0-mini").samples() == ("a", "b", "c")
                    assert content(source.parent).items() >= before.items()
                    remove_new(source.parent, before)
                    break
                assert content(source.parent) == before
            else:
                pytest.fail("it never came to its end")
    assert ended > 40


def remove_new(folder: Path, before: dict[str, bytes | None]) -> None:
    for name in sorted(content(folder).keys() - before.keys(), reverse=True):
        path = folder / name
        path.rmdir() if path.is_dir() else path.unlink()
    assert content(folder) == before


SIGNALLED = """
import os, signal, sys
from pathlib import Path
from drivegen import nuscenes

def signalled(whole, number):
    def patched(*args, **kwargs):
        os.kill(os.getpid(), number)
        return whole(*args, **kwargs)
    return patched

data = nuscenes.open(sys.argv[1], "v1.0-old")
os.replace = signalled(os.replace, signal.SIGTERM)
Path.unlink = signalled(Path.unlink, signal.SIGINT)  # Ctrl-C while it cleans up
nuscenes.write([data.scene("one")], sys.argv[2])
"""


@pytest.mark.slow
def test_a_signal_ends_it_after_cleaning_up(root: Path, source: Path) -> None:
    before = content(source.parent)
    done = subprocess.run([sys.executable, "-c", SIGNALLED, root, source.parent / "new"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (143, "")
    assert content(source.parent) == before


def test_another_process_that_writes_is_not_disturbed(root: Path, source: Path) -> None:
    before, handle = content(root), os.open(root, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(InputError, match="another process is writing a dataset there"):
        nuscenes.write(scenes(source), root)
    os.close(handle)
    assert content(root) == before
    nuscenes.write(scenes(source), root)


def test_nothing_is_written_through_a_link_out_of_the_root(source: Path) -> None:
    (source.parent / "outside").mkdir()
    (source.parent / "root").mkdir()
    (source.parent / "root" / "samples").symlink_to(source.parent / "outside")
    drives, before = scenes(source), content(source.parent)
    with pytest.raises(InputError, match=r"'samples/CAM_FRONT/.*\.png' is a link to .*outside"):
        nuscenes.write(drives, source.parent / "root")
    assert content(source.parent) == before


def test_scenes_of_any_sequence_and_nothing_else(source: Path) -> None:
    one, *_ = drives = scenes(source)
    for user_input, message in (
        (one, "scenes is Scene; give a list of Scene"),
        (one.frames, r"scenes\[0\] is Frame, not Scene"),
    ):
        with pytest.raises(InputError, match=message):
            nuscenes.write(user_input, source.parent / "new")  # type: ignore[arg-type]
    assert not (source.parent / "new").exists()
    nuscenes.write((drive for drive in drives), source.parent / "new")  # type: ignore[arg-type]
    assert nuscenes.open(source.parent / "new").scenes == ("one", "two")


def test_what_is_no_name_of_a_file_is_no_picture(source: Path) -> None:
    picture = Image.new("RGB", SIZE)
    with pytest.raises(InputError, match="camera 'CAM_FRONT': image_path is Image, not the path of a file; save it"):
        camera("CAM_FRONT", 0, size=SIZE, image_path=picture)
    with pytest.raises(InputError, match="frame 'a': lidar_path is ndarray, not the path"):
        frame("a", source, lidar_path=np.zeros((3, 5), np.float32))
    assert camera("A", 0, image_path="x.png").image_path == Path("x.png")


@pytest.mark.slow
def test_generated_views_go_back_into_a_dataset(source: Path) -> None:
    place = VectorMap("here", PLACE.polygons)
    views = (camera("CAM_FRONT", 0, size=(1600, 900)), replace(portrait(), channel="CAM_BACK"))
    boxes = (Box3D("car", SE3.from_yaw(0.1, (9, 1, 0.8)), (2, 4, 1.5), "car"),)
    generated = []
    for step in range(2):
        native = Frame(f"f{step}", views, boxes, place, f"text {step}", "here", timestamp_us=500_000 * step)
        shown = native.resized(64, 36)
        images = {c: Image.new("RGB", (64, 36), (90 * step, 9, i)) for i, c in enumerate(shown.channels)}
        made = Views(shown, images, UsedSettings())
        generated.append(made.as_frame(made.save(source / f"views{step}")))
    nuscenes.write([Scene("made", tuple(generated))], source.parent / "made")
    assert not nuscenes.validate(source.parent / "made")
    for before, after in zip(generated, nuscenes.open(source.parent / "made").scene("made").frames, strict=True):
        shown = replace(before, cameras=views).resized(64, 36)
        assert (after.description, after.token) == (before.description, before.token)
        for one, other in zip(after.cameras, shown.cameras, strict=True):
            assert one.image_size == (one.width_px, one.height_px) == (64, 36)
            np.testing.assert_array_equal(one.K_native, other.K_image)
            for box in boxes:
                np.testing.assert_allclose(box_edges(one, box), box_edges(other, box), atol=1e-9)
            assert one.image_path is not None
            with Image.open(one.image_path) as picture:
                assert picture.getpixel((5, 5))[0] == 90 * int(before.token[1:])
    with pytest.raises(InputError, match="no picture is given for CAM_BACK"):
        shown.with_pictures({"CAM_FRONT": "x.png"})
    with pytest.raises(InputError, match=r"has no camera 'CAM_FRNT'.*did you mean"):
        shown.with_pictures({"CAM_FRNT": "x.png"})


def portrait() -> Camera:
    """A camera higher than wide, looking back."""
    return camera("CAM_BACK", 180, size=(900, 1200))


def test_joints_are_written_and_read_and_a_wrong_one_is_named(source: Path) -> None:
    joints = np.full((17, 3), np.nan)
    joints[:5] = np.arange(15).reshape(5, 3) / 10
    person = Box3D("human.pedestrian.adult", SE3.identity(), (0.6, 0.5, 1.8), "someone", joints_m=joints)
    out, one = source.parent / "out", frame("a", source)
    nuscenes.write([Scene("one", (replace(one, boxes=(*one.boxes, person)),))], out)
    data = nuscenes.open(out)
    (read,) = data.scene("one").frames
    np.testing.assert_array_equal(read.box("someone").joints_m, joints)
    assert read.box("car").joints_m is None
    assert not [problem for problem in nuscenes.validate(out) if problem.severity == "error"]
    table = next(out.rglob("sample_annotation.json"))
    before = json.loads(table.read_text())
    assert ["joints_m" in row for row in before] == [False, True]
    for wrong in ([[1, 2, 3]], "standing", [[None, 1, 2]] * 17):
        table.write_text(json.dumps([row | ({"joints_m": wrong} if "joints_m" in row else {}) for row in before]))
        with pytest.raises(InputError, match=r"sample_annotation row .*joint"):
            nuscenes.open(out).scene("one")
        assert [problem for problem in nuscenes.validate(out) if problem.severity == "error" and "joint" in str(problem)]
