"""The report's page: whole, self-contained, the worst first, and opened by a browser where there is one."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drivegen.evaluate.audit import audit
from drivegen.evaluate.cuttings import CUT_PX, window
from drivegen.evaluate.evaluation import evaluate
from drivegen.evaluate.metrics.control import FOUND_AT
from drivegen.evaluate.page import page
from drivegen.evaluate.pairs import open_pairs
from tests.evaluate.test_evaluation import means, seer, without_trucks, write
from tests.street import street_scene

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
VOID = {"meta", "img", "br", "rect", "path"}


class Tags(HTMLParser):
    """Opens and closes tags, and notes everything that a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loaded: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        self.seen.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href", "data", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple[str, object]:
    scene = street_scene(2, "a<b>&street")
    real = write(tmp_path_factory.mktemp("real"), scene)
    phantom = np.zeros((54, 96, 1), bool)
    phantom[2:12, 4:20] = True

    def change(frame, channel, image):
        image = without_trucks(frame, channel, image)
        return np.where(phantom & (channel == "CAM_BACK"), np.array([200, 0, 0], np.uint8), image).astype(np.uint8)

    pairs = open_pairs(real, write(tmp_path_factory.mktemp("made"), scene, change))
    found, looked = evaluate(pairs, seer(), means())
    checked = audit(looked, FOUND_AT)
    return page(replace(found, audit=checked.facts()).to_dict(), pairs, checked), checked


def test_the_audit_is_two_sided_and_the_worst_come_first(written) -> None:
    _, checked = written
    assert {box.category for _, box in checked.omitted} == {"truck"}
    assert {found.channel for _, found in checked.invented} == {"CAM_BACK"}
    facts = checked.facts()
    assert (facts["omitted"], facts["invented"], facts["frames with invented objects"]) == (2, 2, 2)
    assert facts["invented in real pictures"] == 0
    sizes = [box.share_of_picture for _, box in checked.omitted]
    assert sizes == sorted(sizes, reverse=True)
    assert len(checked.worst_frames) == 2


def test_the_page_is_whole_and_needs_nothing_else(written) -> None:
    text, _ = written
    tags = Tags()
    tags.feed(text)
    assert not tags.open
    assert tags.loaded
    assert all(value.startswith("data:image/jpeg;base64,") for value in tags.loaded)
    assert "script" not in tags.seen
    assert "a&lt;b&gt;&amp;street" in text
    assert "http" not in text.replace("http-equiv", "")
    assert text.index("Omitted") < text.index("Invented") < text.index("worst frames") < text.index("Fingerprints")


@pytest.mark.parametrize("rectangle", [(0, 0, 4, 4), (90, 50, 96, 54), (0, 0, 96, 54), (40, 9, 44, 50), (0, 25, 96, 27)])
def test_a_cutting_shows_what_it_can_in_its_own_shape(rectangle) -> None:
    left, top, right, bottom = window(rectangle, (96, 54))
    assert 0 <= left < right <= 96 + 1e-9
    assert 0 <= top < bottom <= 54 + 1e-9
    assert (right - left) / (bottom - top) == pytest.approx(CUT_PX[0] / CUT_PX[1])
    assert left <= (rectangle[0] + rectangle[2]) / 2 <= right
    assert top <= (rectangle[1] + rectangle[3]) / 2 <= bottom


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no browser is installed")
def test_a_browser_shows_it(written, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(written[0], encoding="utf-8")
    flags = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--hide-scrollbars",
    ]  # fmt: skip
    done = subprocess.run(
        [str(BROWSER), *flags, f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--window-size=1240,2600",
         f"--screenshot={tmp_path / 'page.png'}", f"file://{tmp_path / 'report.html'}"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-500:]
    assert "CONSOLE" not in done.stderr
    shown = np.asarray(Image.open(tmp_path / "page.png").convert("RGB")).astype(int)
    assert shown.shape == (2600, 1240, 3)
    red = (shown[..., 0] > 150) & (shown[..., 1] < 90) & (shown[..., 2] < 120)
    assert red.sum() > 500  # a phantom's outline and its paint
    assert len(np.unique(shown[:300].reshape(-1, 3), axis=0)) > 20  # words
