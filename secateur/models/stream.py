"""A causal language model read block by block from its folder, never whole in memory.

The model's own code computes everything: its skeleton lies on the meta device, the blocks are stood in for by recorders
while the embedding runs (they note the arguments that each block would receive), and by a source of hidden states while the
head runs. Replaying block by block is therefore the model's own forward pass, bit for bit, for every family.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from secateur.checkpoint import read_config
from secateur.models.adapters import adapter_for
from secateur.models.skeleton import Skeleton


class Arguments(NamedTuple):
    """What a block receives besides its hidden states."""

    positional: tuple[Any, ...]
    named: Mapping[str, Any]


class _Reached(Exception):
    """Ends a forward pass on purpose."""


class _StandIn(nn.Module):
    """Takes the place of a block; looks like it to model code that reads its attributes (an attention type, for example)."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self._block = (block,)  # a tuple keeps the block out of the module tree

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._block[0], name)


class _Recorder(_StandIn):
    """Notes what its block would receive and hands the hidden states on; the last one ends the pass."""

    def __init__(self, block: nn.Module, last: bool) -> None:
        super().__init__(block)
        self.last = last
        self.hidden: Tensor | None = None
        self.arguments = Arguments((), {})

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self.hidden, self.arguments = hidden, Arguments(args, kwargs)
        if self.last:
            raise _Reached
        return hidden


class _Source(_StandIn):
    """Returns given hidden states."""

    def __init__(self, block: nn.Module, hidden: Tensor) -> None:
        super().__init__(block)
        self.hidden = hidden

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self.hidden


class StreamedModel:
    """One checkpoint folder, opened for block-by-block work on `device`, in fp32 unless `dtype` says otherwise."""

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        self.adapter = adapter_for(read_config(folder))  # first: what cannot be pruned need not be opened
        self.skeleton = Skeleton(folder, device, dtype)
        self.model, self.reader = self.skeleton.model, self.skeleton.reader
        self.device, self.dtype, self.folder = device, dtype, folder
        self.config_json = self.model.config.to_dict()
        self.model.config.use_cache = False
        self.stored_dtypes: dict[str, torch.dtype] = {}  # of the block in memory, by parameter name
        self.blocks: nn.ModuleList = self.model.get_submodule(self.adapter.blocks_path)  # pyright: ignore

    def __len__(self) -> int:
        return len(self.blocks)

    @property
    def context(self) -> int:
        """The longest sequence that the model accepts, in tokens."""
        return self.adapter.context(self.config_json)

    @contextmanager
    def _outside(self, with_head: bool) -> Iterator[None]:
        """Everything outside the blocks in memory: embeddings, norms, computed buffers such as rotary tables, and the output
        head only where it is asked for (it is as large as the embedding). All of it is dropped again at the end."""
        head = self.model.get_output_embeddings()
        unwanted = () if with_head else tuple(f"{name}." for name, module in self.model.named_modules() if module is head)
        inside = (f"{self.adapter.blocks_path}.", *unwanted)
        self.skeleton.fill(name for name in self.reader.names() if not name.startswith(inside))
        self.skeleton.complete("", but=self.adapter.blocks_path)
        try:
            yield
        finally:
            self.skeleton.drop()

    @contextmanager
    def block(self, index: int) -> Iterator[nn.Module]:
        """Block `index` with its weights in memory; they are dropped again at the end."""
        block, path = self.blocks[index], f"{self.adapter.blocks_path}.{index}"
        names = [name for name in self.reader.names() if name.startswith(f"{path}.")]
        self.stored_dtypes = {name.removeprefix(f"{path}."): self.reader.dtype(name) for name in names}
        self.skeleton.fill(names)
        self.skeleton.complete(path)
        try:
            yield block.requires_grad_(False)
        finally:
            block.to("meta")

    @contextmanager
    def _stand_in(self, blocks: Sequence[nn.Module]) -> Iterator[None]:
        parent_path, _, attribute = self.adapter.blocks_path.rpartition(".")
        parent = self.model.get_submodule(parent_path)
        setattr(parent, attribute, nn.ModuleList(blocks))
        try:
            yield
        finally:
            setattr(parent, attribute, self.blocks)

    @torch.no_grad()
    def embed(self, tokens: Tensor, batch: int) -> tuple[Tensor, dict[int, list[Arguments]]]:
        """Tokens [sequences, length] → hidden states before block 0 [sequences, length, hidden], and the other arguments of
        every block, by the number of sequences in a forward pass (`batch`, and what is left over for the last pass)."""
        arguments: dict[int, list[Arguments]] = {}
        parts = []
        with self._outside(with_head=False):
            for part in tokens.split(batch):
                recorders = [_Recorder(block, last=block is self.blocks[-1]) for block in self.blocks]
                with self._stand_in(recorders), suppress(_Reached):
                    self.model(input_ids=part.to(self.device, torch.long), use_cache=False)
                hidden = recorders[0].hidden
                assert hidden is not None, "the model's forward pass did not reach its first block"
                parts.append(hidden)
                arguments[len(part)] = [recorder.arguments for recorder in recorders]
        return torch.cat(parts), arguments

    @torch.no_grad()
    def head(self, tokens: Tensor, hidden: Tensor) -> Tensor:
        """Hidden states after the last block [batch, length, hidden] → logits [batch, length, vocabulary]."""
        with self._outside(with_head=True), self._stand_in([_Source(block, hidden) for block in self.blocks]):
            return self.model(input_ids=tokens.to(self.device, torch.long), use_cache=False).logits

    @contextmanager
    def open_head(self) -> Iterator[Callable[[Tensor, Tensor, Tensor], Tensor]]:
        """`head` for many batches, with gradients: (tokens, hidden, rows [n]) → logits [batch, n, vocabulary] at the positions
        `rows`, differentiable in `hidden`. The weights collect no gradients."""

        def logits(tokens: Tensor, hidden: Tensor, rows: Tensor) -> Tensor:
            with self._stand_in([_Source(block, hidden) for block in self.blocks]):
                return self.model(input_ids=tokens.to(self.device, torch.long), use_cache=False, logits_to_keep=rows).logits

        with self._outside(with_head=True):
            self.model.requires_grad_(False)
            yield logits


def run_block(block: nn.Module, hidden: Tensor, arguments: Arguments) -> Tensor:
    """One block's output; older model code returns a tuple."""
    output = block(hidden, *arguments.positional, **arguments.named)
    return output[0] if isinstance(output, tuple) else output
