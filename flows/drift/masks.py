"""How many entries two sets of masks share, read from DVC's objects."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flows.drift.state import State
from secateur.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Agreement:
    """Of `total` mask entries `equal` are the same."""

    equal: int
    total: int

    @property
    def share(self) -> float:
        """1 is perfect agreement."""
        return self.equal / self.total

    def __str__(self) -> str:
        different = self.total - self.equal
        # Rounded down, so that 100 % means every entry.
        percent = int(self.share * 1e6) / 1e4
        return f"{percent:.4f} % of {self.total:,} mask entries agree, {different:,} differ{'s' if different == 1 else ''}"


def agreement(before: State, after: State, path: str) -> Agreement | None:
    """Between the masks of the run in folder `path` (as `secateur.masks` writes them) of two states; None if the object of
    either is not to be had, or is no folder of masks."""
    old, new = (_masks(state.objects, state.outputs.get(path)) for state in (before, after))
    if not old or not new:
        return None
    pairs = [(old.get(name), new.get(name)) for name in old.keys() | new.keys()]
    equal = sum(int((a == b).sum()) for a, b in pairs if a is not None and b is not None and a.shape == b.shape)
    return Agreement(equal, sum(max(mask.numel() for mask in pair if mask is not None) for pair in pairs))


def _masks(objects: Path | None, md5: str | None) -> dict[str, "Tensor"] | None:
    """Every mask of a run by file and layer, True = pruned."""
    files = _members(objects, md5) if objects and md5 and md5.endswith(".dir") else None
    if files is None:
        return None
    from secateur.artifacts import read_tensors
    from secateur.masks import unpack_bits

    masks = {}
    for name in sorted(name for name in files if name.startswith("masks/")):
        packed, shapes = read_tensors(files[name])
        masks |= {f"{name}: {layer}": unpack_bits(packed[layer], tuple(shape)) for layer, shape in shapes.items()}
    return masks


def _members(objects: Path, md5: str) -> Mapping[str, Path] | None:
    """The files of a folder that DVC keeps; None if it, or one of its masks, is not there."""
    listing = _object(objects, md5)
    if not listing.is_file():
        return None
    try:
        files = {item["relpath"]: _object(objects, item["md5"]) for item in json.loads(listing.read_text(encoding="utf-8"))}
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{listing} is damaged, it must list a folder's files for DVC: remove it, and `dvc repro`") from None
    return files if all(path.is_file() for name, path in files.items() if name.startswith("masks/")) else None


def _object(objects: Path, md5: str) -> Path:
    return objects / md5[:2] / md5[2:]
