"""Pruning as one would write it down the first time, to measure against.

Per-sample forward passes, two of them per block, hooks on every linear, one Hessian and one column loop per linear.
"""

import torch
from torch import Tensor, nn

from secateur.models.linears import linear_at, weight_of
from secateur.models.stream import StreamedModel, run_block
from secateur.patterns import layer_threshold, row_k


@torch.no_grad()
def prune(model: StreamedModel, tokens: Tensor, method: str, sparsity: float) -> None:
    """Prune every block with statistics of the dense block; nothing is saved."""
    hidden, arguments = model.embed(tokens, 1)
    samples = list(hidden.split(1))
    for index in range(len(model)):
        with model.block(index) as block:
            linears = {path: linear_at(block, path) for path in model.adapter.linears}
            statistics = {path: _observer(linear, method) for path, linear in linears.items()}
            for sample in samples:
                run_block(block, sample, arguments[1][index])
            for path, linear in linears.items():
                total, handle = statistics[path]
                handle.remove()
                weight = weight_of(linear)
                if method == "wanda":
                    weight[row_k(weight.abs() * (total / len(samples)).sqrt(), sparsity)] = 0
                else:
                    weight.copy_(sweep(weight, total * (2 / len(samples)), sparsity))
            samples = [run_block(block, sample, arguments[1][index]) for sample in samples]


def _observer(linear: nn.Module, method: str) -> tuple[Tensor, torch.utils.hooks.RemovableHandle]:
    width = weight_of(linear).shape[1]  # pyright: ignore[reportArgumentType]
    total = torch.zeros(width) if method == "wanda" else torch.zeros(width, width)

    def add(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        flat = inputs[0].reshape(-1, width)
        total.add_(flat.square().sum(dim=0) if method == "wanda" else flat.T @ flat)

    return total, linear.register_forward_pre_hook(add)


def sweep(weight: Tensor, hessian: Tensor, sparsity: float, blocksize: int = 128) -> Tensor:
    """SparseGPT's column loop as its paper writes it."""
    work = weight.clone()
    dead = hessian.diagonal() == 0
    hessian.diagonal()[dead] = 1
    work[:, dead] = 0
    hessian.diagonal().add_(0.01 * hessian.diagonal().mean())
    upper = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)
    for start in range(0, work.shape[1], blocksize):
        stop = min(start + blocksize, work.shape[1])
        part, triangle = work[:, start:stop].clone(), upper[start:stop, start:stop]
        mask = layer_threshold((part / triangle.diagonal()).square(), sparsity)
        errors = torch.zeros_like(part)
        final = torch.zeros_like(part)
        for column in range(stop - start):
            current = part[:, column]
            kept = current.masked_fill(mask[:, column], 0)
            error = (current - kept) / triangle[column, column]
            part[:, column:] -= error[:, None] * triangle[column, column:]
            final[:, column], errors[:, column] = kept, error
        work[:, start:stop] = final
        work[:, stop:] -= errors @ upper[start:stop, stop:]
    return work
