"""The surviving weights of a whole block, trained until the pruned model says after it what the dense model says."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.errors import UserError
from secateur.recovery.base import BlockUpdate


@dataclass(frozen=True)
class BlockReconstruction(BlockUpdate):
    """min mean_t ‖f(x_t) - f*(x*_t)‖² / ‖f*(x*_t)‖² over the survivors of block f, masks fixed, when all its sites are pruned.

    x are the hidden states of the pruned model and x* those of the dense model before the block, so that a block also mends what
    the blocks before it did; each token counts the same, however large its hidden state. Adam, `epochs` times over the
    calibration windows in batches of `batch`, with a step of `rate` times the root mean square of a matrix's survivors that
    warms up over the first tenth and falls linearly to zero.

    The objective is that of EBFT (Guo et al., arXiv 2402.12419), with relative errors and our own schedule.
    """

    rate: float = 0.01
    epochs: int = 4
    batch: int = 2

    def __post_init__(self) -> None:
        if not self.rate > 0:
            raise UserError(f"reconstruct rate {self.rate}: must be above 0")
        if self.epochs < 1 or self.batch < 1:
            raise UserError(f"reconstruct epochs {self.epochs}, batch {self.batch}: must both be at least 1")

    def fit(
        self,
        forward: Callable[[Tensor], Tensor],
        survivors: Mapping[Tensor, Tensor],
        inputs: Tensor,
        targets: Tensor,
        seed: int,
    ) -> None:
        """Train in place; `seed` decides the order of the windows. What does not fill a batch waits for another order."""
        batch = min(self.batch, len(inputs))
        used = len(inputs) // batch * batch
        steps = self.epochs * used // batch
        warm = max(1, steps // 10)
        groups = [
            {"params": [weight], "lr": self.rate * float(weight[keep].square().mean().sqrt())}
            for weight, keep in survivors.items()
        ]
        optimizer = torch.optim.Adam(groups, betas=(0.9, 0.95))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, (step + 1) / warm) * (1 - step / steps))
        order = torch.Generator().manual_seed(seed)
        with torch.enable_grad():
            for weight in survivors:
                weight.requires_grad_(True)
            for _ in range(self.epochs):
                for chosen in torch.randperm(len(inputs), generator=order)[:used].split(batch):
                    wanted = targets[chosen]
                    energy = wanted.square().sum(dim=-1).clamp(min=torch.finfo(wanted.dtype).tiny)
                    error = (forward(inputs[chosen]) - wanted).square().sum(dim=-1) / energy
                    optimizer.zero_grad()
                    error.mean().backward()
                    for weight, keep in survivors.items():
                        assert weight.grad is not None
                        weight.grad.mul_(keep)
                    optimizer.step()
                    schedule.step()
            for weight in survivors:
                weight.requires_grad_(False)
                weight.grad = None
        if not all(bool(torch.isfinite(weight).all()) for weight in survivors):
            raise UserError(f"reconstruct: the weights are no longer finite; lower the rate {self.rate}")
