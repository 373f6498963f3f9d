"""Examples to train on: tokens, which of them are to be predicted, and which are padding."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from secateur.artifacts import read_tensors, write_tensors
from secateur.errors import UserError
from secateur.tokens import check_range, check_shape, check_tokens

IGNORED = -100  # a label that is not predicted, in the convention of torch's cross-entropy


@dataclass(frozen=True)
class Examples:
    """`tokens` int [n, L]; `labels` int [n, L], `IGNORED` where nothing is to be predicted, None: the tokens themselves;
    `present` bool [n, L], False on the padding, which stands on the left, None: no padding."""

    tokens: Tensor
    labels: Tensor | None = None
    present: Tensor | None = None

    @classmethod
    def of(cls, given: "Examples | Tensor") -> "Examples":
        """Examples as they are; tokens [n, L] as examples of which everything is learnt."""
        return given if isinstance(given, Examples) else cls(check_shape(given))

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def length(self) -> int:
        """Tokens of an example, padding included."""
        return self.tokens.shape[1]

    def check(self, rows: int, what: str) -> None:
        """Refuse tokens and labels that are not ids below `rows`, and parts of different shapes; `what` are examples of what."""
        check_tokens(self.tokens, rows, what=f"{what} tokens")
        for name, part in (("labels", self.labels), ("present", self.present)):
            if part is not None and part.shape != self.tokens.shape:
                shapes = f"{tuple(part.shape)}: must be that of the tokens, {tuple(self.tokens.shape)}"
                raise UserError(f"{what} {name} of shape {shapes}")
        if self.present is not None and self.present.dtype != torch.bool:
            raise UserError(f"{what} present: must be bool, True where a token is no padding")
        if self.labels is not None:
            labels = check_shape(self.labels, what=f"{what} labels")
            allowed = f"or {IGNORED} where nothing is to be predicted"
            check_range(labels.where(labels != IGNORED, 0), rows, f"{what} labels", allowed)

    def windows(self) -> Tensor:
        """The tokens [n, L], if they are plain windows of text; a `UserError` for examples with labels or padding."""
        if self.labels is not None or self.present is not None:
            raise UserError("padded examples are for fine-tuning alone: statistics and gradients are of windows of plain text")
        return self.tokens

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """What the model's forward pass takes for some of the examples. Columns in which all of them are padded are left out,
        and positions count from an example's first own token, so that padding changes no number for any family."""
        chosen = torch.tensor(list(indices))
        tokens = self.tokens[chosen].long()
        labels = tokens if self.labels is None else self.labels[chosen].long()
        if self.present is None:
            return {"input_ids": tokens, "labels": labels}
        present = self.present[chosen].long()
        first = int(present.any(dim=0).int().argmax())
        positions = (present.cumsum(dim=1) - 1).clamp(min=0)
        labels = labels.masked_fill(positions == 0, IGNORED)  # nothing stands before an example's first token
        parts = {"input_ids": tokens, "labels": labels, "attention_mask": present, "position_ids": positions}
        return {name: tensor[:, first:] for name, tensor in parts.items()}

    def _parts(self) -> dict[str, Tensor]:
        parts = {"tokens": self.tokens.to(torch.int32)}
        if self.labels is not None:
            parts["labels"] = self.labels.to(torch.int32)
        return parts if self.present is None else parts | {"present": self.present.bool()}

    def digest(self) -> str:
        """SHA-256 of everything that can be learnt from."""
        digest = hashlib.sha256(str([(name, *part.shape) for name, part in self._parts().items()]).encode())
        for part in self._parts().values():
            digest.update(part.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def write(self, path: Path) -> None:
        """Write a safetensors file, atomically."""
        write_tensors(path, self._parts())

    @classmethod
    def read(cls, path: Path) -> "Examples":
        """Read what `write` wrote, or any file with `tokens` alone, such as a calibration's."""
        parts, _ = read_tensors(path)
        if "tokens" not in parts:
            raise UserError(f"{path} holds no tokens to train on, only {', '.join(parts) or 'nothing'}")
        return cls(parts["tokens"], parts.get("labels"), parts.get("present"))
