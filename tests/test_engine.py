"""The loop: it replays the model's own forward pass bit for bit, and its propagations mean what they say."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

import secateur
from secateur import Recipe, engine
from secateur.artifacts import identity
from secateur.masks import PrunedStore
from secateur.methods.base import Target
from secateur.models.adapters import adapter_for
from secateur.models.linears import linear_at, weight_of
from secateur.models.stream import StreamedModel, run_block
from secateur.statistics import SiteAccumulator, StatisticsStore
from tests.conftest import FAMILIES, LLAMA

TinyModel = Callable[[str], Path]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("method", "propagation"), [("wanda", "site"), ("sparsegpt", "block"), ("sparsegpt", "site")])
def test_pruned_blocks_replay_the_models_own_forward(
    family: str, method: str, propagation: str, tiny_model: TinyModel, tokens: Tensor, tmp_path: Path
) -> None:
    folder = tiny_model(family)
    run = secateur.prune(folder, Recipe(method, 0.5, propagation=propagation), tmp_path / "run", tokens=tokens, device="cpu")
    whole = secateur.assemble(folder, run, device="cpu")
    with torch.no_grad():
        expected = whole(tokens.long()).logits
    stream, store = StreamedModel(folder, torch.device("cpu")), PrunedStore(run)
    hidden, arguments = stream.embed(tokens, len(tokens))
    for index in range(len(stream)):
        with stream.block(index) as block, torch.no_grad():
            for path, linear in store.read(index).items():
                linear.apply(weight_of(linear_at(block, path)))
            hidden = run_block(block, hidden, arguments[len(tokens)][index])
    assert torch.equal(stream.head(tokens, hidden), expected)
    with torch.no_grad():
        assert not torch.equal(secateur.assemble(folder, device="cpu")(tokens.long()).logits, expected)


def note(seen: list[Tensor], module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
    seen.append(inputs[0])


def by_hand(
    folder: Path, tokens: Tensor, method: str, propagation: str, rounded: torch.dtype = torch.float32
) -> list[dict[str, Tensor]]:
    """Prune with whole-model forward passes and ordinary hooks: slow, simple, and independent of the streaming engine."""
    model = secateur.assemble(folder, device="cpu")
    adapter = adapter_for(model.config.to_dict())
    solver = Recipe(method, 0.5).build_method()
    groups = [[site] for site in adapter.sites] if propagation == "site" else [list(adapter.sites)]
    masks: list[dict[str, Tensor]] = []
    for block in model.get_submodule(adapter.blocks_path).children():
        found: dict[str, Tensor] = {}
        for group in groups:
            seen: dict[str, list[Tensor]] = {site.name: [] for site in group}
            handles = [
                linear_at(block, site.linears[0]).register_forward_pre_hook(partial(note, seen[site.name])) for site in group
            ]
            with torch.no_grad():
                model(tokens.long())
            for handle in handles:
                handle.remove()
            for site in group:
                (inputs,) = seen[site.name]
                sums = SiteAccumulator(inputs.shape[-1], "gram", torch.device("cpu"), length=tokens.shape[1])
                sums.update(inputs)
                weights = [weight_of(linear_at(block, path)) for path in site.linears]
                solved = solver.prune(weights, sums.finish(), [Target(0.5)] * len(weights))
                for path, weight, pruned in zip(site.linears, weights, solved, strict=True):
                    found[path] = pruned.mask
                    if pruned.weight is not None:
                        weight.copy_(pruned.weight.to(rounded))
                    weight[pruned.mask] = 0
        masks.append(found)
    return masks


@pytest.mark.parametrize("family", ["llama", "opt-post-norm", "gpt2"])
@pytest.mark.parametrize("propagation", ["block", "site"])
@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
def test_masks_equal_those_of_whole_model_passes(
    family: str, propagation: str, method: str, tiny_model: TinyModel, tokens: Tensor, tmp_path: Path
) -> None:
    folder = tiny_model(family)
    run = secateur.prune(folder, Recipe(method, 0.5, propagation=propagation), tmp_path / "run", tokens=tokens, device="cpu")
    store = PrunedStore(run)
    for index, expected in enumerate(by_hand(folder, tokens, method, propagation)):
        found = store.read(index)
        assert set(found) == set(expected)
        for path, mask in expected.items():
            assert torch.equal(found[path].mask, mask), f"block {index}, {path}"


@pytest.mark.parametrize("family", ["llama", "opt-post-norm", "opt-pre-norm"])
def test_site_in_pieces_gives_the_same_bytes_as_in_one_piece(family: str, tiny_model: TinyModel, tmp_path: Path) -> None:
    tokens = torch.randint(0, 96, (300, 32), generator=torch.Generator().manual_seed(2), dtype=torch.int32)
    hashes = set()
    for name, memory in {"whole": 1 << 30, "pieces": 0}.items():
        engine.prune(
            tiny_model(family),
            Recipe("sparsegpt", 0.5),
            tmp_path / name,
            work=tmp_path / f"{name}-work",
            settings={},
            tokens=tokens,
            device="cpu",
            memory=memory,
            progress=False,
        )
        hashes.add(identity(tmp_path / name))
    assert len(hashes) == 1


def test_dense_statistics_equal_the_first_block_of_block_propagation(
    tiny_model: TinyModel, tokens: Tensor, tmp_path: Path
) -> None:
    """Before anything is pruned, both see the same inputs."""
    folder = tiny_model("llama")
    statistics = secateur.calibrate(folder, tokens, tmp_path / "stats", device="cpu")
    dense = secateur.prune(
        folder, Recipe("wanda", 0.5, propagation="dense"), tmp_path / "dense", statistics=statistics, device="cpu"
    )
    block = secateur.prune(folder, Recipe("wanda", 0.5, propagation="block"), tmp_path / "block", tokens=tokens, device="cpu")
    first, other = PrunedStore(dense), PrunedStore(block)
    assert all(torch.equal(first.read(0)[path].mask, other.read(0)[path].mask) for path in first.read(0))
    assert any(not torch.equal(first.read(2)[path].mask, other.read(2)[path].mask) for path in first.read(2))


def test_dense_refuses_statistics_that_hold_too_little(tiny_model: TinyModel, tokens: Tensor, tmp_path: Path) -> None:
    folder = tiny_model("llama")
    statistics = secateur.calibrate(folder, tokens, tmp_path / "stats", bundle="moments", device="cpu")
    with pytest.raises(secateur.UserError, match=r"holds the bundle 'moments'; 'gram' is needed"):
        secateur.prune(folder, Recipe("sparsegpt", 0.5, propagation="dense"), tmp_path / "run", statistics=statistics)


def test_an_allocation_table_reaches_its_blocks(tiny_model: TinyModel, tokens: Tensor, tmp_path: Path) -> None:
    recipe = Recipe("wanda", 0.5, allocation=[0.25, 0.5, 0.75])
    run = secateur.prune(tiny_model("llama"), recipe, tmp_path / "run", tokens=tokens, device="cpu")
    store = PrunedStore(run)
    for index, share in enumerate([0.25, 0.5, 0.75]):
        assert all(linear.mask.float().mean().item() == share for linear in store.read(index).values())


def test_statistics_survive_their_trip_to_disk(tiny_model: TinyModel, tokens: Tensor, tmp_path: Path) -> None:
    folder = secateur.calibrate(tiny_model("gpt2"), tokens, tmp_path / "stats", device="cpu")
    sites = StatisticsStore(folder).read(0, torch.device("cpu"))
    for site in sites.values():
        assert site.sequences == 6 and site.tokens == 144 and site.gram is not None
        assert torch.equal(site.gram, site.gram.T)
        torch.testing.assert_close(site.gram.diagonal(), site.input_square_sum)


def test_windows_longer_than_the_context_are_refused(tiny_model: TinyModel, tmp_path: Path) -> None:
    tokens = torch.zeros(1, 65, dtype=torch.int32)
    with pytest.raises(secateur.UserError, match="windows of 65 tokens: the model's context is 64"):
        secateur.prune(tiny_model("llama"), Recipe("wanda", 0.5), tmp_path / "run", tokens=tokens)


def test_new_weights_are_rounded_to_the_checkpoints_precision(tokens: Tensor, tmp_path: Path) -> None:
    """A bf16 checkpoint is pruned in fp32, keeps bf16 survivors, and the next block already saw them rounded."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", **LLAMA)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(tmp_path / "model")
    run = secateur.prune(tmp_path / "model", Recipe("sparsegpt", 0.5), tmp_path / "run", tokens=tokens, device="cpu")
    store = PrunedStore(run)
    values = [linear.values for index in range(3) for linear in store.read(index).values()]
    assert all(value is not None and value.dtype == torch.bfloat16 for value in values)
    masks = by_hand(tmp_path / "model", tokens, "sparsegpt", "site", rounded=torch.bfloat16)
    for index, expected in enumerate(masks):
        assert all(torch.equal(store.read(index)[path].mask, mask) for path, mask in expected.items())
