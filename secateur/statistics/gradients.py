"""Gradient magnitudes of a dense model, block by block, so that the model never has to fit into memory.

G = sqrt(Σ_k (100·∂ℓ_k/∂W)²) for every prunable W [out, in], ℓ_k the causal language-model loss of window k alone: the mean over
its L - 1 predictions, in eval mode (the published code leaves dropout on). The factor 100 is the published code's protection
against underflow, kept so that values agree. Dong et al., Pruner-Zero (arXiv 2406.02924).

Forwards, the hidden states that enter each block are written to disk: (blocks + 1) · windows · L · hidden · 4 bytes. The head
turns those behind the last block into ∂ℓ/∂hidden; backwards, each block is read once more, run again window by window from what
entered it, and hands ∂ℓ/∂hidden down. In memory are one block, its sums, the gradient of one linear, one [windows, L, hidden].
"""

import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import trange

from secateur.artifacts import open_tensors, read_json, read_tensors, write_tensors
from secateur.determinism import repeatable_attention
from secateur.errors import UserError
from secateur.finite import REMEDY, not_finite, weight_not_finite, why_not_finite
from secateur.hidden import HiddenStates
from secateur.models.adapters import adapter_for
from secateur.models.linears import linear_at, weight_of
from secateur.models.stream import StreamedModel, run_block
from secateur.outputs import check_output
from secateur.tokens import check_shape
from secateur.walk import Walk

SCALE = 100.0
ROWS = 512  # positions whose logits exist at a time: 256 MB of fp32 at a vocabulary of 128k


def add_square(total: Tensor, gradient: Tensor, scale: float = SCALE) -> None:
    """total += (scale · gradient)², in place; `gradient` is used up."""
    scaled = gradient.mul_(scale)
    total.addcmul_(scaled, scaled)


def stored(magnitude: Tensor) -> Tensor:
    """G in fp16, as the published code stores it, or in fp32 where fp16 would damage it: if the largest value is above 65504
    (overflow) or below 2⁻⁶ (then values of less than 1/256 of the largest would lose digits, and small ones become 0)."""
    largest = float(magnitude.max())
    return magnitude.half() if largest == 0 or 2**-6 <= largest <= 65504 else magnitude


class GradientStore:
    """A folder with one safetensors file a block: G [out, in] of every prunable linear, by its path in the block."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, block: int) -> Path:
        """File of one block."""
        return _file(self.folder, block)

    def write(self, block: int, gradients: Mapping[str, Tensor]) -> None:
        """Write one block, atomically."""
        write_tensors(self.path(block), {path: stored(gradient).cpu() for path, gradient in gradients.items()})

    def read(self, block: int, device: torch.device) -> dict[str, Tensor]:
        """G of one block, in fp32."""
        return {path: gradient.to(device, torch.float32) for path, gradient in read_tensors(self.path(block))[0].items()}


def open_gradients(folder: Path | None, model: Path) -> GradientStore:
    """The store in `folder`, refused if it does not hold the gradients of the checkpoint folder `model`."""
    if folder is None:
        raise UserError("this method needs the gradients of the dense model: collect them, and name their folder")
    store = GradientStore(folder)
    if not store.path(0).is_file():
        raise UserError(f"{folder} holds no gradients: collect them first")
    config = read_json(model / "config.json")
    adapter = adapter_for(config)
    with open_tensors(store.path(0)) as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    if shapes != adapter.widths(config) or len(list(folder.glob("block_*.safetensors"))) != adapter.blocks(config):
        raise UserError(f"{folder} holds the gradients of another model than {model}")
    return store


@torch.no_grad()
def collect_gradients(
    model: Path,
    tokens: Tensor,
    out: Path,
    *,
    work: Path,
    settings: Mapping[str, Any],
    overwrite: bool = False,
    device: str = "auto",
    progress: bool = True,
) -> None:
    """G of every prunable linear of the checkpoint folder `model` → folder `out`, one file a block, and the tokens themselves.

    `tokens` [windows, L], one window at a time; `work` is where finished blocks wait for a restart; `settings` is stored
    beside the result.

    Raises, before any work, a `UserError` if `out` exists, unless it is an untouched result of ours and `overwrite` is set.
    """
    check_output(out, [model], overwrite, work)
    if check_shape(tokens).shape[1] < 2:
        raise UserError(f"windows of {tokens.shape[1]} tokens predict nothing: gradients need at least 2")
    walk = Walk(model, tokens, device, {"settings": settings, "bundle": "gradients"}, work)
    walk.start()
    write_tensors(work / "tokens.safetensors", {"tokens": tokens.to(torch.int32)})
    store, entered = GradientStore(work), work / "entered"
    if walk.checkpoint.is_file():
        hidden = HiddenStates.begin(walk.model, tokens, 1, walk.checkpoint)
    else:
        hidden = _forward(walk.model, tokens, entered, progress)
        _turn(walk.model, tokens, hidden)
        write_tensors(walk.checkpoint, {"hidden": hidden.states.cpu()}, {"position": hidden.position})
    sums: dict[str, Tensor] = {}
    for index in trange(hidden.position - 1, -1, -1, desc="gradients: backward", unit="block", disable=not progress):
        hidden.position = index
        with walk.model.block(index) as block:
            for path in walk.model.adapter.linears:  # the same memory for every block: allocating it anew fragments the heap
                sums[path] = sums[path].zero_() if path in sums else torch.zeros_like(linear_at(block, path).weight)
            store.write(index, _backward(block, sums, hidden, _file(entered, index)))
        write_tensors(walk.checkpoint, {"hidden": hidden.states.cpu()}, {"position": index})
        _file(entered, index).unlink()
    shutil.rmtree(entered, ignore_errors=True)
    walk.finish(out, settings, overwrite)


def _file(folder: Path, block: int) -> Path:
    return folder / f"block_{block:03d}.safetensors"


def _forward(model: StreamedModel, tokens: Tensor, entered: Path, progress: bool) -> HiddenStates:
    """The hidden states behind the last block; what entered each block is in `entered`, where an interrupted run continues."""
    written = sorted(entered.glob("block_*.safetensors"))
    hidden = HiddenStates.begin(model, tokens, 1, written[-1] if written else _file(entered, 0))
    if kind := not_finite(hidden.states):
        raise UserError(f"what enters block {hidden.position} holds {kind}: an embedding is not finite, or overflows fp32")
    if not written:
        write_tensors(_file(entered, 0), {"hidden": hidden.states.cpu()}, {"position": 0})
    for index in trange(hidden.position, len(model), desc="gradients: forward", unit="block", disable=not progress):
        with model.block(index) as block:
            hidden.run(block)
            if not_finite(hidden.states):
                raise UserError(f"block {index}: {why_not_finite(block, 'the block')}")
        hidden.advance(_file(entered, index + 1))
    return hidden


def _turn(model: StreamedModel, tokens: Tensor, hidden: HiddenStates) -> None:
    """Put ∂ℓ_k/∂hidden in the place of the hidden states behind the last block."""
    with model.open_head() as logits:
        if found := weight_not_finite(model.model):
            raise UserError(f"{found}: {REMEDY}")
        for number, (window, part) in enumerate(zip(tokens.split(1), hidden.states.split(1), strict=True)):
            states = part.clone().requires_grad_()
            wanted = window[0, 1:].to(part.device, torch.long)
            for rows in torch.arange(len(wanted), device=part.device).split(ROWS):
                with torch.enable_grad():
                    found = logits(window, states, rows)[0].float()
                    loss = cross_entropy(found, wanted[rows], reduction="sum") / len(wanted)
                loss.backward()
            assert states.grad is not None
            part.copy_(_finite(states.grad, f"the gradient of window {number} behind block {len(model) - 1}"))


def _backward(block: nn.Module, sums: Mapping[str, Tensor], hidden: HiddenStates, entered: Path) -> dict[str, Tensor]:
    """G of every linear of the block, summed in `sums` from zero; ∂ℓ_k/∂(what left the block) becomes ∂ℓ_k/∂(what entered)."""
    for path, total in sums.items():
        weight = linear_at(block, path).weight.requires_grad_()
        weight.register_post_accumulate_grad_hook(partial(_add_and_forget, total))
    with open_tensors(entered) as file:
        states = file.get_slice("hidden")
        for window, (part, arguments) in enumerate(hidden.batches()):
            inputs = states[window : window + 1].to(part.device).requires_grad_()
            with torch.enable_grad(), repeatable_attention(part.device):
                run_block(block, inputs, arguments).backward(part)
            assert inputs.grad is not None
            part.copy_(inputs.grad)
    found = {}
    for path, total in sums.items():
        linear = linear_at(block, path)
        linear.weight.data = _finite(total.sqrt_(), f"block {hidden.position}, {path}: the gradient")
        found[path] = weight_of(linear)  # in the place of the weight, because only `weight_of` knows how that is stored
    return found


def _add_and_forget(total: Tensor, weight: Tensor) -> None:
    """Once the gradient of a weight is complete: gradients of two linears are never in memory together."""
    assert weight.grad is not None
    add_square(total, weight.grad)
    weight.grad = None


def _finite(values: Tensor, name: str) -> Tensor:
    if kind := not_finite(values):
        raise UserError(f"{name} is {kind}, although what enters and leaves every block is finite: it overflows fp32")
    return values
