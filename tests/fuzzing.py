"""Inputs from elsewhere, damaged at random: each must be read or refused with an InputError, in bounded time and memory.

A case follows from (target, seed) alone. `tests/test_fuzz.py` runs a few of each, `scripts/fuzz.py` as many as asked for.
"""

from __future__ import annotations

import io
import json
import math
import random
import resource
import shutil
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from drivegen.support.errors import InputError

HOUSE = Path(__file__).parents[1]
LIMIT_S = 20.0
"""A case that takes longer is a fault; machines differ, and what hangs takes minutes."""
LIMIT_BYTES = 3 << 30
"""A case that takes more memory than this, beside what the process has already, is a fault."""

ODD: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2.5, 1e308, -1e308, 5e-324, math.nan, math.inf, 10**30, "", "x", "\x1b[31mred", "../../etc",
    "/etc/passwd", "0" * 5000, "é夜", "\ud800", [], {}, [[]], [None], {"": None}, [[[[[[[[]]]]]]]], "null", "1", "1e999", "NaN",
    "car", [1, 2, 3], {"a": 1},
)  # fmt: skip
"""Values in place of others."""

ODD_TEXT = (
    "${a}", "${" * 40, "!!python/object:os.system", "&a [*a, *a]", "*a", "!!int abc", "2001-99-99", "!!map [1]", "- " * 50,
    "? [", "\t", "\x00", "{" * 200, "[" * 200, '"', "'", ": ", "\n", "é", "1" * 5000, "!!binary x", "!!float .", "<<: 3", "0x",
    "1:99:99", "~", "yes", "%YAML 9", "---",
)  # fmt: skip
"""Text put into text."""


class TooSlow(BaseException):
    """A case took longer than it may; not an Exception, so that none catches it."""


@dataclass(frozen=True)
class Outcome:
    """What came of a case: `read`, `refused`, or a fault with its traceback's end."""

    target: str
    seed: int
    result: str
    seconds: float
    said: str = ""

    @property
    def is_fault(self) -> bool:
        """Whether it is neither read nor refused in a sentence."""
        return self.result not in ("read", "refused")


Case = Callable[[random.Random, Path], Callable[[], object]]
"""Writes a damaged input into a folder, and returns what reads it."""

TARGETS: dict[str, Case] = {}


def target(make: Case) -> Case:
    """Name a kind of input after its function."""
    TARGETS[make.__name__] = make
    return make


def run(name: str, seed: int, folder: Path) -> Outcome:
    """Run one case in a folder, which it may fill; nothing else of it stays."""
    folder.mkdir(parents=True, exist_ok=True)
    read = TARGETS[name](random.Random(f"{name} {seed}"), folder)
    started = time.monotonic()
    result, said = "read", ""
    try:
        with limits(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read()
    except InputError as error:
        result, said = "refused", str(error)
        if any(ord(c) < 32 and c not in "\n\t" for c in said) or len(said) > 20_000:
            result = "message steers a terminal, or has no end"
    except TooSlow:
        result = f"took more than {LIMIT_S:.0f} s"
    except MemoryError:
        result = f"took more than {LIMIT_BYTES >> 30} GiB"
    except Exception as error:  # which is what is looked for
        last = traceback.extract_tb(error.__traceback__)[-1]
        result = f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}"
        said = f"{error}"[:300]
    shutil.rmtree(folder, ignore_errors=True)
    return Outcome(name, seed, result, time.monotonic() - started, said)


@contextmanager
def limits() -> Iterator[None]:
    """Raise in a block that takes too long or too much memory."""

    def stop(number: int, frame: Any) -> None:
        raise TooSlow

    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    memory = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
    try:
        if pages:
            resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + LIMIT_BYTES, memory[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, memory)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Flip bits, cut, repeat, insert or overwrite parts of bytes."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(out) + 1)
        # What is first says what the rest is: half of the damage is there.
        at = at if rng.random() < 0.5 else at % min(len(out) + 1, 400)
        what = rng.randrange(5)
        if what == 0 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif what == 1:
            del out[at : at + rng.choice((1, 8, 100, len(out)))]
        elif what == 2:
            out[at:at] = out[at : at + rng.choice((1, 8, 100))]
        elif what == 3:
            out[at : at + 8] = rng.choice((b"\xff" * 8, b"\0" * 8, (2**62).to_bytes(8, "little"), rng.randbytes(8)))
        else:
            out[at:at] = rng.randbytes(rng.choice((1, 8, 100)))
    return bytes(out)


def odd_text(text: str, rng: random.Random) -> str:
    """Put odd text into text, or drop, repeat or move lines."""
    lines = text.split("\n")
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(lines))
        what = rng.randrange(4)
        if what == 0:
            place = rng.randrange(len(lines[at]) + 1)
            lines[at] = lines[at][:place] + rng.choice(ODD_TEXT) + lines[at][place:]
        elif what == 1:
            key, colon, _ = lines[at].partition(":")
            lines[at] = f"{key}{colon} {rng.choice(ODD_TEXT)}"
        elif what == 2:
            lines.insert(at, rng.choice(lines))
        elif len(lines) > 1:
            del lines[at]
    return "\n".join(lines)


def odd_value(value: Any, rng: random.Random) -> Any:
    """Change one thing in a JSON value: another value in its place, a key or an item gone, renamed or repeated."""
    places = list(_places(value))
    if not places:
        return rng.choice(ODD)
    holder, key = rng.choice(places)
    what = rng.randrange(4)
    if what == 0:
        del holder[key]
    elif what == 1 and isinstance(holder, dict):
        holder[f"{key}x"] = holder.pop(key)
    elif what == 1:
        holder.append(holder[key])
    else:
        holder[key] = rng.choice(ODD)
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield value, key
        yield from _places(item)


def odd_json(path: Path, rng: random.Random) -> None:
    """Damage a JSON file: mostly a value in it, now and then its text."""
    text = path.read_text(encoding="utf-8")
    if rng.random() < 0.15:
        path.write_bytes(damaged(text.encode(), rng))
        return
    value = json.loads(text)
    for _ in range(rng.choice((1, 1, 2))):
        value = odd_value(value, rng)
    path.write_text(json.dumps(value), encoding="utf-8")


@target
def config(rng: random.Random, folder: Path) -> Callable[[], object]:
    """A training's YAML."""
    from drivegen.training import config as configs

    path = folder / "config.yaml"
    source = rng.choice(sorted((HOUSE / "configs").glob("*.yaml")))
    path.write_text(odd_text(source.read_text(encoding="utf-8"), rng), encoding="utf-8", errors="surrogateescape")
    if rng.random() < 0.2:
        path.write_bytes(damaged(source.read_bytes(), rng))
    overrides = [f"train.steps={rng.choice(ODD_TEXT)}"] if rng.random() < 0.2 else []
    return lambda: configs.load(path, overrides)


@target
def weights(rng: random.Random, folder: Path) -> Callable[[], object]:
    """A safetensors file, or a pickle of tensors."""
    from drivegen.support import weights as work

    path = folder / rng.choice(("model.safetensors", "model.bin", "model.ckpt", "MODEL.SAFETENSORS"))
    state = {"a.weight": torch.ones(3, 4), "b": torch.arange(5), "c": torch.ones(2, dtype=torch.float16)}
    path.write_bytes(_saved(state, path, rng))
    return lambda: work.load_file(path)


@target
def lora_file(rng: random.Random, folder: Path) -> Callable[[], object]:
    """A LoRA as kohya, PEFT or diffusers write it, with its numbers."""
    from drivegen import lora

    layout, state = rng.choice(_loras())
    state = dict(state)
    for _ in range(rng.choice((0, 1, 2))):
        name = rng.choice(sorted(state))
        tensor = state.pop(name)
        what = rng.randrange(5)
        if what == 0:
            state[name] = torch.full(
                rng.choice(((), (1,), (2, 3), (0,), (2, 3, 1, 1), (1, 2, 3))), rng.choice((0.0, 1e30, 2.0))
            )
        elif what == 1:
            state[name.replace(".", rng.choice(("..", "_", "", ".x.")), 1)] = tensor
        elif what == 2:
            state[name] = tensor.to(rng.choice((torch.int8, torch.float64, torch.bool, torch.complex64)))
        elif what == 3:
            state[f"{rng.choice(('bundle_emb.a', 'lora_te2_x', 'unet', '', 'lora_unet_'))}.{name}"] = tensor
    path = folder / ("adapter_model.safetensors" if layout == "peft" else "style.safetensors")
    numbers = {
        "lora_alpha": 4,
        "alpha_pattern": {"to_q": 2, "^down.to_k": 1},
        "rank_pattern": {"(a+)+$": 2},
        "use_rslora": False,
    }
    if rng.random() < 0.7:
        numbers = odd_value(numbers, rng)
    if layout == "peft":
        (folder / "adapter_config.json").write_text(json.dumps(numbers))
        header = {}
    else:
        named = {f"unet.{k}": v for k, v in numbers.items()} if isinstance(numbers, dict) else numbers
        header = {"lora_adapter_metadata": json.dumps(named)}
    path.write_bytes(_saved(state, path, rng, header, 0.3))
    return lambda: lora.read(path)


def _saved(state: dict[str, torch.Tensor], path: Path, rng: random.Random, header: Any = None, share: float = 0.9) -> bytes:
    """Return a weight file's bytes, damaged in a share of the cases; safetensors headers as JSON too."""
    from safetensors.torch import save

    if path.suffix.lower() != ".safetensors":
        buffer = io.BytesIO()
        others = ({"state_dict": state}, {"state_dict": [1]}, {"state_dict": {1: torch.ones(2)}}, [1], {1: 2}, torch.ones(2))
        torch.save(rng.choice((state, *others)), buffer)
        return damaged(buffer.getvalue(), rng) if rng.random() < share else buffer.getvalue()
    data = save({k: v.contiguous().clone() for k, v in state.items()}, header or {"format": "pt"})
    if rng.random() >= share:
        return data
    if rng.random() < 0.5:
        return damaged(data, rng)
    size = int.from_bytes(data[:8], "little")
    head = json.dumps(odd_value(json.loads(data[8 : 8 + size]), rng)).encode("utf-8", "surrogatepass")
    return len(head).to_bytes(8, "little") + head + data[8 + size :]


@cache
def _loras() -> tuple[tuple[str, dict[str, torch.Tensor]], ...]:
    a, b = torch.ones(2, 4), torch.ones(4, 2)
    block = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
    flat = block.replace(".", "_")
    kohya = {
        f"lora_unet_{flat}_to_q.lora_down.weight": a,
        f"lora_unet_{flat}_to_q.lora_up.weight": b,
        f"lora_unet_{flat}_to_q.alpha": torch.tensor(2.0),
    }
    diffusers = {f"unet.{block}.to_q.lora_A.weight": a, f"unet.{block}.to_q.lora_B.weight": b}
    old = {f"unet.{block}.processor.to_q_lora.down.weight": a, f"unet.{block}.processor.to_q_lora.up.weight": b}
    peft = {f"base_model.model.{block}.to_q.lora_A.weight": a, f"base_model.model.{block}.to_q.lora_B.weight": b}
    return (("kohya", kohya), ("diffusers", diffusers), ("old", old), ("peft", peft))


@target
def dataset(rng: random.Random, folder: Path) -> Callable[[], object]:
    """A nuScenes dataset, with one table or the map changed."""
    from drivegen.datasets import nuscenes

    root = folder / "data"
    root.mkdir()
    scene = HOUSE / "drivegen" / "assets" / "scene"
    for name in ("v1.0-mini", "maps"):
        shutil.copytree(scene / name, root / name)
    (root / "samples").symlink_to(scene / "samples")
    odd_json(rng.choice(sorted([*root.glob("v1.0-mini/*.json"), *root.glob("maps/expansion/*.json")])), rng)

    def read() -> None:
        nuscenes.validate(root)
        data = nuscenes.open(root)
        for token in data.samples():
            data.frame(token)

    return read


@target
def picture(rng: random.Random, folder: Path) -> Callable[[], object]:
    """A picture file."""
    from drivegen.scene.pictures import user_image

    path = folder / "picture.png"
    image = Image.new(rng.choice(("RGB", "L", "RGBA", "P", "I;16", "1", "CMYK")), (rng.choice((1, 8, 64)), 8))
    kind = rng.choice(("PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP"))
    exif = Image.Exif()
    exif[0x0112] = rng.choice((1, 6, 8, 0, 99))
    buffer = io.BytesIO()
    try:
        image.save(buffer, kind, **({"exif": exif} if kind in ("PNG", "JPEG", "WEBP") else {}))
    except (OSError, ValueError, KeyError, SystemError, TypeError, OverflowError):  # this kind holds no such picture
        image.convert("RGB").save(buffer, "PNG")
    data = damaged(buffer.getvalue(), rng)
    if b"Exif\0\0" in data and rng.random() < 0.5:
        at = data.index(b"Exif\0\0") + 6
        data = data[:at] + rng.randbytes(8) + data[at + 8 :]
    path.write_bytes(data)
    return lambda: user_image(path, "the picture")


@target
def model(rng: random.Random, folder: Path) -> Callable[[], object]:
    """A model folder, with one of its JSON files changed."""
    from drivegen.saved import model as models

    root = folder / "model"
    shutil.copytree(_model(), root)
    odd_json(rng.choice(sorted(p for p in root.rglob("*.json") if "vocab" not in p.name)), rng)
    return lambda: models.load(root)


@cache
def _model() -> Path:
    """Save a tiny model, once per process."""
    import atexit
    import tempfile

    from drivegen.saved import model as models
    from tests.tiny_hosts import tiny_host

    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    models.save(tiny_host(("text", "camera", "boxes")), folder / "model")
    return folder / "model"


@target
def manifest(rng: random.Random, folder: Path) -> Callable[[], object]:
    """What `generate` goes on from."""
    from drivegen.pipeline.manifest import Manifest

    lines = [
        json.dumps(odd_value({"sample_token": "a", "camera": "CAM_FRONT", "file": "a/CAM_FRONT.png", "sha256": "0"}, rng))
        for _ in range(2)
    ]
    data = "\n".join(lines).encode("utf-8", "surrogatepass")
    (folder / "manifest.jsonl").write_bytes(damaged(data, rng) if rng.random() < 0.5 else data)
    return lambda: Manifest(folder)
