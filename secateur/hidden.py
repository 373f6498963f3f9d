"""The calibration batch on its way through the model: hidden states between two blocks, and where they stopped."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from secateur.artifacts import read_tensors, write_tensors
from secateur.models.stream import Arguments, StreamedModel, run_block


@dataclass
class HiddenStates:
    """Hidden states [sequences, length, hidden] before block `position`, processed `batch` sequences at a time.

    `dense` are those of the model before pruning, where somebody compares the two.
    """

    states: Tensor
    arguments: dict[int, list[Arguments]]
    batch: int
    position: int = 0
    dense: Tensor | None = None

    @staticmethod
    def begin(model: StreamedModel, tokens: Tensor, batch: int, checkpoint: Path, follow_dense: bool = False) -> "HiddenStates":
        """From the tokens, or from where an interrupted run of the same settings left its checkpoint."""
        states, arguments = model.embed(tokens, batch)
        hidden = HiddenStates(states, arguments, batch, dense=states.clone() if follow_dense else None)
        if checkpoint.is_file():
            tensors, header = read_tensors(checkpoint)
            hidden.states.copy_(tensors["hidden"])
            hidden.position = header["position"]
            if hidden.dense is not None:
                hidden.dense.copy_(tensors["dense"])
        return hidden

    def batches(self, dense: bool = False) -> Iterator[tuple[Tensor, Arguments]]:
        """Views of the batches, with the other arguments of the block at `position`."""
        states = self.dense if dense else self.states
        assert states is not None, "nobody asked to follow the dense model"
        for part in states.split(self.batch):
            yield part, self.arguments[len(part)][self.position]

    def run(self, block: nn.Module, dense: bool = False) -> None:
        """Run the block on every batch and put the outputs in the place of the inputs."""
        for part, arguments in self.batches(dense):
            part.copy_(run_block(block, part, arguments))

    def advance(self, checkpoint: Path) -> None:
        """The next block is due: remember that on disk."""
        self.position += 1
        tensors = {"hidden": self.states.cpu()} | ({} if self.dense is None else {"dense": self.dense.cpu()})
        write_tensors(checkpoint, tensors, {"position": self.position})


def whole_batch_fits(model: StreamedModel, tokens: Tensor, budget: int) -> bool:
    """Whether one forward pass of a block on all tokens stays within `budget` bytes, by the sizes of its linears."""
    widths = model.adapter.widths(model.config_json)
    features = sum(outputs + inputs for outputs, inputs in widths.values())
    return tokens.numel() * features * torch.finfo(model.dtype).bits // 8 <= budget
