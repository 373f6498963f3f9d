"""Norms of a layer's inputs and outputs, one number a channel and sequence, summed the ways D2Prune sums them."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class NormSums:
    """Sums over the sequences n = 1..N, in the order of the calibration set, of v_n[j] = ‖V_n[:, j]‖, a norm over tokens.

    `sums` [4, width] fp32 holds Σ v_n, Σ √n·v_n, Σ n·v_n and Σ v_n². They are sums, not means, so that they can be stored and
    divided in the end; n counts sequences from 1 whatever the batching.
    """

    sequences: int
    sums: Tensor

    @property
    def mean(self) -> Tensor:
        """(1/N) Σ v_n [width]."""
        return self.sums[0] / self.sequences

    @property
    def late_root(self) -> Tensor:
        """(√2/N) Σ √n·v_n, where v ← v·(n-1)/n + √(2/n)·v_n ends: D2Prune's x of the update form, times s."""
        return self.sums[1] * (math.sqrt(2) / self.sequences)

    @property
    def late(self) -> Tensor:
        """(1/N) Σ n·v_n, where v ← v·(n-1)/n + v_n ends: D2Prune's y, and its x of the no-update form, times s. It is not a
        mean: the new term is not divided by n, so late sequences weigh more."""
        return self.sums[2] / self.sequences

    @property
    def energy(self) -> Tensor:
        """(1/N) Σ v_n²: for outputs the energy b_i, as `input_energy` is a_j for inputs."""
        return self.sums[3] / self.sequences

    def rows(self, start: int, stop: int) -> "NormSums":
        """The same for some of the channels."""
        return NormSums(self.sequences, self.sums[:, start:stop])


class NormAccumulator:
    """Running `NormSums`, fed one sequence at a time."""

    def __init__(self, width: int, device: torch.device) -> None:
        self.sequences = 0
        self.sums = torch.zeros(4, width, device=device)

    def update(self, sequence: Tensor) -> None:
        """Add the next sequence [tokens, width]."""
        self.sequences += 1
        norm = torch.linalg.vector_norm(sequence.float(), dim=0)
        self.sums[0] += norm
        self.sums[1].add_(norm, alpha=math.sqrt(self.sequences))
        self.sums[2].add_(norm, alpha=self.sequences)
        self.sums[3] += norm.square()

    def finish(self) -> NormSums:
        """The sums of everything seen so far."""
        return NormSums(self.sequences, self.sums)
