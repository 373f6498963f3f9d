"""One walk through the blocks of a model: what calibrating and pruning share, and how both survive being killed."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from secateur import determinism
from secateur.artifacts import write_json
from secateur.errors import UserError
from secateur.hidden import HiddenStates, whole_batch_fits
from secateur.models.adapters import Site
from secateur.models.attention import attention_call
from secateur.models.linears import bias_of, linear_at, weight_of
from secateur.models.stream import StreamedModel, run_block
from secateur.outputs import continue_or_start, seal_folder
from secateur.statistics.site import SiteAccumulator, SiteStatistics, sequences_per_piece
from secateur.tokens import check_tokens, embedding_rows


@contextmanager
def on_arrival(block: nn.Module, actions: Iterable[tuple[Site, Callable[[Tensor], None]]]) -> Iterator[None]:
    """Call each action with the input of its site, once per forward pass, before any linear of the site runs."""
    with ExitStack() as hooks:
        for site, action in actions:
            first: list[str] = []

            def hook(
                module: nn.Module,
                inputs: tuple[Tensor, ...],
                path: str,
                first: list[str] = first,
                action: Callable[[Tensor], None] = action,
            ) -> None:
                if not first:
                    first.append(path)
                if path == first[0]:
                    action(inputs[0])

            for path in site.linears:
                handle = linear_at(block, path).register_forward_pre_hook(partial(hook, path=path))
                hooks.callback(handle.remove)
        yield


class _Reached(Exception):
    """Ends a forward pass at a site on purpose."""


class Walk:
    """An open model, the calibration batch on its way through it, and a work folder that survives a kill."""

    def __init__(self, model: Path, tokens: Tensor | None, device: str, identity: Mapping[str, Any], work: Path) -> None:
        self.model = StreamedModel(model, determinism.device(device))
        self.model.reader.check_finite()  # before any work: one inf spreads to every block behind it
        if tokens is not None:
            check_tokens(tokens, embedding_rows(self.model.model))
        self.sites = self.model.adapter.sites
        self.tokens = tokens
        self.work = work
        if tokens is not None and tokens.shape[1] > self.model.context:
            raise UserError(f"windows of {tokens.shape[1]} tokens: the model's context is {self.model.context}")
        self.checkpoint = work / "hidden.safetensors"
        conditions = {"identity": identity, "conditions": determinism.fingerprint(), "code": code_digest()}
        conditions |= {"device": str(self.model.device), "checkpoint": _state_of(model)}
        self._conditions = conditions

    def start(self) -> None:
        """Start, or continue, in the work folder; nothing is written before."""
        continue_or_start(self.work, self._conditions)

    def begin(self, bundle: str, whole: bool = False, budget: int = 0, few: int = 0) -> HiddenStates:
        """Embed the tokens, or pick up the interrupted walk. `whole`: all tokens in one pass if `budget` bytes allow it;
        `few`: the dense model's hidden states walk beside, and so many sequences at once can pass a block by themselves."""
        assert self.tokens is not None, "a walk without tokens passes no block"
        self.bundle = bundle
        fits = whole and whole_batch_fits(self.model, self.tokens, budget)
        batch = len(self.tokens) if fits else sequences_per_piece(self.tokens.shape[1])
        self.hidden = HiddenStates.begin(self.model, self.tokens, batch, self.checkpoint, follow_dense=few > 0)
        part = self.tokens[:few]
        if few and len(part) not in self.hidden.arguments:
            self.hidden.arguments |= self.model.embed(part, len(part))[1]
        return self.hidden

    def accumulator(self, block: nn.Module, site: Site) -> SiteAccumulator:
        """Empty sums for a site of the block."""
        linears = {path: linear_at(block, path) for path in site.linears}
        weights = {path: (weight_of(linear), bias_of(linear)) for path, linear in linears.items()}
        width = weights[site.linears[0]][0].shape[1]
        length = None if self.tokens is None else self.tokens.shape[1]
        return SiteAccumulator(width, self.bundle, self.model.device, weights, length)

    def attention(self, block: nn.Module, site: Site, weights: Sequence[Tensor], samples: int) -> Iterator[Tensor]:
        """Attention probabilities [heads, tokens, tokens], some heads at a time, of the first `samples` sequences, as the block's
        own code computes them with the given weights [out, in] of the site's linears. The batch stays before the block."""
        for part, arguments in self.hidden.batches():
            if samples <= 0:
                return
            call = attention_call(block, site.linears, weights, lambda p=part, a=arguments: run_block(block, p, a))
            yield from call.first(samples).probabilities()
            samples -= len(part)

    def observe(self, block: nn.Module, keep: bool) -> dict[str, SiteStatistics]:
        """Statistics of every site from one pass over the batch; `keep` lets the batch move on with its outputs."""
        sums = {site: self.accumulator(block, site) for site in self.sites}
        if keep:
            with on_arrival(block, [(site, accumulator.update) for site, accumulator in sums.items()]):
                self.hidden.run(block)
        else:
            self.arrive(block, sums)
        return {site.name: accumulator.finish() for site, accumulator in sums.items()}

    def arrive(self, block: nn.Module, sums: Mapping[Site, SiteAccumulator]) -> None:
        """Add up what arrives at the sites of `sums`, in the order of the forward pass, which ends at the last of them: what
        comes after it would be computed for nothing. The batch stays before the block."""
        *earlier, (last, accumulator) = sums.items()

        def add_and_end(inputs: Tensor) -> None:
            accumulator.update(inputs)
            raise _Reached

        actions = [(site, sum_up.update) for site, sum_up in earlier]
        with on_arrival(block, [*actions, (last, add_and_end)]):
            for part, arguments in self.hidden.batches():
                try:
                    run_block(block, part, arguments)
                except _Reached:
                    continue
                raise UserError(f"the block's forward pass does not reach {last.name}")

    def few(self, sequences: int) -> Callable[[nn.Module, Tensor], Tensor]:
        """The block at hand on as many sequences as `begin` was told to prepare: (block, hidden) → outputs."""
        assert self.tokens is not None, "a walk without tokens passes no block"
        arguments = self.hidden.arguments[min(sequences, len(self.tokens))]
        return lambda block, hidden: run_block(block, hidden, arguments[self.hidden.position])

    def finish(self, out: Path, settings: Mapping[str, Any], overwrite: bool = False) -> None:
        """Turn the work folder into the artifact `out`; a `UserError` as `seal_folder` raises it."""
        write_json(self.work / "settings.json", settings)
        seal_folder(self.work, out, overwrite, without=[self.checkpoint.name])


def code_digest() -> str:
    """Digest of this package's source: unfinished work of another version is not continued."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _state_of(folder: Path) -> list[list[str | int]]:
    """What tells one state of a checkpoint from another without reading it: name, bytes and time of its files."""
    files = sorted(file for file in folder.iterdir() if file.is_file())
    return [[file.name, (found := file.stat()).st_size, found.st_mtime_ns] for file in files]
