"""D2Prune: its limits are Wanda and SparseGPT, its statistics do not depend on batches, and its choices are the best it saw."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

import secateur
from secateur import Recipe, engine
from secateur.artifacts import identity, read_json
from secateur.errors import UserError
from secateur.masks import PrunedStore
from secateur.methods.base import Surroundings, Target
from secateur.methods.d2prune import D2Prune
from secateur.methods.d2prune_choice import kl_objective, lowest_perplexity, outlier_shares
from secateur.methods.d2prune_scores import two_means_scale
from secateur.methods.d2prune_search import search_no_update
from secateur.methods.sparsegpt import SparseGPT
from secateur.methods.wanda import Wanda
from secateur.models.attention import attention_call
from secateur.models.linears import attention_letters, linear_at, weight_of
from secateur.models.stream import StreamedModel, run_block
from secateur.statistics import NormSums, SiteAccumulator, SiteStatistics, StatisticsStore
from tests.conftest import FAMILIES

TinyModel = Callable[[str], Path]
TARGETS = [Target(0.5), Target(0.3), Target(0.5, "2:4"), Target(0.75, "3:4"), Target(0.0)]
PATHS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
CPU = torch.device("cpu")
FORMS = {"U": "none", "N": "all"}
identifier = str


def site(seed: int, rows: int = 12, width: int = 32, pieces: int = 1) -> tuple[list[Tensor], SiteStatistics, Tensor]:
    """Three weights, the statistics of their common input, and that input [sequences, tokens, width]. The biases are 1."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=generator) / math.sqrt(width) + torch.eye(width)
    inputs = torch.randn(6, 24, width, generator=generator) @ mix
    weights = [torch.randn(rows, width, generator=generator) for _ in PATHS]
    linears = {path: (weight, torch.ones(rows)) for path, weight in zip(PATHS, weights, strict=True)}
    accumulator = SiteAccumulator(width, "outputs", CPU, linears)
    for piece in inputs.chunk(pieces):
        accumulator.update(piece)
    return weights, accumulator.finish(), inputs


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(TARGETS), st.sampled_from([0.1, 3.0, 1500.0]), st.sampled_from([0.0, 0.02]))
def test_the_papers_no_update_form_is_wanda(seed: int, target: Target, s: float, r2: float) -> None:
    """r1·c·t + (½ - r2/s)·t² with t = |w|·√a rises with t inside a row. Scores that rounding could swap are left out."""
    weights, statistics, _ = site(seed)
    for weight in weights:
        ordered = Wanda().score(weight, statistics).sort(dim=1).values
        assume(bool((ordered[:, 1:] > ordered[:, :-1] * (1 + 1e-5)).all()))
    method = D2Prune(mode="paper", s=s, r2=r2, no_update="all")
    expected = Wanda().prune(weights, statistics, [target] * 3)
    for one, other in zip(method.prune(weights, statistics, [target] * 3), expected, strict=True):
        assert torch.equal(one.mask, other.mask) and one.weight is None


@pytest.mark.parametrize("mode", ["reference", "reference_v2", "paper"])
@pytest.mark.parametrize("target", TARGETS, ids=identifier)
def test_without_activation_terms_the_update_form_is_sparsegpt(target: Target, mode: str) -> None:
    weights, statistics, _ = site(1, rows=24, width=160)
    expected = SparseGPT().prune(weights, statistics, [target] * 3)
    method = D2Prune(mode=mode, r1=0, r2=0, no_update="none")
    for one, other in zip(method.prune(weights, statistics, [target] * 3), expected, strict=True):
        assert one.weight is not None and other.weight is not None
        assert torch.equal(one.mask, other.mask) and torch.equal(one.weight, other.weight)


def textbook(weight: Tensor, inputs: Tensor, target: Target, method: D2Prune) -> tuple[Tensor, Tensor]:
    """The update form of `reference` by the recursions of the published code, one column at a time, in fp64."""
    work, inputs = weight.double().clone(), inputs.double()
    x, y = torch.zeros(weight.shape[1], dtype=torch.float64), torch.zeros(len(weight), dtype=torch.float64)
    for n, sequence in enumerate(inputs, start=1):
        x = x * (n - 1) / n + math.sqrt(2 / n) * sequence.norm(dim=0) / method.s
        y = y * (n - 1) / n + (sequence @ work.T + 1).norm(dim=0) / method.s
    hessian = 2 / len(inputs) * torch.einsum("nti,ntj->ij", inputs, inputs)
    hessian += 0.01 * hessian.diagonal().mean() * torch.eye(len(hessian), dtype=torch.float64)
    upper = torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True)
    mask = torch.zeros_like(work, dtype=torch.bool)

    def score(columns: slice) -> Tensor:
        part, pivots = work[:, columns], upper.diagonal()[columns]
        first, second = y[:, None] * part.abs() * x[columns], (part * x[columns]) ** 2
        return (part / pivots) ** 2 + method.r1 * first - method.r2 * second

    for start in range(0, work.shape[1], method.blocksize):
        block = slice(start, min(start + method.blocksize, work.shape[1]))
        if target.pattern == "unstructured":
            scores = score(block)
            mask[:, block] = scores <= scores.flatten().sort().values[int(scores.numel() * target.sparsity)]
        for column in range(block.start, block.stop):
            group = slice(column, column + 4)
            if target.pattern == "2:4" and column % 4 == 0:
                mask[:, group] = score(group).argsort(dim=1).argsort(dim=1) < 2
            error = work[:, column] * mask[:, column] / upper[column, column]
            work[:, column:] -= torch.outer(error, upper[column, column:])
    return mask, work.masked_fill(mask, 0)


@pytest.mark.parametrize("target", [Target(0.5), Target(0.5, "2:4")], ids=identifier)
@pytest.mark.parametrize("terms", [{"s": 3.0}, {"s": 30.0, "r1": 0.5, "r2": 0.5}], ids=identifier)
def test_the_update_form_is_the_published_recursion(target: Target, terms: dict[str, Any]) -> None:
    weights, statistics, inputs = site(2, width=64)
    method = D2Prune(no_update="none", blocksize=32, **terms)
    for weight, one in zip(weights, method.prune(weights, statistics, [target] * 3), strict=True):
        mask, expected = textbook(weight, inputs, target, method)
        assert one.weight is not None and torch.equal(one.mask, mask)
        torch.testing.assert_close(one.weight.double(), expected, rtol=1e-3, atol=1e-4)


def test_the_norms_do_not_depend_on_batches_and_change_no_other_statistic() -> None:
    (_, whole, inputs), (_, alone, _) = site(3), site(3, pieces=6)
    plain = SiteAccumulator(inputs.shape[-1], "gram", CPU)
    plain.update(inputs)
    assert torch.equal(whole.hessian, plain.finish().hessian)
    assert whole.input_norms is not None and alone.input_norms is not None
    assert torch.equal(whole.input_norms.sums, alone.input_norms.sums)
    for path in PATHS:
        assert torch.equal(whole.outputs[path].sums, alone.outputs[path].sums)


@pytest.mark.parametrize("family", FAMILIES)
def test_output_norms_are_those_of_the_layers_own_outputs(
    family: str, tiny_model: TinyModel, tokens: Tensor, tmp_path: Path
) -> None:
    """Bias included, GPT-2's transposed layers too, and through the file on disk."""
    folder = secateur.calibrate(tiny_model(family), tokens, tmp_path / "stats", bundle="outputs", device="cpu")
    model, seen = secateur.assemble(tiny_model(family), device="cpu"), {}
    stream = StreamedModel(tiny_model(family), CPU)
    blocks = list(model.get_submodule(stream.adapter.blocks_path).children())
    for path in stream.adapter.linears:
        linear_at(blocks[1], path).register_forward_hook(lambda module, args, out, path=path: seen.update({path: out}))
    with torch.no_grad():
        model(tokens.long())
    read = StatisticsStore(folder).read(1, CPU)
    found = {path: norms for statistics in read.values() for path, norms in statistics.outputs.items()}
    assert list(found) == list(stream.adapter.linears)
    for path, norms in found.items():
        each = seen[path].reshape(len(tokens), tokens.shape[1], -1).norm(dim=1)
        order = torch.arange(1, len(tokens) + 1)[:, None]
        torch.testing.assert_close(norms.mean, each.mean(dim=0), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(norms.late, (each * order).mean(dim=0), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(norms.energy, each.square().mean(dim=0), rtol=1e-4, atol=1e-5)


def prune(folder: Path, recipe: Recipe, tokens: Tensor, out: Path) -> Path:
    """Any propagation; `dense` calibrates first."""
    if recipe.propagation != "dense":
        return secateur.prune(folder, recipe, out, tokens=tokens, device="cpu")
    statistics = secateur.calibrate(folder, tokens, out.with_name("stats"), bundle="outputs", device="cpu")
    return secateur.prune(folder, recipe, out, statistics=statistics, device="cpu")


def updated(folder: Path, run: Path) -> list[dict[str, bool]]:
    """For every block, by letter of q, k, v or the path of another linear: whether any survivor has a new value."""
    stream, store, found = StreamedModel(folder, CPU), PrunedStore(run), []
    for index in range(len(stream)):
        with stream.block(index) as block:
            changed = {}
            for path, linear in store.read(index).items():
                weight, letters = weight_of(linear_at(block, path)), attention_letters(path) or [path]
                new = weight.clone()
                linear.apply(new)
                moved = ((new != weight) & ~linear.mask).chunk(len(letters))
                changed |= {letter: bool(part.any()) for letter, part in zip(letters, moved, strict=True)}
            found.append(changed)
    return found


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("propagation", ["dense", "block", "site"])
@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_every_family_in_every_propagation(
    family: str, propagation: str, pattern: str, tiny_model: TinyModel, tokens: Tensor, tmp_path: Path
) -> None:
    recipe = Recipe("d2prune", 0.5, pattern=pattern, propagation=propagation)
    run = prune(tiny_model(family), recipe, tokens, tmp_path / "run")
    for index, changed in enumerate(updated(tiny_model(family), run)):
        assert not changed.pop("k") and all(changed.values())
        for linear in PrunedStore(run).read(index).values():
            assert 0.5 <= linear.mask.float().mean() < 0.51
    assert not (run / "choices.json").exists()


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_is_the_models_own(family: str, tiny_model: TinyModel, tokens: Tensor) -> None:
    """Rotary embedding, norms of heads, windows, grouped heads and scaling, against the eager code of the model."""
    model = secateur.assemble(tiny_model(family), device="cpu")
    model.set_attn_implementation("eager")
    with torch.no_grad():
        expected = model(tokens.long(), output_attentions=True).attentions
    stream = StreamedModel(tiny_model(family), CPU)
    hidden, arguments = stream.embed(tokens, len(tokens))
    paths = stream.adapter.sites[0].linears
    for index in range(len(stream)):
        with stream.block(index) as block, torch.no_grad():
            own = arguments[len(tokens)][index]
            weights = [weight_of(linear_at(block, path)) for path in paths]
            call = attention_call(block, paths, weights, lambda b=block, h=hidden, a=own: run_block(b, h, a))
            found = torch.cat(list(call.first(4).probabilities())).unflatten(0, (4, -1))
            torch.testing.assert_close(found, expected[index][:4], rtol=1e-4, atol=1e-5)
            other = attention_call(block, paths, [-weights[0], *weights[1:]], lambda b=block, h=hidden, a=own: run_block(b, h, a))
            assert not torch.allclose(next(other.probabilities()), found[0], atol=1e-3)
            hidden = run_block(block, hidden, own)


@pytest.mark.parametrize(("family", "propagation"), [*((family, "site") for family in FAMILIES), ("qwen3", "block")])
def test_kl_keeps_the_best_state_and_says_so(
    family: str, propagation: str, tiny_model: TinyModel, tokens: Tensor, tmp_path: Path
) -> None:
    recipe = Recipe("d2prune", 0.5, propagation=propagation, options={"dynamic": "kl", "samples": 2})
    run = prune(tiny_model(family), recipe, tokens, tmp_path / "run")
    choices = read_json(run / "choices.json")
    for index, changed in enumerate(updated(tiny_model(family), run)):
        choice = choices[f"block_{index:03d}"]
        states = choice["states"]
        assert states[choice["state"]]["objective"] == min(state["objective"] for state in states.values())
        assert {len({state["KL"] for name, state in states.items() if name[:2] == pair}) for pair in ("UU", "NN")} == {1}
        assert states["UUU"]["KL"] > 0 and states["NNN"]["L_rel"] > 0
        assert {letter: changed[letter] for letter in "qkv"} == dict(zip("qkv", [c == "U" for c in choice["state"]], strict=True))


@pytest.mark.parametrize("best", ["UU", "UN", "NU", "NN"])
@pytest.mark.parametrize("fused", [False, True])
def test_kl_returns_the_versions_of_the_state_it_found(best: str, fused: bool) -> None:
    """With attention that only the wanted versions of q and k leave as it was, and a large ρ."""
    weights, known, _ = site(7)
    forms = {name: D2Prune(no_update=option).prune(weights, known, [Target(0.5)] * 3) for name, option in FORMS.items()}
    pruned = {
        name: [f.weight if f.weight is not None else w.masked_fill(f.mask, 0) for f, w in zip(each, weights, strict=True)]
        for name, each in forms.items()
    }
    wanted = [weights[:2], [pruned[version][place] for place, version in enumerate(best)]]

    def attention(given: Sequence[Tensor], samples: int) -> Iterator[Tensor]:
        query, key = torch.cat(list(given)).chunk(3)[:2]
        same = any(torch.allclose(query, q) and torch.allclose(key, k) for q, k in wanted)
        yield torch.tensor([[[0.5, 0.5]]]) if same else torch.tensor([[[0.1, 0.9]]])

    around = Surroundings(attention)
    if fused:
        outputs = {"attn.c_attn": NormSums(6, torch.cat([norms.sums for norms in known.outputs.values()], dim=1))}
        given, known = [torch.cat(weights)], replace(known, outputs=outputs)
    else:
        given = weights
    found = D2Prune(dynamic="kl", rho=1000).prune_in(given, known, [Target(0.5)] * len(given), around)
    state = around.choices["state"]
    still = "".join(letter for letter, version in zip("qkv", state, strict=True) if version == "N")
    assert state[:2] == best and around.choices["no_update"] == (still or "none")
    assert torch.equal(torch.cat([one.mask for one in found]), torch.cat([forms[z][i].mask for i, z in enumerate(state)]))
    kept = [one.weight if one.weight is not None else w.masked_fill(one.mask, 0) for one, w in zip(found, given, strict=True)]
    assert torch.equal(torch.cat(kept), torch.cat([pruned[z][i] for i, z in enumerate(state)]))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=6, max_size=6), st.lists(st.integers(0, 3), min_size=4, max_size=4))
def test_kl_is_never_worse_than_a_fixed_choice_and_ties_go_to_updates(errors: list[int], divergences: list[int]) -> None:
    table = {letter: {"U": errors[2 * i] / 9, "N": errors[2 * i + 1] / 9} for i, letter in enumerate("qkv")}
    found = kl_objective(table, 1.0, dict(zip(["UU", "UN", "NU", "NN"], [d / 9 for d in divergences], strict=True)), 1.0)
    best = found.per_state[found.best_state]["objective"]
    for state in map("".join, product("UN", repeat=3)):
        objective = found.per_state[state]["objective"]
        assert best <= objective
        if objective == best:
            count = found.best_state.count("N")
            assert count < state.count("N") or (count == state.count("N") and found.best_state >= state)  # "U" > "N"


@pytest.mark.parametrize("metric", ["weight", "score"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_outlier_leaves_the_most_uneven_weight_alone(
    metric: str, family: str, tiny_model: TinyModel, tokens: Tensor, tmp_path: Path
) -> None:
    recipe = Recipe("d2prune", 0.5, options={"dynamic": "outlier", "outlier_metric": metric})
    run = prune(tiny_model(family), recipe, tokens, tmp_path / "run")
    choices, stream = read_json(run / "choices.json"), StreamedModel(tiny_model(family), CPU)
    for index, changed in enumerate(updated(tiny_model(family), run)):
        choice = choices[f"block_{index:03d}"]
        assert choice["share"][choice["no_update"]] == max(choice["share"].values())
        assert [letter for letter in "qkv" if not changed[letter]] == [choice["no_update"]]
        if metric == "weight":
            with stream.block(index) as block:
                weights = [weight_of(linear_at(block, path)) for path in stream.adapter.sites[0].linears]
                parts = torch.cat(weights).chunk(3) if len(weights) == 1 else weights
                assert choice["share"] == outlier_shares(dict(zip("qkv", [part.abs() for part in parts], strict=True)))


def test_kl_gives_the_same_bytes_in_pieces_and_after_a_kill(
    tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = torch.randint(0, 96, (300, 32), generator=torch.Generator().manual_seed(2), dtype=torch.int32)
    recipe = Recipe("d2prune", 0.5, options={"dynamic": "kl", "samples": 3, "scale": "kmeans"})

    def run(name: str, memory: int) -> None:
        work = tmp_path / f"{name}-work"
        out, kept = tmp_path / name, {"settings": {}, "tokens": tokens, "device": "cpu", "progress": False}
        engine.prune(tiny_model("llama"), recipe, out, work=work, memory=memory, **kept)

    run("whole", 1 << 30)
    write = PrunedStore.write

    def killed(store: PrunedStore, block: int, linears: Any) -> None:
        if block == 1:
            raise KeyboardInterrupt
        write(store, block, linears)

    monkeypatch.setattr(PrunedStore, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        run("pieces", 0)
    monkeypatch.undo()
    run("pieces", 0)
    assert identity(tmp_path / "whole") == identity(tmp_path / "pieces")
    assert sorted(read_json(tmp_path / "pieces" / "choices.json")) == ["block_000", "block_001", "block_002"]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=7, unique=True))
def test_two_means_is_exact(values: list[float]) -> None:
    """Against every way to cut the values into two sets."""

    def spread(cluster: tuple[float, ...]) -> float:
        return sum((value - sum(cluster) / len(cluster)) ** 2 for value in cluster)

    norms = torch.tensor(values, dtype=torch.float64)
    cuts = []
    for size in range(1, len(values)):
        for chosen in combinations(values, size):
            rest = tuple(value for value in values if value not in chosen)
            means = [sum(value**2 for value in cluster) / len(cluster) for cluster in (chosen, rest)]
            cuts.append((spread(chosen) + spread(rest), min(means)))
    cost, scale = min(cuts)
    assume(all(other > cost * (1 + 1e-9) + 1e-9 or abs(means - scale) < 1e-9 for other, means in cuts))
    assert two_means_scale(norms) == pytest.approx(scale)


def test_two_means_of_equal_or_dead_outputs() -> None:
    assert two_means_scale(torch.full((5,), 3.0)) == 9
    assert two_means_scale(torch.tensor([3.0])) == 9
    assert two_means_scale(torch.zeros(5)) == 1
    assert two_means_scale(torch.tensor([0.0, 0.0, 2.0, 2.0])) == 2


@pytest.mark.parametrize("scale", ["auto", "kmeans"])
def test_scales_are_applied_to_outputs_and_inputs(scale: str) -> None:
    weights, statistics, inputs = site(5)
    outputs = (inputs @ weights[0].T + 1).norm(dim=1)
    s = 24.0 if scale == "auto" else two_means_scale(outputs.mean(dim=0))
    one = D2Prune(scale=scale, no_update="all").prune(weights, statistics, [Target(0.5)] * 3)[0]
    order = torch.arange(1, 7)[:, None]
    y = (outputs.mean(dim=0) if scale == "kmeans" else (outputs * order).mean(dim=0)) / s
    scores = weights[0] ** 2 * statistics.input_energy + y[:, None] * weights[0].abs()
    assert torch.equal(one.mask, scores.argsort(dim=1).argsort(dim=1) < 16)


def test_the_search_keeps_the_lowest_perplexity(tiny_model: TinyModel, tokens: Tensor, tmp_path: Path) -> None:
    recipe = Recipe("d2prune", 0.7)
    validation = torch.randint(0, 96, (500,), generator=torch.Generator().manual_seed(4))
    found = search_no_update(
        tiny_model("llama"), recipe, tokens, validation, tmp_path / "search", length=32, candidates="full", device="cpu"
    )
    assert set(found.perplexities) == {"", "q", "k", "v", "qk", "qv", "kv", "qkv"}
    letters = "" if found.no_update == "none" else found.no_update
    assert found.perplexities[letters] == min(found.perplexities.values())
    model = secateur.assemble(tiny_model("llama"), found.run, device="cpu")
    assert secateur.perplexity(model, validation, 32)["perplexity"] == found.perplexities[letters]
    assert found.report()["perplexity"]["none"] == found.perplexities[""]


def test_ties_and_overflow_in_the_search() -> None:
    assert lowest_perplexity({"v": 2.0, "qk": 1.0, "k": 1.0, "q": 1.0}) == "q"
    assert lowest_perplexity({"q": math.nan, "k": math.inf, "v": 9.0}) == "v"
    assert lowest_perplexity({"qkv": 1.0, "": 1.0}) == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "papr"}, "mode 'papr'"),
        ({"scale": "log"}, "scale 'log'"),
        ({"dynamic": "ppl"}, "dynamic 'ppl'"),
        ({"s": 0.0}, "s 0.0: must be above 0"),
        ({"r2": -1.0}, "r2 -1.0: must be at least 0"),
        ({"no_update": "qq"}, "no_update 'qq': must be letters of 'qkv', 'none', 'all' or one of opt-125m"),
        ({"no_update": ""}, "no_update ''"),
        ({"no_update": "o"}, "no_update 'o'"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        D2Prune(**options)


def test_presets_are_letters() -> None:
    assert D2Prune(no_update="llama-2-7b").letters == "v"
    assert D2Prune(no_update="none").letters == "" and D2Prune(no_update="all").letters == "qkv"


def test_kl_without_inputs_and_statistics_without_norms_are_refused(
    tiny_model: TinyModel, tokens: Tensor, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="use propagation 'block' or 'site'"):
        recipe = Recipe("d2prune", 0.5, propagation="dense", options={"dynamic": "kl"})
        prune(tiny_model("llama"), recipe, tokens, tmp_path / "run")
    weights, statistics, _ = site(6)
    bare = SiteStatistics(6, 144, statistics.input_sum, statistics.input_square_sum, statistics.gram)
    with pytest.raises(UserError, match="needs the bundle 'outputs'"):
        D2Prune().prune(weights, bare, [Target(0.5)] * 3)
