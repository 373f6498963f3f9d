"""Input statistics of one site, as running sums: init / update / finish."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import linear

from secateur.errors import UserError
from secateur.statistics.bundles import bundle_covers
from secateur.statistics.norms import NormAccumulator, NormSums

PIECE = 4096


def sequences_per_piece(length: int) -> int:
    """Sums are taken over pieces of about `PIECE` tokens: small enough for a processor's cache, and always the same pieces,
    so that the result does not depend on how many sequences a forward pass had room for."""
    return max(1, PIECE // length)


@dataclass(frozen=True)
class SiteStatistics:
    """What is known of the inputs X_k [tokens, width], k = 1..N, of one site. All tensors are fp32.

    `input_sum` [width] is Σ_k Σ_t x, `input_square_sum` [width] is Σ_k Σ_t x², `gram` [width, width] is Σ_k X_kᵀX_k.
    Means are taken over sequences, not tokens, as the published codes do. `input_norms` and, for every linear of the site by its
    dotted path, `outputs` sum the norms of X_k and of Y_k = X_k·Wᵀ + b with the weights that the linear had then.
    `gradients` [out, in] are the gradient magnitudes of the linears in the dense model, in the order of the site.
    """

    sequences: int
    tokens: int
    input_sum: Tensor | None = None
    input_square_sum: Tensor | None = None
    gram: Tensor | None = None
    input_norms: NormSums | None = None
    outputs: Mapping[str, NormSums] = field(default_factory=dict)
    gradients: tuple[Tensor, ...] | None = None

    @cached_property
    def input_energy(self) -> Tensor:
        """a_j = (1/N) Σ_k Σ_t x²: Wanda's `scaler_row` [width]."""
        if self.input_square_sum is None:
            raise UserError("this method needs the bundle 'moments', and the statistics do not hold it")
        return self.input_square_sum / self.sequences

    @cached_property
    def hessian(self) -> Tensor:
        """H = (2/N) Σ_k X_kᵀX_k [width, width]: SparseGPT's layer Hessian."""
        if self.gram is None:
            raise UserError("this method needs the bundle 'gram', and the statistics do not hold it")
        return self.gram * (2.0 / self.sequences)


class SiteAccumulator:
    """Running sums over calibration batches for one site.

    The Gram matrix is symmetric, so only blocks on and above its diagonal are computed: column panels of at most
    `PANEL` features leave (1 + PANEL / width) / 2 of the multiplications of the full product. `linears` are the weight [out, in]
    and bias of each linear of the site: inputs arrive before the linears run, so the bundle `outputs` computes its own outputs.
    `length` is that of the sequences in a 2-D input: OPT flattens a batch before its MLP, and sums depend on where it is cut.
    """

    PANEL = 192

    def __init__(
        self,
        width: int,
        bundle: str,
        device: torch.device,
        linears: Mapping[str, tuple[Tensor, Tensor | None]] | None = None,
        length: int | None = None,
    ) -> None:
        self.sequences = 0
        self.tokens = 0
        self.sum = self.square_sum = self.gram = None
        if bundle_covers(bundle, "moments"):
            self.sum = torch.zeros(width, device=device)
            self.square_sum = torch.zeros(width, device=device)
        if bundle_covers(bundle, "gram"):
            self.gram = torch.zeros(width, width, device=device)
        self.norms = NormAccumulator(width, device) if bundle_covers(bundle, "outputs") else None
        self.linears = dict(linears or {}) if self.norms else {}
        self.length = length
        self.outputs = {path: NormAccumulator(len(weight), device) for path, (weight, _) in self.linears.items()}

    def update(self, inputs: Tensor) -> None:
        """Add a batch [sequences, tokens, width]; a 2-D input [tokens, width] is cut into sequences of `length`; without
        one it is taken for a single sequence."""
        batch = inputs.unflatten(0, (-1, self.length or len(inputs))) if inputs.dim() == 2 else inputs
        for piece in batch.split(sequences_per_piece(batch.shape[1])):
            self._add(piece.shape[0], piece.reshape(-1, piece.shape[-1]).float())
            if self.norms is not None:
                for sequence in piece:
                    self.norms.update(sequence)
                    for path, (weight, bias) in self.linears.items():
                        self.outputs[path].update(linear(sequence, weight, bias))

    def _add(self, sequences: int, flat: Tensor) -> None:
        self.sequences += sequences
        self.tokens += flat.shape[0]
        if self.sum is not None and self.square_sum is not None:
            self.sum += flat.sum(dim=0)
            for rows in flat.split(512):  # so that the squares never leave the processor's cache
                self.square_sum += rows.square().sum(dim=0)
        if self.gram is not None:
            for start in range(0, flat.shape[1], self.PANEL):
                panel = slice(start, start + self.PANEL)
                self.gram[panel, start:].addmm_(flat[:, panel].T, flat[:, start:])

    def finish(self) -> SiteStatistics:
        """The statistics of everything seen so far."""
        if self.sequences == 0:
            raise UserError("no calibration batch reached this site")
        if self.gram is not None:
            self.gram = self.gram.triu() + self.gram.triu(1).T
        norms = self.norms.finish() if self.norms else None
        outputs = {path: sums.finish() for path, sums in self.outputs.items()}
        sums = self.sequences, self.tokens, self.sum, self.square_sum, self.gram
        return SiteStatistics(*sums, input_norms=norms, outputs=outputs)
