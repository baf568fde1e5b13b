"""Edits as they are written: on the command line, and many of them in a YAML file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from drivegen.edit.changes import Edits, Insert, Move, Replace
from drivegen.pipeline.spelling import read_mask
from drivegen.sampling import check_seed
from drivegen.support import strict_yaml
from drivegen.support.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Entry:
    """The edits of one frame as words, each spelled as on the command line.

    Args:
        sample: token of the frame; None is the first.
        remove: INSTANCE.
        insert: CLASS:X,Y,YAW, metres and degrees in the vehicle's frame.
        move: INSTANCE:DX,DY,DYAW, metres and degrees along and about the vehicle's axes.
        replace: INSTANCE:CLASS.
        mask: CAMERA:FILE, or CAMERA for all of its picture.
        keep: CAMERA:FILE, white where a picture stays as recorded, or CAMERA for all of it.
        prompt: a description in place of the frame's.
        seed: of the noise; None leaves it to the command line.
    """

    sample: str | None = None
    remove: tuple[str, ...] = ()
    insert: tuple[str, ...] = ()
    move: tuple[str, ...] = ()
    replace: tuple[str, ...] = ()
    mask: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    prompt: str | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.seed is not None:
            check_seed(self.seed)

    def edits(self) -> Edits:
        """Read the words; raises InputError for those that are none, and where nothing is to be edited."""
        found = Edits(
            remove=self.remove, replace=tuple(map(read_replace, self.replace)), move=tuple(map(read_move, self.move)),
            insert=tuple(map(read_insert, self.insert)), masks=read_mask(self.mask),
            keep=read_mask(self.keep, "--keep"), prompt=self.prompt,
        )  # fmt: skip
        if not found.of_objects and not found.masks and self.prompt is None:
            raise InputError("nothing is to be edited; give --remove, --insert, --move, --replace, --mask or --prompt")
        if found.keep and not found.of_objects and not found.masks:
            raise InputError("--keep says what stays as recorded where something is drawn into the pictures; say what, too")
        return found


@dataclass(frozen=True, kw_only=True)
class _Script:
    edits: tuple[Entry, ...]


def read_script(path: str | Path) -> list[Entry]:
    """Read a YAML file with a list `edits` of entries; files of masks are found from its folder.

    Raises InputError naming the file, the entry and the value, and where two entries are of one frame.
    """
    path = Path(path)
    try:
        entries = strict_yaml.build(_Script, strict_yaml.read(path)).edits
        if not entries:
            raise InputError("edits is empty; list what is to be edited")
        for i, entry in enumerate(entries):
            if entry.sample in [other.sample for other in entries[:i]]:
                what = "the first sample" if entry.sample is None else f"sample {entry.sample!r}"
                raise InputError(f"edits[{i}] is of {what}, as one before it is; write all edits of a frame in one entry")
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return [_from_its_folder(entry, path.parent) for entry in entries]


def _from_its_folder(entry: Entry, folder: Path) -> Entry:
    def there(text: str) -> str:
        channel, colon, file = text.partition(":")
        return f"{channel}:{folder / Path(file).expanduser()}" if colon and file else text

    return replace(entry, mask=tuple(map(there, entry.mask)), keep=tuple(map(there, entry.keep)))


def read_insert(text: str) -> Insert:
    """Read CLASS:X,Y,YAW in metres and degrees."""
    name, numbers = _parts(text, "--insert", "CLASS:X,Y,YAW in metres and degrees, such as car:12,-3.5,90", 3)
    return Insert(name, *numbers)


def read_move(text: str) -> Move:
    """Read INSTANCE:DX,DY,DYAW in metres and degrees."""
    name, numbers = _parts(text, "--move", "INSTANCE:DX,DY,DYAW in metres and degrees, such as 6f1c:2.5,0,0", 3)
    return Move(name, *numbers)


def read_replace(text: str) -> Replace:
    """Read INSTANCE:CLASS."""
    instance, _, name = text.rpartition(":")
    if not instance or not name:
        raise InputError(f"--replace {text!r:.80} must be INSTANCE:CLASS, such as 6f1c:bus")
    return Replace(instance, name)


def _parts(text: str, option: str, form: str, count: int) -> tuple[str, Sequence[float]]:
    """Read NAME:NUMBER,NUMBER,…

    Args:
        text: the words.
        option: its name, for the error.
        form: what it must look like, for the error.
        count: how many numbers.
    """
    name, _, rest = text.rpartition(":")
    try:
        numbers = [float(part) for part in rest.split(",")]
    except ValueError:
        numbers = []
    if not name or len(numbers) != count:
        raise InputError(f"{option} {text!r:.80} must be {form}")
    return name, numbers
