"""The one reader of checkpoints: tensors by their names in the model, for block-by-block work and for whole models alike.

What can be told without reading a weight is told when a checkpoint is opened: tensors that are missing, that the model has no
place for, or of another shape than the configuration says. Nothing is ever made up for what is missing.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from secateur.artifacts import open_tensors
from secateur.checkpoint import Checkpoint
from secateur.errors import UserError
from secateur.finite import REMEDY, not_finite
from secateur.models.conversion import Conversion, tied

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
PIECE = 16 << 20  # bytes that are read at once
# What wraps a model while it is trained, and leaves its mark on every name.
WRAPPERS = {
    "_orig_mod.": "torch.compile",
    "module.": "DataParallel",
    "base_model.model.": "peft",
    "_fsdp_wrapped_module.": "FSDP",
}


class Reader:
    """The tensors of an open `checkpoint` by their names in `model`, a skeleton of its architecture on the meta device.

    Raises a `UserError` that names the tensor if the two do not fit.
    """

    def __init__(self, checkpoint: Checkpoint, model: "PreTrainedModel") -> None:
        self.checkpoint, self.model = checkpoint, model
        self.conversion = Conversion(model, checkpoint.tensors)
        self._group_of: dict[str, str] = {}
        for group, stored in self.conversion.sources.items():
            if len(stored) > 1 and not self.conversion.merges(group):
                raise self._error(f"{' and '.join(stored)} are both {group} of the model: remove the one that is out of date")
            for name, made in self._planned(group, stored).items():
                self._check_shape(name, made)
                self._group_of[name] = group
        self._tied = self._tied_names()
        self._check_names()

    def names(self) -> list[str]:
        """Every tensor of the model, tied ones too, in the model's order."""
        return list(self.conversion.state)

    def by_size(self) -> list[str]:
        """The same names, the largest tensor first: each is twice in memory while it is read, so the largest had better come
        while there is little else."""
        return sorted(self.names(), key=lambda name: -self.conversion.state[name].numel())

    def dtype(self, name: str) -> torch.dtype:
        """The type in which a tensor of the model is stored."""
        stored = self.conversion.sources[self._group_of[self._tied.get(name, name)]][0]
        return DTYPES[self.checkpoint.tensors[stored].dtype]

    def tensors(self, names: Iterable[str]) -> Iterator[tuple[list[str], Tensor]]:
        """Read the named tensors of the model one by one, in the types in which they are stored: each with all its wanted
        names, more than one if it is tied. Tensors that are made together are in memory together, no others."""
        wanted: dict[str, dict[str, list[str]]] = {}
        for name in names:
            kept = self._tied.get(name, name)
            wanted.setdefault(self._group_of[kept], {}).setdefault(kept, []).append(name)
        with ExitStack() as opened:
            handles: dict[Path, Any] = {}

            def load(key: str) -> Tensor:
                file = self.checkpoint.tensors[key].file
                if file not in handles:
                    # Read, not mapped: a mapped file counts as this process's memory for as long as it is open.
                    handles[file] = opened.enter_context(open_tensors(file, backend="pread"))
                return handles[file].get_tensor(key).clone()  # a clone is aligned as torch's kernels like it

            for group, members in wanted.items():
                made = self.conversion.make(group, load)
                for kept in members:
                    yield members[kept], made.pop(kept)

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """The named tensors of the model, in the types in which they are stored."""
        return {name: tensor for together, tensor in self.tensors(names) for name in together}

    def check_finite(self) -> None:
        """Read everything once, tensor by tensor; an inf or nan is a `UserError` that names it."""
        for together, tensor in self.tensors(self.names()):
            self.check_finite_tensors({together[0]: tensor}, together[:1])

    def check_finite_tensors(self, tensors: Mapping[str, Tensor], names: Iterable[str]) -> None:
        """The same for tensors that were read already."""
        for name in names:
            if kind := not_finite(tensors[name]):
                raise self._error(f"{name} holds {kind} (stored as {_short(tensors[name].dtype)}): {REMEDY}")

    def _planned(self, group: str, stored: list[str]) -> dict[str, Tensor]:
        """What a group will be made of, worked out on the meta device: shapes, and whether all its parts are there."""
        known = self.checkpoint.tensors

        def empty(key: str) -> Tensor:
            if known[key].dtype not in DTYPES:
                raise self._error(f"{key} is stored as {known[key].dtype}, which is no type of plain weights")
            return torch.empty(known[key].shape, dtype=DTYPES[known[key].dtype], device="meta")

        try:
            return self.conversion.make(group, empty)
        except (
            RuntimeError,
            ValueError,
            IndexError,
            KeyError,
        ) as error:  # what transformers' operations raise of parts that do not fit
            reason = " ".join(str(error).split())
            raise self._error(
                f"{group} cannot be put together from {len(stored)} tensors, {stored[0]} to {stored[-1]}: {reason}"
            ) from None

    def _check_shape(self, name: str, made: Tensor) -> None:
        if name in self.conversion.state and made.shape != (shape := self.conversion.state[name].shape):
            raise self._error(f"{name} is {list(made.shape)}, config.json says {list(shape)}: it describes another model")

    def _tied_names(self) -> dict[str, str]:
        """For every tensor that is another one of the model: the name of the one that is stored."""
        found: dict[str, str] = {}
        for name, source in tied(self.model).items():
            both = [one for one in (source, name) if one in self._group_of]
            if len(both) == 2 and not self._equal(source, name):
                raise self._error(
                    f"config.json ties {name} to {source}, but two different tensors are stored, and programs differ in which "
                    'they use: set "tie_word_embeddings": false if both count, or remove the one that does not'
                )
            kept = both[0] if both else found.get(source, source)
            found |= {one: kept for one in (source, name) if one != kept}
        return found

    def _equal(self, one: str, other: str) -> bool:
        first, second = (self.conversion.sources[self._group_of[name]][0] for name in (one, other))
        known = self.checkpoint.tensors
        if known[first].shape != known[second].shape or known[first].dtype != known[second].dtype:
            return False
        whole = torch.empty(known[first].shape, dtype=DTYPES[known[first].dtype], device="meta")
        with open_tensors(known[first].file) as file, open_tensors(known[second].file) as again:
            left, right = file.get_slice(first), again.get_slice(second)
            return all(torch.equal(left[rows], right[rows]) for rows in _pieces(whole))  # embeddings are large

    def _check_names(self) -> None:
        known = set(self._group_of) | {name for name, kept in self._tied.items() if kept in self._group_of}
        missing = [name for name in self.conversion.state if name not in known]
        unexpected = self.conversion.unexpected
        if not missing and not unexpected:
            return
        stored = self.checkpoint.tensors
        if not stored:
            raise self._error("the weight files hold no tensors; fetch the checkpoint again")
        if wrapper := next((prefix for prefix in WRAPPERS if all(key.startswith(prefix) for key in stored)), None):
            raise self._error(
                f"every tensor's name begins with {wrapper!r}, which {WRAPPERS[wrapper]} adds: save the model inside it, or "
                "take the prefix off"
            )
        parts = []
        if missing:
            parts.append(f"{_some(missing)} {'is' if len(missing) == 1 else 'are'} not stored")
        if unexpected:
            parts.append(f"the model has no place for {_some(unexpected)}")
        kind = type(self.model).__name__
        raise self._error(f"not a {kind} as config.json describes it: {'; '.join(parts)}{_hint(missing, unexpected)}")

    def _error(self, problem: str) -> UserError:
        return UserError(f"{self.checkpoint.folder}: {problem}")


def _pieces(tensor: Tensor) -> Iterator[slice]:
    """The rows of a tensor in slices of at most `PIECE` bytes."""
    step = max(1, PIECE // max(1, tensor[:1].nbytes))
    yield from (slice(start, min(start + step, len(tensor))) for start in range(0, len(tensor), step))


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _hint(missing: list[str], unexpected: list[str]) -> str:
    """What usually lies behind it."""
    if any(name.startswith(("score.", "classifier.", "v_head.", "reward_head.", "regression_head.")) for name in unexpected):
        return " (a classifier or reward model has no output layer for tokens)"
    if missing == ["lm_head.weight"]:
        return '; set "tie_word_embeddings": true in config.json if the model uses its embedding there'
    return "" if unexpected else "; fetch the checkpoint again"
