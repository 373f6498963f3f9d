"""The surviving weights of a whole block, trained until the pruned model says after it what the dense model says."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.determinism import repeatable_attention
from secateur.errors import UserError
from secateur.finite import not_finite
from secateur.recovery.base import BlockUpdate


@dataclass(frozen=True)
class BlockReconstruction(BlockUpdate):
    """min mean_t ‖f(x_t) - f*(x*_t)‖² / ‖f*(x*_t)‖² over the survivors of block f, masks fixed, when all its sites are pruned.

    x are the hidden states of the pruned model and x* those of the dense model before the block, so that a block also mends what
    the blocks before it did; each token counts the same, however large its hidden state. Adam, `epochs` times over the
    calibration windows in batches of `batch`, with a step of `rate` times the root mean square of a matrix's survivors that
    warms up over the first tenth and falls linearly to zero. If the objective did not fall, the weights stay as they were.

    After EBFT (Guo et al., arXiv 2402.12419), which trains a sparse model block by block; the relative error, the dense model's
    own hidden states as targets and the schedule are ours.
    """

    rate: float = 0.01
    epochs: int = 4
    batch: int = 2

    def __post_init__(self) -> None:
        if not 0 < self.rate < math.inf:
            raise UserError(f"reconstruct rate {self.rate}: must be above 0 and finite")
        if self.epochs < 1 or self.batch < 1:
            raise UserError(f"reconstruct epochs {self.epochs}, batch {self.batch}: must both be at least 1")

    @property
    def passes(self) -> int:
        return 3 * self.epochs + 2

    def fit(
        self,
        forward: Callable[[Tensor], Tensor],
        survivors: Sequence[tuple[Tensor, Tensor]],
        inputs: Tensor,
        targets: Tensor,
        seed: int,
    ) -> None:
        """Train in place; `seed` decides the order of the windows. The windows of an epoch that do not fill a batch are left out
        of it; the next epoch draws others."""
        batch = min(self.batch, len(inputs))
        batches = len(inputs) // batch

        def objective(chosen: Tensor) -> Tensor:
            wanted = targets[chosen]
            energy = wanted.square().sum(dim=-1).clamp(min=torch.finfo(wanted.dtype).tiny)
            return ((forward(inputs[chosen]) - wanted).square().sum(dim=-1) / energy).mean()

        def total() -> float:
            first = torch.arange(batches * batch).split(batch)
            return math.fsum(objective(chosen).item() for chosen in first)

        weights, keeps = [weight for weight, _ in survivors], [keep for _, keep in survivors]
        start, before = [weight.detach().clone() for weight in weights], total()
        if math.isnan(before):
            raise UserError(_why(inputs, targets))
        order = torch.Generator().manual_seed(seed)
        epochs = (torch.randperm(len(inputs), generator=order)[: batches * batch].split(batch) for _ in range(self.epochs))
        self._train(weights, keeps, objective, [chosen for epoch in epochs for chosen in epoch])
        if not all(bool(torch.isfinite(weight).all()) for weight in weights):
            raise UserError(f"reconstruct: the weights are no longer finite; lower the rate {self.rate}")
        if not total() < before:
            for weight, old in zip(weights, start, strict=True):
                weight.copy_(old)

    def _train(
        self, weights: list[Tensor], keeps: list[Tensor], objective: Callable[[Tensor], Tensor], batches: list[Tensor]
    ) -> None:
        """One step of Adam for each batch; what was pruned has no gradient and so never moves."""
        sizes = [float(weight[keep].square().mean().sqrt()) for weight, keep in zip(weights, keeps, strict=True)]
        groups = [{"params": [weight], "lr": self.rate * size} for weight, size in zip(weights, sizes, strict=True)]
        optimizer, steps = torch.optim.Adam(groups, betas=(0.9, 0.95)), len(batches)
        warm = max(1, steps // 10)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, (step + 1) / warm) * (1 - step / steps))
        with torch.enable_grad(), repeatable_attention(weights[0].device):
            for weight in weights:
                weight.requires_grad_(True)
            for chosen in batches:
                optimizer.zero_grad()
                objective(chosen).backward()
                for weight, keep in zip(weights, keeps, strict=True):
                    assert weight.grad is not None
                    weight.grad.mul_(keep)
                optimizer.step()
                schedule.step()
            for weight in weights:
                weight.requires_grad_(False)
                weight.grad = None


def _why(inputs: Tensor, targets: Tensor) -> str:
    """What is to blame for an objective that is not a number before any step: no rate could mend it."""
    for states, place in ((inputs, "before the block in the pruned model"), (targets, "behind the block in the dense model")):
        if kind := not_finite(states):
            cause = "they overflow fp32, or a weight is not finite (secateur.perplexity names one)"
            return f"reconstruct: the hidden states {place} hold {kind}: {cause}"
    return "reconstruct: the pruned block overflows fp32, although what enters it is finite: prune less of it"
